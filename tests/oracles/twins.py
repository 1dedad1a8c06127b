"""Random twins: transformers' DeepseekV3 and ours with the same weights, every one of them loud.

With ordinary initialization a twin notices neither an ignored norm weight nor an ignored selection
bias, so here norm weights are uniform in 0.5..1.5, matrices normal with 1.5 / sqrt(fan in), biases
normal with 0.5. All sizes of a config differ from each other, so that a mixed-up axis cannot fit by
accident.

    from tests.oracles import twins
    twin = twins.twin("lora-g4-s2-yarn")     # built once per process; do not change it
    twin.config, twin.weights                # HF tensor name -> float32 tensor, as in a checkpoint
    twin.theirs                              # the transformers model
    ours = twin.ours()                       # a fresh K2Model that holds the same numbers
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from abruzzi.arch import ModelConfig, YarnScaling
from abruzzi.model.k2 import K2Model

# Short original length and a small theta, so that a short sequence turns through the scaled
# frequencies.
YARN = YarnScaling(16.0, 16, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)

PLAIN = ModelConfig(
    vocab_size=101,
    hidden_size=64,
    intermediate_size=72,
    moe_intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=4,
    n_routed_experts=16,
    num_experts_per_tok=3,
    kv_lora_rank=24,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    q_lora_rank=28,
    routed_scaling_factor=2.827,
    rope_theta=1000.0,
    max_position_embeddings=256,
    bos_token_id=0,
    eos_token_id=1,
)


def _grid() -> dict[str, ModelConfig]:
    configs = {}
    for lora, groups, shared, yarn in product((28, None), (1, 4), (1, 2), (None, YARN)):
        name = f"{'lora' if lora else 'q'}-g{groups}-s{shared}-{'yarn' if yarn else 'rope'}"
        configs[name] = replace(
            PLAIN,
            q_lora_rank=lora,
            n_group=groups,
            topk_group=max(1, groups // 2),
            n_shared_experts=shared,
            rope_scaling=yarn,
            rms_norm_eps=1e-5 if (shared == 2) == (yarn is not None) else 1e-6,
        )
    return configs


CONFIGS: dict[str, ModelConfig] = {
    **_grid(),
    # beta 32/1 is a ramp instead of K2's step, and unequal mscales make cos and sin carry a factor
    "ramp": replace(PLAIN, rope_scaling=YarnScaling(4.0, 64, 32.0, 1.0, mscale=0.7, mscale_all_dim=1.3)),
    "no-mscale": replace(PLAIN, rope_scaling=YarnScaling(16.0, 16, 1.0, 1.0)),
    "raw-weights": replace(PLAIN, norm_topk_prob=False, rms_norm_eps=1e-5),
    "all-moe": replace(PLAIN, first_k_dense_replace=0, q_lora_rank=None),
    "all-dense": replace(PLAIN, first_k_dense_replace=3),
    # sizes that torch's grouped product refuses: the loop runs instead
    "odd-sizes": replace(PLAIN, hidden_size=63, moe_intermediate_size=19, n_group=4, topk_group=2),
}


@dataclass(frozen=True)
class Twin:
    """The same random model twice."""

    config: ModelConfig
    theirs: Any  # DeepseekV3ForCausalLM, whose types are too loose to follow its attributes
    weights: dict[str, Tensor]

    def ours(self, config: ModelConfig | None = None) -> K2Model:
        """A fresh model with these weights, loaded strictly; `config` may differ in what has no
        weights."""
        model = K2Model(config or self.config)
        model.load_state_dict(self.weights, strict=True)
        return model.eval()

    def ids(self, batch: int = 2, length: int = 33, seed: int = 0) -> Tensor:
        """Random ids [batch, length]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.config.vocab_size, (batch, length), generator=generator)


@functools.cache
def twin(name: str, seed: int = 0) -> Twin:
    """The twin of CONFIGS[name]; cached, so leave it as it is."""
    return make_twin(CONFIGS[name], seed)


def make_twin(config: ModelConfig, seed: int = 0) -> Twin:
    """A twin of any config, all tensors random and loud."""
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}  # transformers' own slow paths
    given: dict[str, Any] = {**config.to_dict(rope_style="rope_parameters"), **eager}
    theirs = DeepseekV3ForCausalLM(DeepseekV3Config(**given)).eval()
    randomize(theirs, torch.Generator().manual_seed(seed))
    return Twin(config, theirs, hf_tensors(theirs, config))


@torch.no_grad()
def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Every parameter and the selection bias, each with its own loud distribution."""
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(0.5 * noise)
        elif tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        else:  # [out, in], and fused experts [experts, out, in]: the last axis is the fan in
            tensor.copy_(noise * 1.5 / tensor.shape[-1] ** 0.5)


def hf_tensors(theirs: nn.Module, config: ModelConfig, grads: bool = False) -> dict[str, Tensor]:
    """transformers' tensors (or their gradients) under the names of a checkpoint, fused experts
    taken apart."""
    out: dict[str, Tensor] = {}
    source = dict(theirs.state_dict())
    if grads:
        source = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    for name, tensor in source.items():
        at, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for e, both in enumerate(tensor):
                gate, up = both.split(config.moe_intermediate_size)
                out[f"{at}.{e}.gate_proj.weight"], out[f"{at}.{e}.up_proj.weight"] = gate.clone(), up.clone()
        elif last == "down_proj":
            out |= {f"{at}.{e}.down_proj.weight": down.clone() for e, down in enumerate(tensor)}
        else:
            out[name] = tensor.clone()
    return out


@torch.no_grad()
def their_logits(twin: Twin, ids_BT: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """transformers' logits, and which experts each MoE layer chose: layer -> [B, T, K]."""
    chosen: dict[int, Tensor] = {}

    def recorder(layer: int):
        def record(module: nn.Module, args: object, output: tuple[Tensor, Tensor, Tensor]) -> None:
            chosen[layer] = output[2].unflatten(0, tuple(ids_BT.shape))

        return record

    hooks = [
        layer.mlp.gate.register_forward_hook(recorder(i))
        for i, layer in enumerate(twin.theirs.model.layers)
        if twin.config.is_moe_layer(i)
    ]
    try:
        return twin.theirs(ids_BT, use_cache=False).logits, chosen
    finally:
        for hook in hooks:
            hook.remove()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())

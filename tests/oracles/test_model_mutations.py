"""The oracle is tested: each planted mistake in our model must move the logits far away from
transformers'."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model import k2
from abruzzi.model.attention import mla
from abruzzi.model.attention.mla import Attention
from abruzzi.model.k2 import K2Model
from abruzzi.model.moe import Router
from abruzzi.model.norm import RMSNorm
from tests.oracles import twins

LOUD = 1e-2  # of the largest logit; the oracle's limit is 1e-4

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch, K2Model], None]


def no_rope(patch: Patch, model: K2Model) -> None:
    patch.setattr(mla, "rotate", lambda x, cos, sin: x)


def half_split_rope(patch: Patch, model: K2Model) -> None:
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    patch.setattr(mla, "rotate", rotate)


def rope_turned_backwards(patch: Patch, model: K2Model) -> None:
    forward = mla.rotate
    patch.setattr(mla, "rotate", lambda x, cos, sin: forward(x, cos, sin if x.ndim == 4 else -sin))


def yarn_frequencies_left_out(patch: Patch, model: K2Model) -> None:
    plain = replace(model.config, rope_scaling=None)
    rotations = k2.rotations
    patch.setattr(k2, "rotations", lambda config, positions: rotations(plain, positions))


def mscale_left_out(patch: Patch, model: K2Model) -> None:
    for layer in model.layers():
        layer.self_attn.softmax_scale = model.config.qk_head_dim**-0.5


def norm_weight_ignored(patch: Patch, model: K2Model) -> None:
    patch.setattr(RMSNorm, "forward", lambda self, x: F.rms_norm(x, x.shape[-1:], eps=self.eps))


def rotary_key_normed(patch: Patch, model: K2Model) -> None:
    latents = Attention._latents

    def normed(self: Attention, x_BTD: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        c_kv, k_pe = latents(self, x_BTD, rotation)
        return c_kv, F.rms_norm(k_pe, k_pe.shape[-1:])

    patch.setattr(Attention, "_latents", normed)


def values_before_keys(patch: Patch, model: K2Model) -> None:
    """kv_b_proj's rows read as value then key."""
    for layer in model.layers():
        attention = layer.self_attn
        heads = attention.kv_b_proj.weight.data.unflatten(0, (attention.heads, -1))
        attention.kv_b_proj.weight.data = heads.roll(attention.value, 1).flatten(0, 1)


def future_seen(patch: Patch, model: K2Model) -> None:
    def everything(ids: Tensor, *_: object) -> Tensor:
        tokens = ids.shape[1]
        return torch.ones(tokens, tokens, dtype=torch.bool)

    patch.setattr(k2, "_mask", everything)


def bias_ignored(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        moe.gate.e_score_correction_bias.zero_()


def bias_in_the_weights(patch: Patch, model: K2Model) -> None:
    weigh = Router.weigh
    patch.setattr(
        Router, "weigh", lambda self, score, chosen: weigh(self, score + self.e_score_correction_bias, chosen)
    )


def softmax_scores(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        weigh = moe.gate.weigh
        moe.gate.weigh = lambda score_TE, expert_TK, weigh=weigh: weigh(score_TE.logit().softmax(-1), expert_TK)


def no_renormalization(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        moe.gate.renormalize = False


def no_routed_scale(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        moe.gate.scale = 1.0


def group_mask_off(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        moe.gate.groups = 1


def group_mask_of_zero(patch: Patch, model: K2Model) -> None:
    """What older software did: dropped groups compete with score 0 instead of minus infinity."""
    masked_fill = Tensor.masked_fill
    patch.setattr(
        Tensor, "masked_fill", lambda self, mask, value: masked_fill(self, mask, 0.0 if self.ndim == 3 else value)
    )


def one_shared_expert_dropped(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        inner = model.config.moe_intermediate_size
        moe.shared_experts.down_proj.weight.data[:, inner:] = 0


def gate_and_up_swapped(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        experts = moe.experts
        experts.gate_proj.data, experts.up_proj.data = experts.up_proj.data, experts.gate_proj.data


def experts_shifted(patch: Patch, model: K2Model) -> None:
    for moe in model.moe_layers().values():
        moe.experts.down_proj.data = moe.experts.down_proj.data.roll(1, 0)


FULL = "lora-g4-s2-yarn"
MUTATIONS: list[tuple[Mutation, str]] = [
    (no_rope, FULL),
    (no_rope, "q-g1-s1-rope"),
    (half_split_rope, FULL),
    (rope_turned_backwards, FULL),
    (yarn_frequencies_left_out, FULL),
    (mscale_left_out, FULL),
    (norm_weight_ignored, FULL),
    (rotary_key_normed, FULL),
    (values_before_keys, FULL),
    (future_seen, FULL),
    (bias_ignored, FULL),
    (bias_ignored, "q-g1-s1-rope"),
    (bias_in_the_weights, FULL),
    (bias_in_the_weights, "raw-weights"),
    (softmax_scores, FULL),
    (no_renormalization, FULL),
    (no_routed_scale, FULL),
    (group_mask_off, FULL),
    (one_shared_expert_dropped, FULL),
    (gate_and_up_swapped, FULL),
    (experts_shifted, FULL),
]


@pytest.mark.parametrize(("mutation", "name"), MUTATIONS, ids=[f"{m.__name__}-{n}" for m, n in MUTATIONS])
def test_a_planted_mistake_is_loud(mutation: Mutation, name: str, monkeypatch: Patch, record_property) -> None:
    twin = twins.twin(name)
    ids = twin.ids()
    want, _ = twins.their_logits(twin, ids)
    model = twin.ours()
    with torch.no_grad():
        assert twins.difference(model(ids), want) <= 1e-4
        mutation(monkeypatch, model)
        far = twins.difference(model(ids), want)
    record_property("difference", far)
    print(f"{mutation.__name__} on {name}: {far:.3f}")
    assert far > LOUD


def test_a_group_mask_of_zero_is_loud(monkeypatch: Patch) -> None:
    """It differs from minus infinity only where kept biased scores are negative: push the bias
    down."""
    twin = twins.make_twin(twins.CONFIGS["lora-g4-s1-rope"])
    weights = {k: v - 1.0 if k.endswith("correction_bias") else v for k, v in twin.weights.items()}
    for layer in (1, 2):
        twin.theirs.model.layers[layer].mlp.gate.e_score_correction_bias -= 1.0
    ids = twin.ids()
    want, _ = twins.their_logits(twin, ids)
    model = twin.ours()
    model.load_state_dict(weights)
    with torch.no_grad():
        assert twins.difference(model(ids), want) <= 1e-4
        group_mask_of_zero(monkeypatch, model)
        assert twins.difference(model(ids), want) > LOUD


def _every_kind_of_tensor(name: str) -> list[str]:
    return sorted({re.sub(r"experts\.\d+\.", "experts.*.", key) for key in twins.twin(name).weights})


def test_every_tensor_reaches_the_logits() -> None:
    """Each tensor on its own made neutral (norms 1, everything else 0): none may go unnoticed."""
    twin = twins.twin(FULL)
    ids = twin.ids()
    want, _ = twins.their_logits(twin, ids)
    quiet = {}
    for kind in _every_kind_of_tensor(FULL):
        model = twin.ours()
        for key, tensor in model.state_dict().items():
            if re.sub(r"experts\.\d+\.", "experts.*.", key) == kind:
                tensor.fill_(1.0 if "norm" in key else 0.0)
        with torch.no_grad():
            far = twins.difference(model(ids), want)
        if far <= LOUD:
            quiet[kind] = far
    assert not quiet

"""Our model against transformers' DeepseekV3 with the same loud random weights: logits, gradients,
names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RMSNorm,
    DeepseekV3TopkRouter,
)

from abruzzi.model import fast
from abruzzi.model.k2 import K2Model
from abruzzi.model.moe import Router
from abruzzi.model.norm import RMSNorm
from abruzzi.model.trace import Trace
from tests.oracles import twins

CLOSE = 1e-4  # of the largest logit, float32

Record = Callable[[str, object], None]


@pytest.mark.parametrize("name", twins.CONFIGS)
def test_logits_equal_with_routing_free_and_pinned(name: str, record_property: Record) -> None:
    twin = twins.twin(name)
    ids = twin.ids()
    want, chosen = twins.their_logits(twin, ids)
    ours, trace = twin.ours(), Trace()
    with torch.no_grad():
        free = twins.difference(ours(ids, trace=trace), want)
        pinned = twins.difference(ours(ids, routing=chosen), want)
        absorbed = twins.difference(ours(ids, attention="absorbed"), want)
    for label, value in (("free", free), ("pinned", pinned), ("absorbed", absorbed)):
        record_property(f"largest_difference_{label}", value)
    print(f"{name}: free {free:.1e}, pinned {pinned:.1e}, absorbed {absorbed:.1e} of the largest logit")
    assert max(free, pinned, absorbed) <= CLOSE
    assert trace.expert_ids.keys() == chosen.keys()
    for layer, ids_BTK in chosen.items():
        assert torch.equal(trace.expert_ids[layer].sort(-1).values, ids_BTK.sort(-1).values)


def test_pinned_routing_is_obeyed() -> None:
    """Experts that the router would not take: both models are made to use them and still agree."""
    twin = twins.twin("lora-g4-s2-yarn")
    ids = twin.ids()
    _, chosen = twins.their_logits(twin, ids)
    other = {i: (e + 1) % twin.config.n_routed_experts for i, e in chosen.items()}
    with torch.no_grad():
        ours = twin.ours()(ids, routing=other)
        want = _their_logits_routed(twin, ids, other)
        free = twin.ours()(ids)
    assert twins.difference(ours, want) <= CLOSE
    assert twins.difference(ours, free) > 1e-2


@pytest.mark.parametrize("packed", [False, True])  # a row of one document is attended to in another way
@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("name", ["lora-g4-s2-yarn", "q-g1-s1-rope", "odd-sizes"])
def test_gradients_equal(name: str, on: bool, packed: bool) -> None:
    """Every parameter's gradient of one cross-entropy; the router's and the single experts'
    included."""
    twin = twins.make_twin(twins.CONFIGS[name])
    ids = twin.ids()
    twin.theirs.zero_grad()
    _loss(twin.theirs(ids, use_cache=False).logits, ids).backward()
    want = twins.hf_tensors(twin.theirs, twin.config, grads=True)
    ours = twin.ours()
    fast.enable(ours, on)
    _loss(ours(ids, segments_BT=torch.zeros_like(ids) if packed else None), ids).backward()
    got = _named_gradients(ours)
    assert got.keys() == want.keys()
    worst = max(twins.difference(got[k], g) for k, g in want.items() if bool(g.any()))
    print(f"{name}: gradients differ by at most {worst:.1e} of each tensor's largest")
    assert worst <= CLOSE
    silent = {k for k, g in want.items() if not bool(g.any())}
    assert all(".experts." in k for k in silent)  # experts that no token chose
    assert all(not bool(got[k].any()) for k in silent)


def test_a_file_that_transformers_wrote_loads_strictly(tmp_path: Path) -> None:
    twin = twins.twin("lora-g4-s2-yarn")
    twin.theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model = K2Model(twin.config)
    model.load_state_dict(stored, strict=True)
    assert list(model.state_dict()) != [] and set(model.state_dict()) == set(stored)
    ids = twin.ids()
    with torch.no_grad():
        assert twins.difference(model(ids), twins.their_logits(twin, ids)[0]) <= CLOSE


def test_latent_norms_use_1e6_whatever_the_config_says() -> None:
    """On the attention module alone, with inputs so small that eps decides; config eps of 1e-2."""
    config = replace(twins.CONFIGS["lora-g1-s1-rope"], rms_norm_eps=1e-2)
    twin = twins.make_twin(config)
    ours = twin.ours().layers()[0].self_attn
    theirs = twin.theirs.model.layers[0].self_attn
    assert isinstance(theirs, DeepseekV3Attention)
    x_BTD = 1e-3 * torch.randn(1, 5, config.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(5)[None]
    cos, sin = twin.theirs.model.rotary_emb(x_BTD, positions)
    causal = torch.zeros(1, 1, 5, 5).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), float("-inf"))
    with torch.no_grad():
        want = theirs(x_BTD, (cos, sin), causal)[0]
        rotation = (cos[..., : cos.shape[-1] // 2], sin[..., : sin.shape[-1] // 2])
        got = ours(x_BTD, rotation, None)
        assert twins.difference(got, want) < 1e-5
        ours.kv_a_layernorm.eps = ours.q_a_layernorm.eps = config.rms_norm_eps
        assert twins.difference(ours(x_BTD, rotation, None), want) > 0.5


@pytest.mark.parametrize("name", ["lora-g4-s2-yarn", "q-g1-s1-rope"])
def test_max_logits_are_those_that_transformers_puts_into_its_softmax(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, seen = twins.twin(name), []
    eager = modeling_deepseek_v3.eager_attention_forward

    def watch(module, query, key, value, attention_mask, scaling, **more):
        seen.append((query @ key.mT * scaling + attention_mask).amax((0, 2, 3)))
        return eager(module, query, key, value, attention_mask, scaling, **more)

    monkeypatch.setattr(modeling_deepseek_v3, "eager_attention_forward", watch)
    ids = twin.ids()
    twins.their_logits(twin, ids)
    trace = Trace(max_logits=True)
    with torch.no_grad():
        twin.ours()(ids, trace=trace)
    assert list(trace.max_logit_N) == [0, 1, 2] and len(seen) == 3
    for layer, want in enumerate(seen):
        assert torch.allclose(trace.max_logit_N[layer], want, rtol=CLOSE)


@pytest.mark.parametrize("name", ["lora-g1-s1-rope", "lora-g4-s1-rope"])
def test_ties_go_where_transformers_sends_them(name: str) -> None:
    """All scores equal, or equal in blocks that cross the groups' borders."""
    config = twins.CONFIGS[name]
    theirs, ours = DeepseekV3TopkRouter(twins.make_twin(config).theirs.config), Router(config)
    x = torch.randn(40, config.hidden_size, generator=torch.Generator().manual_seed(0))
    for block in (1, 3, 6):
        with torch.no_grad():
            rows = torch.randn(16, config.hidden_size, generator=torch.Generator().manual_seed(1))
            weight = torch.zeros_like(rows) if block == 1 else rows[torch.arange(16) // block]
            theirs.weight.copy_(weight)
            ours.weight.copy_(weight)
            theirs.e_score_correction_bias.zero_()
            want = theirs(x)[2]
        assert torch.equal(ours(x)[0].sort(-1).values, want.sort(-1).values)


def test_the_norm_in_bfloat16_equals_theirs_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, 64, generator=generator) * 3, torch.rand(64, generator=generator) + 0.5
    theirs, ours = DeepseekV3RMSNorm(64, eps=1e-5), RMSNorm(64, eps=1e-5)
    for norm in (theirs, ours):
        norm.weight.data = weight.bfloat16()
    assert torch.equal(ours(x.bfloat16()), theirs(x.bfloat16()))


def test_the_twin_itself_is_loud() -> None:
    """No tensor of the twin is constant, and each kind has the spread it promises."""
    for name, tensor in twins.twin("lora-g4-s2-yarn").weights.items():
        if name.endswith("bias"):
            assert 0.25 < tensor.std() < 0.9, name
        elif tensor.ndim == 1:
            assert tensor.min() >= 0.5 and tensor.max() <= 1.5 and tensor.std() > 0.15, name
        else:
            assert abs(tensor.std() * tensor.shape[1] ** 0.5 / 1.5 - 1) < 0.15, name


def _loss(logits_BTV: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())


def _named_gradients(model: K2Model) -> dict[str, torch.Tensor]:
    """Gradients under the checkpoint's names: put into the parameters' places and read by
    state_dict."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    return {k: v.clone() for k, v in model.state_dict().items() if not k.endswith("e_score_correction_bias")}


def _their_logits_routed(twin: twins.Twin, ids_BT: torch.Tensor, routing: dict[int, torch.Tensor]) -> torch.Tensor:
    """transformers with given experts; weights from its own scores by the formula of the
    DeepSeek-V3 report."""
    hooks = []
    for layer, ids_BTK in routing.items():

        def swap(module, args, output, pinned=ids_BTK):
            chosen = pinned.flatten(0, 1)
            scores = output[0].sigmoid().gather(1, chosen)
            return output[0], scores / scores.sum(-1, keepdim=True) * module.routed_scaling_factor, chosen

        hooks.append(twin.theirs.model.layers[layer].mlp.gate.register_forward_hook(swap))
    try:
        return twin.theirs(ids_BT, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()

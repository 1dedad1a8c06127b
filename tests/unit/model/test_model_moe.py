"""Experts: all ways to multiply agree; state_dict speaks the checkpoint's names, strictly; the
router's score."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.arch import ModelConfig
from abruzzi.model import fast, moe
from abruzzi.model.fast import fused_experts, grouped_experts
from abruzzi.model.fast.norm import rms_norm
from abruzzi.model.k2 import K2Model
from abruzzi.model.moe import Experts, Mlp, Router
from abruzzi.model.norm import RMSNorm
from abruzzi.model.trace import Trace

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=40,
    moe_intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    n_routed_experts=6,
    num_experts_per_tok=2,
    kv_lora_rank=12,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=10,
)


Module = TypeVar("Module", bound=torch.nn.Module)


def loud(model: Module, seed: int = 0) -> Module:
    """Every parameter normal with 1.5 / sqrt(fan in)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 1.5 / p.shape[-1] ** 0.5)
    return model


WAYS = {
    "grouped": grouped_experts.experts,
    "fused": fused_experts.experts,
    "by the rule": fast.experts,
}


def run_experts(way: Any, chosen: Tensor, dtype: torch.dtype, autocast: bool = False) -> list[Tensor]:
    """Output and all gradients."""
    experts = loud(Experts(CONFIG)).to(dtype)
    experts.product = way
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(chosen), 32, generator=generator).to(dtype).requires_grad_()
    weights = torch.rand(chosen.shape, generator=generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = experts(x, chosen, weights)
    assert out.dtype == dtype
    out.backward(torch.randn(out.shape, generator=generator).to(dtype))
    return [out.detach(), *(t.grad for t in (x, weights, *experts.parameters()) if t.grad is not None)]


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)]
)
@pytest.mark.parametrize(
    "chosen",
    [
        torch.tensor([[0, 3], [3, 1], [0, 5], [5, 3], [1, 0]]),  # experts 2 and 4 get nothing
        torch.tensor([[5, 4]]),  # one token; the first experts are the empty ones
        torch.randint(0, 6, (64, 2), generator=torch.Generator().manual_seed(2)),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_to_multiply_equal_the_plain_one_with_gradients(
    chosen: Tensor, dtype: torch.dtype, autocast: bool, way: str
) -> None:
    loop = run_experts(moe.one_by_one, chosen, dtype, autocast)
    other = run_experts(WAYS[way], chosen, dtype, autocast)
    assert len(loop) == len(other) == 6
    tolerance = 1e-6 if dtype == torch.float32 and not autocast else 2e-2
    for a, b in zip(loop, other):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_dense_block_has_the_gradients_that_torch_derives(dtype: torch.dtype, tolerance: float) -> None:
    mlp = loud(Mlp(32, 24))
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4), requires_grad=True)
    given = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(5))

    def everything(out: Tensor) -> list[Tensor]:
        return [out.detach().float(), *torch.autograd.grad(out, (x, *mlp.parameters()), given.to(out.dtype))]

    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        plain = mlp(x)
        mlp.product = fast.swiglu
        fused = mlp(x)
    assert fused.grad_fn is not plain.grad_fn and fused.dtype == plain.dtype == dtype
    for a, b in zip(everything(fused), everything(plain)):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_the_norm_has_the_gradients_that_torch_derives() -> None:
    generator = torch.Generator().manual_seed(6)
    norm = RMSNorm(32, eps=1e-3)
    x = torch.randn(3, 5, 32, generator=generator, requires_grad=True)
    given = torch.randn(3, 5, 32, generator=generator)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(32, generator=generator) + 0.5)
    plain = norm(x)
    norm.norm = rms_norm
    with_our_backward = norm(x)
    assert plain.grad_fn is not with_our_backward.grad_fn and torch.equal(plain, with_our_backward)
    want = torch.autograd.grad(F.rms_norm(x, (32,), norm.weight, 1e-3), (x, norm.weight), given)
    for y in (plain, with_our_backward):
        for a, b in zip(torch.autograd.grad(y, (x, norm.weight), given), want):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_experts_equal_their_formula() -> None:
    """One token at a time, in float64, straight from the sum over its experts."""
    experts, chosen = loud(Experts(CONFIG)), torch.tensor([[0, 3], [2, 1], [5, 0]])
    generator = torch.Generator().manual_seed(3)
    x, weights = torch.randn(3, 32, generator=generator), torch.rand(3, 2, generator=generator)
    gate, up, down = (w.detach().double() for w in (experts.gate_proj, experts.up_proj, experts.down_proj))
    for t in range(3):
        want = torch.zeros(32, dtype=torch.float64)
        for e, w in zip(chosen[t], weights[t]):
            g = gate[e] @ x[t].double()
            want += w * (down[e] @ (g / (1 + (-g).exp()) * (up[e] @ x[t].double())))
        assert (experts(x, chosen, weights)[t] - want).abs().max() < 1e-5 * want.abs().max()


def test_grouped_refuses_sizes_that_the_rule_gives_to_the_plain_way() -> None:
    odd = replace(CONFIG, hidden_size=31)
    x, chosen, weights = torch.randn(3, 31), torch.tensor([[0, 1]] * 3), torch.ones(3, 2)
    experts = loud(Experts(odd))
    with torch.no_grad():
        want = experts(x, chosen, weights)
        experts.product = fast.experts
        assert torch.equal(experts(x, chosen, weights), want)
        experts.product = grouped_experts.experts
        with pytest.raises(RuntimeError, match="16 bytes"):
            experts(x, chosen, weights)


def test_state_dict_has_views_under_the_checkpoints_names() -> None:
    model = K2Model(CONFIG)
    state = model.state_dict()
    name = "model.layers.1.mlp.experts.4.down_proj.weight"
    assert state[name].shape == (32, 16)
    assert not any("experts.gate_proj" in k or "experts.down_proj" in k for k in state if "shared" not in k)
    state[name].fill_(7.0)
    assert (model.moe_layers()[1].experts.down_proj[4] == 7).all()
    assert not state[name].requires_grad
    again = K2Model(CONFIG, seed=1)
    again.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), state.values()))


def test_strict_loading_names_single_experts() -> None:
    model, at = K2Model(CONFIG), "model.layers.1.mlp.experts."
    state = dict(K2Model(CONFIG, seed=1).state_dict())
    missing = {k: v for k, v in state.items() if k != at + "3.up_proj.weight"}
    with pytest.raises(RuntimeError, match=r'Missing key.*"model.layers.1.mlp.experts.3.up_proj.weight"'):
        model.load_state_dict(missing)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*experts.6.up_proj.weight"'):
        model.load_state_dict({**state, at + "6.up_proj.weight": torch.zeros(16, 32)})
    with pytest.raises(RuntimeError, match=r"size mismatch for model.layers.1.mlp.experts.0.gate_proj.weight"):
        model.load_state_dict({**state, at + "0.gate_proj.weight": torch.zeros(32, 16)})
    with pytest.raises(RuntimeError, match="assign=True"):
        model.load_state_dict(state, assign=True)
    loose = model.load_state_dict({**missing, at + "x": torch.zeros(1)}, strict=False)
    assert loose.missing_keys == [at + "3.up_proj.weight"]


def test_the_selection_bias_stays_float32() -> None:
    model = K2Model(CONFIG)
    bias = model.moe_layers()[1].gate.e_score_correction_bias
    bias.copy_(torch.linspace(0, 0.001234567, 6))
    model.bfloat16()
    kept = model.state_dict()["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert kept.dtype == torch.float32 and torch.equal(kept, torch.linspace(0, 0.001234567, 6))
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model(torch.tensor([[1, 2, 3]])).dtype == torch.bfloat16


def test_the_router_computes_in_float32_inside_autocast() -> None:
    router = loud(Router(replace(CONFIG, n_group=2)))
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(5))
    outside = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        inside = router(x)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside)) and inside[2].dtype == torch.float32


def test_a_routers_score_is_an_argument() -> None:
    """softmax over all experts, as Qwen3's and Mixtral's routers have it, against transformers'
    own."""
    from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    theirs = Qwen3MoeTopKRouter(
        Qwen3MoeConfig(hidden_size=32, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True)
    )
    ours = loud(Router(replace(CONFIG, norm_topk_prob=True, routed_scaling_factor=1.0), partial(torch.softmax, dim=-1)))
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
        _, want_weight, want_ids = theirs(x)
        ids, weight, score = ours(x)
        by_sigmoid = loud(Router(CONFIG))(x)[1]
    torch.testing.assert_close(score.sum(-1), torch.ones(40))
    order, want_order = ids.argsort(-1), want_ids.argsort(-1)
    assert torch.equal(ids.gather(-1, order), want_ids.gather(-1, want_order))
    torch.testing.assert_close(weight.gather(-1, order), want_weight.gather(-1, want_order).float())
    assert not torch.allclose(by_sigmoid.gather(-1, order), weight.gather(-1, order), rtol=1e-2)


@pytest.mark.parametrize("way", ["plain", "grouped", "fast"])
def test_backward_under_autocast_is_finite_and_near_float32(way: str) -> None:
    ids = torch.randint(0, 50, (2, 24), generator=torch.Generator().manual_seed(6))
    gradients = []
    for autocast in (False, True):
        model = loud(K2Model(CONFIG))
        fast.enable(model, on=way == "fast")
        if way == "grouped":
            model.moe_layers()[1].experts.product = grouped_experts.experts
        routing = Trace()
        with torch.no_grad():
            model(ids, trace=routing)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(ids, routing=routing.expert_ids)
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, exact in gradients[0].items():
        rough = gradients[1][name]
        assert exact is not None and rough is not None and bool(rough.isfinite().all()) and bool(rough.any()), name
        assert (rough - exact).norm() < 0.1 * exact.norm(), name


def test_a_trace_records_and_changes_nothing() -> None:
    model = loud(K2Model(CONFIG))
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(7))
    trace = Trace(max_logits=True)
    assert torch.equal(model(ids, trace=trace), model(ids))
    assert trace.expert_ids[1].shape == (2, 9, 2) and list(trace.expert_ids) == [1]
    assert trace.router_scores[1].shape == (2, 9, 6) and trace.router_scores[1].requires_grad
    assert int(trace.expert_load()[1].sum()) == 2 * 9 * 2
    keep = torch.zeros(2, 9, dtype=torch.bool)
    keep[0, :4] = True
    want = torch.stack([(trace.expert_ids[1][0, :4] == e).sum() for e in range(6)])
    assert torch.equal(trace.expert_load(keep)[1], want)
    assert torch.equal(model(ids, routing=trace.expert_ids), model(ids))


def test_initial_weights_follow_the_seed() -> None:
    a, b, c = (K2Model(CONFIG, seed=s) for s in (3, 3, 4))
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters()):
        assert torch.equal(x, y)
        if x.ndim == 1:
            assert (x == 1).all()
        else:
            assert not torch.equal(x, z) and abs(float(x.detach().std()) / CONFIG.initializer_range - 1) < 0.2
    assert (a.moe_layers()[1].gate.e_score_correction_bias == 0).all()

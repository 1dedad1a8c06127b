"""MuonClip against torch.optim where the rules coincide, K2's vector, and the logits it is meant to
clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from abruzzi.arch import ModelConfig
from abruzzi.model.attention.mla import Attention
from abruzzi.train.muonclip import MuonClip, newton_schulz


def loud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 4) -> None:
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = loud(*p.shape, seed=100 * step + i)
        optimizer.step()


def pair(*shapes: tuple[int, ...]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    return [nn.Parameter(loud(*s, seed=i)) for i, s in enumerate(shapes)], [
        nn.Parameter(loud(*s, seed=i)) for i, s in enumerate(shapes)
    ]


def test_newton_schulz_equals_the_published_vector(k2_data: Path) -> None:
    vector = json.loads((k2_data / "newton_schulz_vector.json").read_text())
    g = torch.tensor(vector["G"], dtype=torch.float64)
    out = newton_schulz(g)
    torch.testing.assert_close(out, torch.tensor(vector["NS5"], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert newton_schulz(g.T).T.allclose(out, atol=1e-9)
    assert not newton_schulz(g, steps=4).allclose(out, atol=1e-2)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_muon_equals_torch_optim_muon(shape: tuple[int, int]) -> None:
    ours, theirs = pair(shape, shape)
    mine = MuonClip([{"params": ours, "kind": "muon"}], lr=0.02, weight_decay=0.1)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    run(mine, ours)
    run(peer, theirs)
    for a, b in zip(ours, theirs):
        # Both iterate in bfloat16, from momenta that differ by a constant factor: equal up to its
        # rounding.
        assert (a - b).norm() / (b - loud(*shape, seed=0)).norm() < 2e-2
        assert not torch.allclose(a, loud(*shape, seed=0), atol=1e-3)


def test_experts_are_orthogonalized_one_by_one() -> None:
    (stacked,), (single_source,) = pair((3, 12, 20))
    singles = [nn.Parameter(m.clone()) for m in single_source.data]
    kw = {"lr": 0.02, "ns_dtype": torch.float32}
    a = MuonClip([{"params": [stacked], "kind": "muon"}], **kw)
    b = MuonClip([{"params": singles, "kind": "muon"}], **kw)
    gradient = loud(3, 12, 20, seed=7)
    stacked.grad = gradient.clone()
    for p, g in zip(singles, gradient):
        p.grad = g.clone()
    a.step()
    b.step()
    torch.testing.assert_close(stacked.data, torch.stack([p.data for p in singles]))
    # The whole stack as one matrix would be another update.
    whole = newton_schulz((gradient * 1.95).reshape(36, 20)).reshape(3, 12, 20)
    each = newton_schulz(gradient * 1.95)
    assert (whole - each).norm() / each.norm() > 0.1


def test_adamw_equals_torch_optim_adamw() -> None:
    ours, theirs = pair((50, 8), (9,))
    mine = MuonClip([{"params": ours, "kind": "adamw"}], lr=0.01, weight_decay=0.1)
    peer = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8)
    run(mine, ours)
    run(peer, theirs)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_update_rms_is_what_adamw_has() -> None:
    (p,), _ = pair((64, 256))
    before = p.detach().clone()
    p.grad = loud(64, 256, seed=3)
    MuonClip([{"params": [p], "kind": "muon"}], lr=1.0, weight_decay=0.0).step()
    assert 0.15 < (p - before).square().mean().sqrt() < 0.25


def test_wrong_groups_are_named() -> None:
    with pytest.raises(ValueError, match="kind None"):
        MuonClip([{"params": [nn.Parameter(loud(2, 2))]}])
    with pytest.raises(ValueError, match=r"\(5,\)"):
        MuonClip([{"params": [nn.Parameter(loud(5))], "kind": "muon"}])


@pytest.mark.parametrize("q_lora_rank", [None, 7])
def test_qk_clip_brings_the_logit_to_tau_and_touches_only_its_head(q_lora_rank: int | None) -> None:
    """Query weights after the bottleneck where there is one: what the products below read."""
    heads, nope, rope, v, rank, width = 3, 4, 2, 5, 6, 7
    config = ModelConfig(
        vocab_size=5,
        hidden_size=width,
        intermediate_size=8,
        moe_intermediate_size=8,
        n_routed_experts=2,
        num_experts_per_tok=1,
        num_hidden_layers=1,
        first_k_dense_replace=1,
        num_attention_heads=heads,
        q_lora_rank=q_lora_rank,
        kv_lora_rank=rank,
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=v,
    )
    attention = Attention(config, 0)
    for i, p in enumerate(attention.parameters()):
        p.data = loud(*p.shape, seed=i)
    q = (attention.q_proj if q_lora_rank is None else attention.q_b_proj).weight.data
    kv = attention.kv_b_proj.weight.data
    x, latent, k_pe = loud(width, seed=13), loud(rank, seed=14), loud(rope, seed=15)

    def logits() -> torch.Tensor:
        qh = (q @ x).view(heads, nope + rope)
        kh = (kv @ latent).view(heads, nope + v)[:, :nope]
        return (qh[:, :nope] * kh).sum(1) + (qh[:, nope:] * k_pe).sum(1)

    before, weights = logits(), {n: p.detach().clone() for n, p in attention.named_parameters()}
    tau = 2.0
    seen = torch.tensor([4 * tau, 1.0, 0.5])  # gamma = 1/4 for head 0
    assert attention.clip_(seen, tau) == 1
    torch.testing.assert_close(logits()[0], before[0] / 4)
    assert torch.equal(logits()[1:], before[1:])
    values = weights["kv_b_proj.weight"].view(heads, nope + v, rank)[:, nope:]
    assert kv.view(heads, nope + v, rank)[:, nope:].equal(values)
    changed = {n for n, p in attention.named_parameters() if not torch.equal(p, weights[n])}
    assert changed == {"kv_b_proj.weight", "q_proj.weight" if q_lora_rank is None else "q_b_proj.weight"}

"""QK-Clip in a run: the logits it sees, the factors it applies, and the explosion that it
prevents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from abruzzi.data.packing import PADDING, Row
from abruzzi.model import K2Model, Trace, fast
from abruzzi.train.loop import RunConfig, Trainer
from tests.unit.train.test_loop import MODEL, RUN, shard

STILL = replace(RUN, lr_muon=0.0, lr_adamw=0.0, bias_rate=0.0, log_every=1, rows_per_step=7)


def loud(model: K2Model, scale: float = 20.0) -> K2Model:
    """Attention logits far from zero, and other ones in every head."""
    with torch.no_grad():
        for layer in model.layers():
            q = layer.self_attn.q_proj.weight.view(2, 12, -1)
            q *= scale * torch.tensor([1.0, 0.02])[:, None, None]
            layer.self_attn.kv_b_proj.weight *= scale
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    rows = shard(0)[:3]
    return tuple(torch.stack([torch.from_numpy(getattr(r, n)) for r in rows]) for n in ("ids_T", "segments_T"))  # type: ignore[return-value]


def document_by_document(model: K2Model, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """The truth [layers, heads]: every document alone, padding left out."""
    largest = torch.full((2, 2), float("-inf"))
    for row, numbers in zip(ids, segments):
        for number in (0, 1):
            alone = Trace(max_logits=True)
            model(row[numbers == number][None], trace=alone)
            largest = largest.maximum(torch.stack(list(alone.max_logit_N.values())))
    return largest


@pytest.mark.parametrize("longest", [1024, 0, None])  # both fast ways to attend to packed rows, and by a mask
@torch.no_grad()
def test_the_largest_logits_of_packed_rows_are_those_of_their_documents(
    longest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loud(K2Model(MODEL, seed=2))
    if longest is not None:
        monkeypatch.setattr(fast, "LONGEST", longest)
        fast.enable(model)
    ids, segments = batch()
    ids[segments == PADDING] = 11  # padding that would be heard if it counted
    want = document_by_document(model, ids, segments)

    def seen(**options: object) -> torch.Tensor:
        trace = Trace(max_logits=True, counted_BT=segments != PADDING, **options)  # type: ignore[arg-type]
        model(ids, segments_BT=segments, trace=trace)
        return torch.stack(list(trace.max_logit_N.values()))

    assert torch.allclose(seen(), want, rtol=1e-5)
    # Where nothing can be above the limit, a bound stands in; where something is, the number is
    # exact.
    above = float(want.flatten().sort().values[1]) * 1.01
    got = seen(above=above)
    assert (want > above).any() and (want <= above).any()
    assert torch.allclose(got[want > above], want[want > above], rtol=1e-5)
    assert (got[want <= above] <= above).all() and (got >= want * (1 - 1e-5)).all()
    # Far above everything, one of the ways tells bounds and the others the numbers.
    assert torch.allclose(seen(above=1e6), want, rtol=1e-5) == (longest != 0)
    # Across documents, or with padding counted, it is another number.
    whole, padded = Trace(max_logits=True), Trace(max_logits=True)
    model(ids, trace=whole)
    assert not torch.allclose(torch.stack(list(whole.max_logit_N.values())), want, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        model(ids, segments_BT=segments, trace=padded)
        assert torch.allclose(seen(), want, rtol=3e-2)


def test_the_bound_saves_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tau far away not one logit is computed for the clip alone, where attention itself does
    not show them."""
    from abruzzi.model.fast import documents

    model, (ids, segments) = K2Model(MODEL), batch()
    fast.enable(model)
    monkeypatch.setattr(fast, "LONGEST", 0)  # as on a GPU, and for long documents
    monkeypatch.setattr(documents, "_only", lambda *a: pytest.fail("logits were computed"))
    model(ids, segments_BT=segments, trace=Trace(max_logits=True, above=100.0))
    with pytest.raises(pytest.fail.Exception, match="were computed"):
        model(ids, segments_BT=segments, trace=Trace(max_logits=True, above=1e-4))


def test_factors_per_head_are_the_papers(tmp_path: Path) -> None:
    """One step at learning rate 0: only the clip changes weights (k2.md 3.2, K2's report, Algorithm
    1)."""
    tau = 0.5
    same = shard(0)
    model = loud(K2Model(MODEL, seed=2))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    trainer = Trainer(replace(STILL, qk_clip_tau=tau, weight_decay=0.0, steps=1), lambda _: same, tmp_path, model)
    ids, segments = (torch.stack([torch.from_numpy(getattr(r, n)) for r in same]) for n in ("ids_T", "segments_T"))
    trace = Trace(max_logits=True, counted_BT=segments != PADDING)
    model(ids, segments_BT=segments, trace=trace)
    seen: list[dict[str, float]] = []
    trainer.train(on_step=seen.append)
    after, clipped = model.state_dict(), 0
    for layer, largest_N in trace.max_logit_N.items():
        name = f"model.layers.{layer}.self_attn."
        ratio = {k: (after[name + k] / before[name + k]) for k in ("q_proj.weight", "kv_b_proj.weight")}
        q, kv = ratio["q_proj.weight"].view(2, 12, -1), ratio["kv_b_proj.weight"].view(2, 16, -1)
        for head, largest in enumerate(largest_N):
            gamma = min(1.0, tau / float(largest))
            clipped += gamma < 1
            assert torch.allclose(q[head, :8], torch.tensor(gamma**0.5), rtol=1e-4)
            assert torch.allclose(q[head, 8:], torch.tensor(gamma), rtol=1e-4)
            assert torch.allclose(kv[head, :8], torch.tensor(gamma**0.5), rtol=1e-4)
            assert (kv[head, 8:] == 1).all()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert all("q_proj" in n or "kv_b_proj" in n for n in changed)  # the shared rotary key stays
    assert 0 < clipped < 4 and seen[0]["clipped_heads"] == clipped
    assert seen[0]["max_logit"] == pytest.approx(max(float(x.max()) for x in trace.max_logit_N.values()), rel=1e-5)
    # The first layer's input is the same as before, so its loudest head stands at tau now.
    again = Trace(max_logits=True, counted_BT=segments != PADDING)
    model(ids, segments_BT=segments, trace=again)
    assert float(again.max_logit_N[0].max()) == pytest.approx(tau, rel=1e-4)


@pytest.mark.parametrize("tau", [5.0, None])
def test_an_explosion_is_clipped_and_the_control_diverges(tmp_path: Path, tau: float | None) -> None:
    """Muon at a rate at which queries and keys grow together, step by step."""
    hot = replace(RUN, steps=45, warmup=0, decay=1, lr_muon=0.2, weight_decay=0.0, log_every=1, qk_clip_tau=tau)
    seen: list[dict[str, float]] = []
    Trainer(hot, shard, tmp_path).train(on_step=seen.append)
    largest = [m["max_logit"] for m in seen]
    if tau is None:
        assert largest[-1] > 100 and largest[-1] > 3 * largest[24] > 9 * largest[14]
    else:
        # Other rows than those that were clipped for may reach further, and so does what a step
        # adds.
        assert max(largest) < 4 * tau and sum(largest[-10:]) / 10 < 3 * tau
        assert sum(m["clipped_heads"] for m in seen) > 20


def test_a_logit_that_is_reached_in_one_microbatch_counts_for_the_step(tmp_path: Path) -> None:
    """Maximum over microbatches, not the last one's: the loud row may be anywhere in the step."""

    def clipped(rows: Sequence[Row], run: RunConfig, name: str) -> torch.Tensor:
        model = loud(K2Model(MODEL, seed=2))
        Trainer(replace(run, qk_clip_tau=0.3, steps=1), lambda _: rows, tmp_path / name, model).train()
        return model.state_dict()["model.layers.0.self_attn.q_proj.weight"].clone()

    run = replace(STILL, rows_per_step=4)
    rows = shard(0)[:4]
    want = clipped(rows, run, "whole")
    for turn in range(4):
        turned = [*rows[turn:], *rows[:turn]]
        assert torch.allclose(clipped(turned, replace(run, grad_accum_steps=4), f"{turn}"), want, rtol=1e-5)
    alone = [clipped([r] * 4, run, f"alone{i}") for i, r in enumerate(rows)]
    assert sum(torch.allclose(a, want, rtol=1e-5) for a in alone) < 4  # rows differ in what they would clip

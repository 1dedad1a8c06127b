"""The sequence loss against a plain computation of DeepSeek-V3's equations, and what it does to a
skewed router."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from abruzzi.train.balance import sequence_loss
from abruzzi.train.loop import Trainer
from tests.unit.train.test_loop import RUN, shard


def plainly(scores: torch.Tensor, k: int, counted: torch.Tensor) -> float:
    """Equations 17 to 20, token by token and expert by expert."""
    total, experts = 0.0, scores.shape[-1]
    for row, keep in zip(scores.double(), counted):
        tokens = [s for s, counts in zip(row, keep) if counts]
        for i in range(experts):
            often = sum(int(sorted(s.tolist())[-k] <= float(s[i])) for s in tokens)
            f = experts / (k * len(tokens)) * often
            p = sum(float(s[i] / s.sum()) for s in tokens) / len(tokens)
            total += f * p
    return total


def test_it_is_the_papers_formula_row_by_row() -> None:
    scores = torch.rand(3, 9, 6, generator=torch.Generator().manual_seed(1))
    counted = torch.ones(3, 9, dtype=torch.bool)
    counted[1, 5:] = False
    want = plainly(scores, 2, counted)
    assert float(sequence_loss(scores, 2, counted)) == pytest.approx(want, rel=1e-5)
    assert float(sequence_loss(scores, 2, torch.ones_like(counted))) != pytest.approx(want, rel=1e-3)
    assert float(sequence_loss(scores.flatten(0, 1)[None], 2, counted.flatten()[None])) != pytest.approx(want / 3, 1e-3)


def test_it_is_1_when_balanced_and_experts_over_k_at_worst() -> None:
    counted = torch.ones(1, 6, dtype=torch.bool)
    even = torch.full((1, 6, 6), 1e-3) + torch.eye(6)
    assert float(sequence_loss(even, 1, counted)) == pytest.approx(1.0)
    one = torch.full((1, 6, 6), 1e-9)
    one[..., 2] = 1.0
    assert float(sequence_loss(one, 1, counted)) == pytest.approx(6.0, rel=1e-4)


def test_its_gradient_goes_to_the_overloaded_expert_only_through_the_scores() -> None:
    scores = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(2))
    scores[..., 0] += 1.0
    scores.requires_grad_()
    sequence_loss(scores, 2, torch.ones(1, 8, dtype=torch.bool)).backward()
    assert scores.grad is not None
    down = scores.grad.mean((0, 1))
    assert down[0] > 0 and (down[0] > down[1:]).all()  # descending lowers the score of the loaded one


@pytest.mark.parametrize("alpha", [1e-2, 0.0])
def test_the_loss_levels_a_router_whose_weights_are_skewed(tmp_path: Path, alpha: float) -> None:
    run = replace(RUN, steps=25, rows_per_step=7, bias_rate=0.0, lr_adamw=0.0, lr_muon=0.1, weight_decay=0.0)
    trainer = Trainer(replace(run, sequence_loss_alpha=alpha, log_every=1), shard, tmp_path)
    ((_, moe),) = trainer.model.moe_layers().items()
    trainer.model.requires_grad_(False)
    moe.gate.weight.requires_grad_()
    with torch.no_grad():
        moe.experts.down_proj.zero_()  # the other loss does not depend on the router then
        ids, segments, *_ = trainer._tensors(shard(0))
        seen: list[torch.Tensor] = []
        hook = moe.gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        trainer.model(ids, segments_BT=segments)
        hook.remove()
        mean = seen[0].mean(0)  # what the inputs share becomes a vote for one expert and against another
        moe.gate.weight[0] += mean / mean.square().sum()
        moe.gate.weight[3] -= mean / mean.square().sum()
    worst: list[float] = []
    trainer.train(on_step=lambda m: worst.append(m["expert_load_max_over_mean"]))
    recent = sum(worst[-10:]) / 10
    assert worst[0] > 1.6
    if alpha:
        assert recent < 1.4
    else:
        assert recent > 1.6  # the negative control

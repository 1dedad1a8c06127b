"""INT4 by quantization-aware training against rounding afterwards: loss and KL, forks of the same
run.

    python bench/qat_against_ptq.py --out bench/records/DATE_qat_against_ptq/result.json     # 6 minutes of one core

Per seed one run in float up to the fork; from there the same rows twice, once in float and once
with routed experts rounded to INT4 in the forward pass (optimizers start anew at the fork, in all
branches). Compared on the validation rows: the float branch, the float branch rounded afterwards
(PTQ), the other branch rounded (QAT). KL is from the float branch's distribution to each of the
INT4 models', nats per token; QAT's holds the difference of two training paths as well, so a control
is given: a float branch whose weights got noise of 1e-4 relative at the fork. Groups of 32 weights,
scale absmax / 7, routed experts only, as in K2-Thinking. It goes on where it was stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import small_runs
from abruzzi.data.packing import Row
from abruzzi.model import K2Model
from abruzzi.train import qat
from machine import describe, emit
from small_runs import ROWS_PER_STEP, Data, Runs, run_config, say, summary, train, validation_loss

STEPS, FORKED = 60, 20
RATE, ADAMW_RATE = 2.4e-2, 6e-3
NOISE = 1e-4


def main(arguments: list[str] | None = None) -> int:
    given = small_runs.options(__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    rows, runs = small_runs.data(given.cache), Runs(given.out)
    steps, forked = (4, 2) if given.quick else (STEPS, FORKED)
    by_seed = {str(seed): one(runs, rows, seed, steps, forked) for seed in given.seeds}

    def over_seeds(value: Any) -> dict[str, Any]:
        return summary([value(run) for run in by_seed.values()])

    result = {
        "bench": "qat_against_ptq",
        **describe(threads=1),
        "settings": {
            **small_runs.settings(rows, steps),
            "forked_steps": forked,
            "lr_muon": RATE,
            "lr_adamw": ADAMW_RATE,
        },
        "loss_added_by_ptq": over_seeds(lambda r: r["loss_ptq"] - r["loss_float"]),
        "loss_added_by_qat": over_seeds(lambda r: r["loss_qat"] - r["loss_float"]),
        "ptq_minus_qat_loss": over_seeds(lambda r: r["loss_ptq"] - r["loss_qat"]),
        "kl_ptq": over_seeds(lambda r: r["kl_ptq"]),
        "kl_qat": over_seeds(lambda r: r["kl_qat"]),
        "kl_control": over_seeds(lambda r: r["kl_control"]),
        "runs": by_seed,
    }
    emit(result, given.out)
    if given.out is not None:
        draw(by_seed, given.out.parent)
    return 0


def one(runs: Runs, rows: Data, seed: int, steps: int, forked: int) -> dict[str, Any]:
    """A run with its three branches, for the record."""

    def make() -> dict[str, Any]:
        return branches(rows, seed, steps, forked)

    return runs.get({"steps": steps, "forked": forked, "seed": seed, "data": rows.digest, "lr_muon": RATE}, make)


def branches(rows: Data, seed: int, steps: int, forked: int) -> dict[str, Any]:
    """Train to the fork at the full rate, then each branch with the rate falling over its whole
    length."""
    trunk_steps = steps - forked
    rates = {"lr_muon": RATE, "lr_adamw": ADAMW_RATE}
    trunk = train(run_config(trunk_steps, seed, decay=1, **rates), rows).model
    noisy = copy.deepcopy(trunk)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for p in noisy.parameters():
            p *= 1 + NOISE * torch.randn(p.shape, generator=generator)

    def branch(start: K2Model, qat_steps: int) -> K2Model:
        config = replace(run_config(forked, seed, **rates), warmup=1, decay=forked, qat_steps=qat_steps)
        return train(config, rows, copy.deepcopy(start), skip=trunk_steps * ROWS_PER_STEP).model

    plain, aware, control = branch(trunk, 0), branch(trunk, forked), branch(noisy, 0)
    reference, validation = log_probabilities(plain, rows.validation), rows.validation
    result = {"loss_float": validation_loss(plain, validation), "loss_control": validation_loss(control, validation)}
    result["kl_control"] = kl(reference, log_probabilities(control, validation))
    for name, model in (("ptq", plain), ("qat", aware)):
        qat.enable(model)
        result[f"loss_{name}"] = validation_loss(model, validation)
        result[f"kl_{name}"] = kl(reference, log_probabilities(model, validation))
    say(f"seed {seed}: " + ", ".join(f"{k} {v:.5f}" for k, v in result.items()))
    return result


@torch.no_grad()
def log_probabilities(model: K2Model, validation: Sequence[Row]) -> torch.Tensor:
    """log p over the vocabulary at every target of the rows, float32 [targets, V]."""
    parts = []
    for row in validation:
        logits = model(torch.from_numpy(row.ids_T)[None], segments_BT=torch.from_numpy(row.segments_T)[None])[0, :-1]
        parts.append(logits[torch.from_numpy(row.sampled_T[1:])].log_softmax(-1))
    return torch.cat(parts)


def kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Mean over targets of sum p (log p - log q)."""
    return float((reference.exp() * (reference - other)).sum(-1).mean())


def draw(by_seed: dict[str, Any], folder: Path) -> None:
    """Loss added over the float branch, and KL from it, every seed."""

    def bars(axes: Any) -> None:
        names = ("PTQ", "QAT")
        for index, run in enumerate(by_seed.values()):
            added = [run[f"loss_{n.lower()}"] - run["loss_float"] for n in names]
            axes.plot([x + 0.06 * index for x in (0, 1)], added, "o", color="C0", label=None if index else "loss added")
            spread = [run[f"kl_{n.lower()}"] for n in names]
            axes.plot(
                [x + 0.06 * index for x in (0, 1)], spread, "s", color="C1", label=None if index else "KL to float"
            )
            label = None if index else "KL of the control"
            axes.plot(2 + 0.06 * index, run["kl_control"], "s", color="C2", label=label)
        axes.axhline(0, color="grey", lw=0.7)
        axes.set(
            ylabel="nats per token", xticks=[0.06, 1.06, 2.06], xticklabels=["PTQ", "QAT", "float, noise at the fork"]
        )
        axes.legend(frameon=False)

    small_runs.figure(bars, folder / "qat_against_ptq.png")


if __name__ == "__main__":
    raise SystemExit(main())

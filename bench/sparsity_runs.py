"""More experts at equal FLOP: does sparsity (experts / experts used) pay at this size, as K2's
report says it does?

    python bench/sparsity_runs.py --out bench/records/DATE_sparsity/result.json      # 8 minutes of one core

Two routed experts and the shared one per token throughout, so FLOP per token differ by the router
only (recorded); 4, 8, 16 or 32 routed experts, so sparsity 2 to 16. Same tokens, optimizer and
rates; seeds are paired. K2's law (section 2.3) is for far more tokens per expert than this; here an
expert of the sparsest model sees few. It goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import small_runs
from abruzzi.cost.flops import training
from abruzzi.cost.parameters import parameters
from machine import describe, emit
from small_runs import SMALL, Data, Runs, run_config, say, summary, train

STEPS = 60
RATE, ADAMW_RATE = 2.4e-2, 6e-3
BIAS_RATE = 2e-2  # at the usual 1e-3 so few steps leave the load of 32 experts at ten times the mean
EXPERTS = (4, 8, 16, 32)


def main(arguments: list[str] | None = None) -> int:
    given = small_runs.options(__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    rows, steps, runs = small_runs.data(given.cache), 6 if given.quick else STEPS, Runs(given.out)
    by_experts = {n: {str(seed): one(runs, rows, steps, seed, n) for seed in given.seeds} for n in EXPERTS}
    densest = by_experts[EXPERTS[0]]
    result = {
        "bench": "sparsity_runs",
        **describe(threads=1),
        "settings": {
            **small_runs.settings(rows, steps),
            "lr_muon": RATE,
            "lr_adamw": ADAMW_RATE,
            "experts_per_token": 2,
        },
        "by_experts": {
            str(n): {
                "sparsity": n / SMALL.num_experts_per_tok,
                "parameters": parameters(with_experts(n)).total,
                "training_flop_per_token": training(with_experts(n), 320).total,
                "loss": summary([run["loss"] for run in seeds.values()]),
                "loss_minus_densest": summary([seeds[s]["loss"] - densest[s]["loss"] for s in seeds]),
                "runs": seeds,
            }
            for n, seeds in by_experts.items()
        },
    }
    emit(result, given.out)
    if given.out is not None:
        draw(result["by_experts"], given.out.parent)
    return 0


def with_experts(count: int) -> Any:
    """SMALL with another number of routed experts."""
    return replace(SMALL, n_routed_experts=count)


def one(runs: Runs, rows: Data, steps: int, seed: int, count: int) -> dict[str, Any]:
    """A run, for the record."""

    def make() -> dict[str, Any]:
        done = train(
            run_config(steps, seed, with_experts(count), lr_muon=RATE, lr_adamw=ADAMW_RATE, bias_rate=BIAS_RATE), rows
        )
        load = done.steps[-1]["expert_load_max_over_mean"] if done.steps else None
        say(f"{count} experts, seed {seed}: loss {done.loss:.4f}, worst load over mean {load}")
        return {**done.brief(), "expert_load_max_over_mean": load}

    return runs.get({"steps": steps, "seed": seed, "experts": count, "data": rows.digest, "lr_muon": RATE}, make)


def draw(by_experts: dict[str, Any], folder: Path) -> None:
    """Loss over sparsity, every seed."""

    def curves(axes: Any) -> None:
        for seed in next(iter(by_experts.values()))["runs"]:
            points = [(entry["sparsity"], entry["runs"][seed]["loss"]) for entry in by_experts.values()]
            axes.plot(*zip(*points), marker="o", lw=1, label=f"seed {seed}")
        axes.set(
            xscale="log", xlabel="sparsity: routed experts / experts used", ylabel="validation loss, nats per token"
        )
        axes.set_xticks([entry["sparsity"] for entry in by_experts.values()])
        axes.set_xticklabels([f"{entry['sparsity']:g}" for entry in by_experts.values()])
        axes.minorticks_off()
        axes.legend(frameon=False)

    small_runs.figure(curves, folder / "sparsity.png")


if __name__ == "__main__":
    raise SystemExit(main())

"""MuonClip against AdamW at equal tokens: both tuned, fresh seeds, and how many tokens Muon needs
for AdamW's loss.

    python bench/muon_against_adamw.py --out bench/records/DATE_muon_against_adamw/result.json   # 10 minutes, one core

Stopped and started again it goes on (runs.jsonl beside the record).

1. A grid over AdamW's learning rate (seed 0), widened until the best is inside. 2. The same for Muon's; embedding,
head and vectors keep AdamW's best rate, so each side has one knob. 3. Both at their best on seeds that chose
nothing: same first weights, same rows in the same order. 4. Muon with shorter runs (own schedule each): where its
loss meets AdamW's, interpolated. Weight decay and betas are not tuned on either side.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import small_runs
from machine import describe, emit
from small_runs import Data, Runs, run_config, say, summary, train

STEPS = 80
SHARES = (0.6, 0.8)
ADAMW_RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)
MUON_RATES = (6e-3, 1.2e-2, 2.4e-2, 4.8e-2)


def main(arguments: list[str] | None = None) -> int:
    given = small_runs.options(__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    rows, steps = small_runs.data(given.cache), 6 if given.quick else STEPS
    runs = Runs(given.out)
    result: dict[str, Any] = {
        "bench": "muon_against_adamw",
        **describe(threads=1),
        "settings": {**small_runs.settings(rows, steps), "grid_seed": 0, "seeds": given.seeds},
    }

    def adamw(rate: float, seed: int = 0) -> dict[str, Any]:
        return one(runs, rows, steps, seed, optimizer="adamw", lr_adamw=rate)

    result["adamw_grid"], adamw_rate = tuned("adamw", adamw, ADAMW_RATES)

    def muon(rate: float, seed: int = 0, share: float = 1.0) -> dict[str, Any]:
        return one(runs, rows, round(steps * share), seed, lr_muon=rate, lr_adamw=adamw_rate)

    result["muon_grid"], muon_rate = tuned("muon", muon, MUON_RATES)
    result["chosen"] = {"lr_adamw": adamw_rate, "lr_muon": muon_rate}
    result["adamw"] = {str(seed): adamw(adamw_rate, seed) for seed in given.seeds}
    result["muon"] = {str(seed): muon(muon_rate, seed) for seed in given.seeds}
    gains = [result["adamw"][s]["loss"] - result["muon"][s]["loss"] for s in result["adamw"]]
    result["adamw_minus_muon_loss"] = summary(gains)
    result["muon_shares"] = {
        str(share): {str(seed): muon(muon_rate, seed, share) for seed in given.seeds} for share in SHARES
    }
    needed = [tokens_needed(result, str(seed)) for seed in given.seeds]
    result["share_of_tokens_for_adamws_loss"] = {"by_seed": needed, **summary([n for n in needed if n is not None])}
    emit(result, given.out)
    if given.out is not None:
        draw(result, given.out.parent)
    return 0


def one(runs: Runs, rows: Data, steps: int, seed: int, **changes: Any) -> dict[str, Any]:
    """A run, for the record."""

    def make() -> dict[str, Any]:
        done = train(run_config(steps, seed, **changes), rows).brief()
        say(f"steps {steps} seed {seed} {changes}: {done['loss']} in {done['seconds']} s")
        return done

    return runs.get({"steps": steps, "seed": seed, "data": rows.digest, **changes}, make)


def tuned(name: str, run: Any, rates: tuple[float, ...]) -> tuple[dict[str, Any], float]:
    """Loss by rate, widened by factors of two until the best rate has a worse one on both sides (or
    diverged)."""
    tried = {rate: run(rate) for rate in rates}
    while True:
        # NaN counts as worst; min alone would not
        best = min(tried, key=lambda r: math.inf if math.isnan(tried[r]["loss"]) else tried[r]["loss"])
        beyond = best / 2 if best == min(tried) else best * 2 if best == max(tried) else None
        if beyond is None or len(tried) > 8:
            say(f"{name}: best at {best:g}")
            return {f"{rate:g}": tried[rate] for rate in sorted(tried)}, best
        tried[beyond] = run(beyond)


def tokens_needed(result: dict[str, Any], seed: str) -> float | None:
    """Share of the tokens at which Muon's final loss equals AdamW's of the same seed; None outside
    what was run."""
    target = result["adamw"][seed]["loss"]
    points = [(float(share), runs[seed]["loss"]) for share, runs in result["muon_shares"].items()]
    points = sorted([*points, (1.0, result["muon"][seed]["loss"])])
    for (share, loss), (next_share, next_loss) in pairwise(points):
        if loss >= target > next_loss:
            return round(share + (next_share - share) * (loss - target) / (loss - next_loss), 3)
    return None


def draw(result: dict[str, Any], folder: Path) -> None:
    """Loss over learning rate, and loss over tokens."""

    def grid(axes: Any) -> None:
        for name, label in (("adamw_grid", "AdamW, all parameters"), ("muon_grid", "MuonClip, matrices")):
            runs = result[name]
            axes.plot([float(r) for r in runs], [m["loss"] for m in runs.values()], marker="o", label=label)
        axes.set(xscale="log", xlabel="learning rate", ylabel="validation loss, nats per token")
        tried = sorted({*ADAMW_RATES, *MUON_RATES})
        axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
        axes.minorticks_off()
        axes.legend(frameon=False)

    def tokens(axes: Any) -> None:
        per_run = result["settings"]["steps"] * result["settings"]["tokens_per_step"]
        shares = {**{float(k): v for k, v in result["muon_shares"].items()}, 1.0: result["muon"]}
        for number, seed in enumerate(result["muon"]):
            points = sorted((share * per_run / 1e3, runs[seed]["loss"]) for share, runs in shares.items())
            label = "MuonClip, a run of its own per point" if not number else None
            axes.plot(*zip(*points), marker="o", color="C1", label=label)
            label = "AdamW at the end" if not number else None
            axes.plot(per_run / 1e3, result["adamw"][seed]["loss"], "s", color="C0", label=label)
            axes.axhline(result["adamw"][seed]["loss"], color="C0", lw=0.7, ls="--")
        axes.set(xlabel="thousand tokens of the whole run", ylabel="validation loss, nats per token")
        axes.legend(frameon=False)

    small_runs.figure(grid, folder / "learning_rates.png")
    small_runs.figure(tokens, folder / "tokens.png")


if __name__ == "__main__":
    raise SystemExit(main())

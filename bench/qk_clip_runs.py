"""QK-Clip on and off at a small tau: what it holds down, and what it costs in loss.

    python bench/qk_clip_runs.py --out bench/records/DATE_qk_clip/result.json      # 6 minutes of one core

MuonClip at a rate that lets attention logits grow (twice the tuned one, no weight decay), the clip
off and at two small taus, same seeds. Recorded: the largest logit of every logged step, heads
clipped, validation loss. K2's tau of 100 is never reached by models of this size in so few steps,
hence smaller ones. It goes on where it was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import small_runs
from machine import describe, emit
from small_runs import Data, Runs, run_config, say, summary, train

STEPS = 60
RATE, ADAMW_RATE = 4.8e-2, 6e-3
TAUS = (None, 8.0, 4.0)


def main(arguments: list[str] | None = None) -> int:
    given = small_runs.options(__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    rows, steps, runs = small_runs.data(given.cache), 6 if given.quick else STEPS, Runs(given.out)
    by_tau = {
        "off" if tau is None else f"{tau:g}": {str(seed): one(runs, rows, steps, seed, tau) for seed in given.seeds}
        for tau in TAUS
    }
    off = by_tau["off"]
    result = {
        "bench": "qk_clip_runs",
        **describe(threads=1),
        "settings": {**small_runs.settings(rows, steps), "lr_muon": RATE, "lr_adamw": ADAMW_RATE, "weight_decay": 0.0},
        "largest_logit": {
            tau: summary([max(run["max_logits"]) for run in seeds.values()]) for tau, seeds in by_tau.items()
        },
        "last_logit": {
            tau: summary([run["max_logits"][-1] for run in seeds.values()]) for tau, seeds in by_tau.items()
        },
        "loss_minus_loss_without": {
            tau: summary([seeds[s]["loss"] - off[s]["loss"] for s in seeds])
            for tau, seeds in by_tau.items()
            if tau != "off"
        },
        "runs": by_tau,
    }
    emit(result, given.out)
    if given.out is not None:
        draw(by_tau, steps, given.out.parent)
    return 0


def one(runs: Runs, rows: Data, steps: int, seed: int, tau: float | None) -> dict[str, Any]:
    """A run, for the record."""

    def make() -> dict[str, Any]:
        config = run_config(
            steps, seed, lr_muon=RATE, lr_adamw=ADAMW_RATE, weight_decay=0.0, qk_clip_tau=tau, log_every=2
        )
        done = train(config, rows)
        logits = [round(m["max_logit"], 3) for m in done.steps]
        clipped = [m.get("clipped_heads", 0) for m in done.steps]
        say(f"tau {tau} seed {seed}: loss {done.loss:.4f}, largest logit {max(logits)}, last {logits[-1]}")
        return {**done.brief(), "max_logits": logits, "clipped_heads": clipped}

    return runs.get({"steps": steps, "seed": seed, "tau": tau, "data": rows.digest, "lr_muon": RATE}, make)


def draw(by_tau: dict[str, Any], steps: int, folder: Path) -> None:
    """The largest attention logit over steps, every seed."""

    def curves(axes: Any) -> None:
        for number, (tau, seeds) in enumerate(by_tau.items()):
            for index, run in enumerate(seeds.values()):
                logits = run["max_logits"]
                label = None if index else ("off" if tau == "off" else f"tau {tau}")
                axes.plot([2 * (i + 1) for i in range(len(logits))], logits, color=f"C{number}", lw=1.2, label=label)
        axes.set(yscale="log", xlabel="step", ylabel="largest softmax input of any head", xlim=(0, steps))
        axes.legend(frameon=False, title="QK-Clip")

    small_runs.figure(curves, folder / "max_logits.png")


if __name__ == "__main__":
    raise SystemExit(main())

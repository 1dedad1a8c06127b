"""What MuonClip costs over AdamW, as a share of the step, at more and more tokens per step.

    python bench/muon_cost.py --size 1.3M --out bench/records/DATE_muon_cost/1.3M.json     # a minute or two, two cores
    python bench/muon_cost.py --plot bench/records/DATE_muon_cost                          # the curve of all sizes

Same model, rows and dtype as bench/training_speed.py; one process with two threads. Every point is
two trainers that take turns (ABAB), one with MuonClip and QK-Clip at tau 100, one with AdamW for
everything: medians of seconds per step. Gradients of a step come in microbatches of 4,096 tokens.
Newton-Schulz costs the same whatever the tokens, so the share falls as one over them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abruzzi.cost.parameters import parameters
from abruzzi.data.packing import Row
from abruzzi.model import K2Model
from abruzzi.train.loop import RunConfig, Trainer
from machine import describe, emit, output_option
from small_runs import figure
from training_speed import CONTEXT, ROWS, SIZES, THREADS, batches, config_of

TOKENS = (1024, 2048, 4096, 8192, 16384)
WANTED, AT = 0.10, 4096


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="1.3M")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--plot", type=Path, default=None, help="draw the records in this folder, measure nothing")
    given = parser.parse_args(arguments)
    if given.plot is not None:
        draw(given.plot)
        return 0
    torch.set_num_threads(THREADS)
    points = {str(tokens): point(given.size, given.dtype, tokens, given.turns) for tokens in given.tokens}
    counted = parameters(config_of(SIZES[given.size]))
    result = {
        "bench": "muon_cost",
        **describe(threads=THREADS),
        "settings": {
            "size": given.size,
            "active_without_embedding_and_head": counted.active_without_either,
            "total": counted.total,
            "dtype": given.dtype,
            "context": CONTEXT,
            "turns": given.turns,
            "qk_clip_tau": 100.0,
        },
        "cost_by_tokens_per_step": points,
        "wanted_below": WANTED,
        "wanted_at_tokens_per_step": AT,
        "tokens_per_step_for_wanted": crossing(points),
    }
    emit(result, given.out)
    return 0


def point(size: str, dtype: str, tokens: int, turns: int) -> dict[str, Any]:
    """Seconds per step of both optimizers, and what MuonClip adds to AdamW's."""
    rows = tokens // CONTEXT
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "muonclip": trainer(size, dtype, rows, Path(folder), optimizer="muonclip", qk_clip_tau=100.0),
            "adamw": trainer(size, dtype, rows, Path(folder), optimizer="adamw"),
        }
        samples: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(turns + 1):
            for name, (side, data) in sides.items():
                started = time.perf_counter()
                side._one_step(data)
                if turn:  # the first one warms up
                    samples[name].append(time.perf_counter() - started)
    muon, adamw = (statistics.median(samples[name]) for name in ("muonclip", "adamw"))
    added = sorted(a / b - 1 for a, b in zip(samples["muonclip"], samples["adamw"]))
    return {
        "cost": round(muon / adamw - 1, 4),
        "cost_of_neighbouring_steps": [round(x, 4) for x in added],
        "muonclip_s": round(muon, 4),
        "adamw_s": round(adamw, 4),
    }


def trainer(size: str, dtype: str, rows: int, out: Path, **changes: Any) -> tuple[Trainer, Iterator[Row]]:
    """A trainer with rows of random tokens, all of them targets."""
    config = RunConfig(
        model=config_of(SIZES[size]),
        steps=10**9,
        rows_per_step=rows,
        row_length=CONTEXT,
        grad_accum_steps=max(1, rows // ROWS),
        autocast=dtype == "bfloat16",
        log_every=10**9,
        save_every=10**9,
        **changes,
    )
    targets, nothing, one = np.arange(CONTEXT) > 0, np.zeros(CONTEXT, bool), np.zeros(CONTEXT, np.int32)
    data = (Row(ids, targets, nothing, one) for batch in batches() for ids in batch)
    return Trainer(config, lambda _: [], out, K2Model(config.model, seed=0)), data


def crossing(points: dict[str, Any]) -> int | None:
    """Tokens per step at which the cost is what is wanted: cost = c / tokens, c from the largest
    cost measured well (at `AT` or the nearest below)."""
    tokens = max((int(t) for t in points if int(t) <= AT), default=None)
    return None if tokens is None else round(points[str(tokens)]["cost"] * tokens / WANTED)


def draw(folder: Path) -> None:
    """All records of the folder in one picture."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    def curves(axes: Any) -> None:
        for record in records:
            points = record["cost_by_tokens_per_step"]
            label = f"{record['settings']['size']} active, {record['settings']['dtype']}"
            axes.plot([int(t) for t in points], [100 * p["cost"] for p in points.values()], marker="o", label=label)
        axes.axhline(100 * WANTED, color="grey", lw=0.8, ls="--")
        axes.axvline(AT, color="grey", lw=0.8, ls="--")
        axes.set(
            xscale="log", yscale="log", xlabel="tokens per step", ylabel="MuonClip's cost over AdamW, % of the step"
        )
        axes.set_xticks(TOKENS, [f"{t:,}" for t in TOKENS])
        axes.minorticks_off()
        axes.legend(frameon=False)

    figure(curves, folder / "muon_cost.png")


if __name__ == "__main__":
    raise SystemExit(main())

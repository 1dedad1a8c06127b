"""Many small training runs that differ in one thing: same data in the same order, same first
weights per seed.

What the experiments of docs/LOG.md share. The model is nano's recipe at about a quarter of its size
(SMALL), the data are nano's tasks with every token a target (loss in nats per token), a validation
set of other tasks is never trained on. A run is a real `train.loop.Trainer` on one thread in
float32.

Data are made once and kept in `--cache` (they follow from nano's recipe; their digest is in every
record), so that experiments made on different days can tell whether they compare.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abruzzi.arch import ModelConfig
from abruzzi.data.packing import PADDING, Row
from abruzzi.model import K2Model
from abruzzi.train.loop import Diverged, RunConfig, Trainer
from machine import output_option

ROW_LENGTH = 1280
ROWS_PER_STEP = 4
TRAIN_ROWS, VALIDATION_ROWS = 640, 24
VALIDATION_SHARD = 1000  # far from what is trained

# 0.3 M active of 0.9 M parameters, embedding and head not counted.
SMALL = ModelConfig(
    vocab_size=1024,
    hidden_size=96,
    intermediate_size=256,
    moe_intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    n_routed_experts=16,
    num_experts_per_tok=2,
    n_shared_experts=1,
    routed_scaling_factor=1.4,
    q_lora_rank=48,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
    rope_theta=1000.0,
    rms_norm_eps=1e-6,
    max_position_embeddings=4096,
)


@dataclass(frozen=True)
class Data:
    """Packed rows and the digest of all their tokens and segments."""

    train: list[Row]
    validation: list[Row]
    digest: str


def options(description: str | None) -> argparse.ArgumentParser:
    """--out, --cache, --seeds and --quick (a dry run of a few steps: numbers mean nothing)."""
    parser = output_option(description)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "abruzzi_small_runs.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that the script works")
    return parser


def data(cache: Path) -> Data:
    """The rows of every experiment; made on the first call (a quarter of a minute), then read."""
    if not cache.exists():
        import abruzzi
        from abruzzi.recipes import nano

        text = (abruzzi.nano_path() / "tokenizer.json").read_text(encoding="utf-8")
        rows: list[Row] = []
        shard = 0
        while len(rows) < TRAIN_ROWS:
            rows += nano.shard(text, shard)
            shard += 1
        held_out = nano.shard(text, VALIDATION_SHARD)[:VALIDATION_ROWS]
        kept = [*rows[:TRAIN_ROWS], *held_out]
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            cache, ids=np.stack([r.ids_T for r in kept]), segments=np.stack([r.segments_T for r in kept])
        )
    stored = np.load(cache)
    ids, segments = stored["ids"], stored["segments"]
    digest = hashlib.sha256(ids.tobytes() + segments.tobytes()).hexdigest()[:16]
    rows = [_everything_counts(i, s) for i, s in zip(ids, segments)]
    return Data(rows[:TRAIN_ROWS], rows[TRAIN_ROWS:], digest)


def run_config(steps: int, seed: int, model: ModelConfig = SMALL, **changes: Any) -> RunConfig:
    """A run of `steps` steps of 5,120 tokens: a tenth of them warm-up, the last half falling to a
    tenth."""
    plain = RunConfig(
        model=model,
        steps=steps,
        rows_per_step=ROWS_PER_STEP,
        row_length=ROW_LENGTH,
        weight_decay=0.05,
        warmup=max(1, steps // 10),
        decay=max(1, steps // 2),
        seed=seed,
        autocast=False,
        log_every=max(1, steps // 20),
        save_every=10**9,
    )
    return replace(plain, **changes)


@dataclass
class Finished:
    """What came of a run: loss on the validation set (nats per token; NaN if it diverged), logged
    steps, model."""

    loss: float
    steps: list[dict[str, Any]]
    model: K2Model
    seconds: float

    def brief(self) -> dict[str, Any]:
        """For a record: no model."""
        curve = [[m["tokens"], round(m["loss"], 4)] for m in self.steps]
        return {"loss": round(self.loss, 5), "train_curve": curve, "seconds": round(self.seconds, 1)}


def train(config: RunConfig, given: Data, model: K2Model | None = None, skip: int = 0) -> Finished:
    """Train from the seed's first weights (or a copy of `model`), rows in the seed's order; `skip`:
    rows not used."""
    order = np.random.default_rng(config.seed).permutation(len(given.train))
    rows = [given.train[i] for i in order][skip:]
    if len(rows) < config.steps * config.rows_per_step:
        raise ValueError(f"{len(rows)} rows for {config.steps} steps: every row is used once at most")
    seen: list[dict[str, Any]] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(config, lambda _: rows, Path(out), model)
        try:
            if not trainer.train(on_step=seen.append):  # it takes SIGTERM and Ctrl-C for a wish to stop cleanly
                raise KeyboardInterrupt("the run was stopped before its last step")
            loss = validation_loss(trainer.model, given.validation)
        except Diverged:
            loss = math.nan
    return Finished(loss, seen, trainer.model, time.monotonic() - started)


@torch.no_grad()
def validation_loss(model: K2Model, rows: Sequence[Row]) -> float:
    """Mean cross-entropy over all targets, nats per token."""
    return float(torch.cat([token_losses(model, row) for row in rows]).mean())


@torch.no_grad()
def token_losses(model: K2Model, row: Row) -> torch.Tensor:
    """Cross-entropy of every target of a row."""
    ids, targets = torch.from_numpy(row.ids_T)[None], torch.from_numpy(row.sampled_T[1:])
    logits = model(ids, segments_BT=torch.from_numpy(row.segments_T)[None])[0, :-1]
    return torch.nn.functional.cross_entropy(logits[targets].float(), ids[0, 1:][targets], reduction="none")


class Runs:
    """Finished runs by what they were given, kept beside the record: an experiment that was stopped
    goes on."""

    def __init__(self, out: Path | None) -> None:
        self._file = None if out is None else out.parent / "runs.jsonl"
        self._done: dict[str, dict[str, Any]] = {}
        if self._file is not None and self._file.exists():
            kept = map(json.loads, self._file.read_text(encoding="utf-8").splitlines())
            self._done = {json.dumps(run["given"], sort_keys=True): run["result"] for run in kept}

    def get(self, given: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result for what is given: remembered, or made now."""
        key = json.dumps(given, sort_keys=True)
        if key not in self._done:
            self._done[key] = make()
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"given": given, "result": self._done[key]}) + "\n")
        return self._done[key]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and the 95 % interval of Student's t over seeds."""
    n = len(values)
    if not n:
        return {"mean": None, "interval_95": None, "seeds": 0}
    mean = statistics.mean(values)
    half = _T_95[n - 1] * statistics.stdev(values) / math.sqrt(n) if 1 < n <= len(_T_95) else math.nan
    return {"mean": round(mean, 5), "interval_95": [round(mean - half, 5), round(mean + half, 5)], "seeds": n}


def say(text: str) -> None:
    """Progress, to stderr."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def settings(given: Data, steps: int) -> dict[str, Any]:
    """What every record says of its runs."""
    return {
        "model": {k: v for k, v in SMALL.to_dict().items() if isinstance(v, (int, float)) and not isinstance(v, bool)},
        "steps": steps,
        "tokens_per_step": ROWS_PER_STEP * ROW_LENGTH,
        "train_rows": len(given.train),
        "validation_rows": len(given.validation),
        "data_digest": given.digest,
        "dtype": "float32",
        "threads": 1,
    }


def figure(draw: Callable[[Any], None], path: Path, width: float = 6.0, height: float = 3.8) -> None:
    """A PNG by matplotlib (in the `tasks` and `dev` environments), without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    draw(axes)
    canvas.savefig(path, dpi=130)
    pyplot.close(canvas)


def _everything_counts(ids: np.ndarray, segments: np.ndarray) -> Row:
    """Every token but padding and the first of a document is a target of weight 1."""
    target = segments != PADDING
    target[0] = False
    target[1:] &= segments[1:] == segments[:-1]
    return Row(ids, target, np.zeros_like(target), segments)


# Student's t, two-sided 95 %, by degrees of freedom from 1.
_T_95 = [math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]

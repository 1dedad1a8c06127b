"""INT4 by quantization-aware training against rounding afterwards, on a nano that has been trained
for hours.

    cp -r RUN FLOAT      # with state.pt as it was when rounding began: the last state before steps - qat_steps
    abruzzi train nano_cpu --out FLOAT --resume --set steps=N ... --set qat_steps=0    # the same rows, in float
    python bench/qat_fork.py --qat RUN --float FLOAT --out bench/records/DATE_qat_fork/result.json

    python bench/qat_fork.py --bits 3 --train --qat RUN --float FLOAT    # RUN: a copy of FLOAT as it was at the fork

With --bits fewer than 4, where rounding costs something, --train first takes RUN from the fork to
FLOAT's last step with so many bits in the forward pass. Such weights are run in bfloat16; nothing
exports them.

Both runs end at the same step and learning rate; they differ in whether the routed experts were
rounded in the forward pass after the fork. Compared: the float run as it is, the float run rounded
(PTQ), the other run rounded (QAT). Loss in nats per sampled token on rows that no run saw, with 95
% intervals by resampling rows; KL from the float run; and tasks, thinking + tools, run by the
engine on exported checkpoints.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abruzzi import tokenizer
from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import save_checkpoint
from abruzzi.data.packing import Row
from abruzzi.evals.run import summarize
from abruzzi.model import K2Model
from abruzzi.recipes import nano
from abruzzi.tasks import FAMILIES, SPLITS, Split
from abruzzi.train import qat
from abruzzi.train.loop import RunConfig, Trainer
from abruzzi.train.state import read_state
from machine import describe, emit, output_option
from nano_accuracy import Job, fresh, solve
from qat_against_ptq import kl, log_probabilities
from small_runs import say, token_losses

SHARD = 100_000  # far from what is trained


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--qat", type=Path, required=True, help="a finished run whose last steps rounded")
    parser.add_argument("--float", type=Path, required=True, dest="plain", help="the run that went on in float")
    parser.add_argument("--bits", type=int, choices=(2, 3, 4), default=4)
    parser.add_argument("--train", action="store_true", help="take --qat to the last step of --float first")
    parser.add_argument("--rows", type=int, default=60, help="validation rows of 1,280 tokens")
    parser.add_argument("--n", type=int, default=50, help="tasks per family and split")
    parser.add_argument("--splits", nargs="*", default=["trained", "held_out"], choices=SPLITS)
    given = parser.parse_args(arguments)
    qat.fake_quantize = partial(qat.fake_quantize, largest_code=2 ** (given.bits - 1) - 1)
    if given.train:
        train(given.qat, given.plain)
    text = (given.qat / "tokenizer.json").read_text(encoding="utf-8")
    config = ModelConfig.from_dict(json.loads((given.qat / "run.json").read_text(encoding="utf-8"))["config"]["model"])
    plain, aware = (weights(config, folder) for folder in (given.plain, given.qat))
    if plain[1] != aware[1]:
        raise SystemExit(f"--float is at step {plain[1]}, --qat at {aware[1]}; expected the same step")
    rows = nano.shard(text, SHARD)[: given.rows]
    result = {
        "bench": "qat_fork",
        **describe(threads=torch.get_num_threads()),
        "settings": {"step": aware[1], "bits": given.bits, "rows": len(rows), "tasks": given.n},
        **losses(plain[0], aware[0], rows),
        "tasks": tasks(config, text, plain[0], aware[0], given.splits, given.n, given.bits),
    }
    emit(result, given.out)
    return 0


def train(run: Path, plain: Path) -> None:
    """Take `run` on to the end of `plain`, on the same rows at the same rate, rounding all the
    way."""
    said = json.loads((plain / "run.json").read_text(encoding="utf-8"))["config"]
    config = RunConfig(**{**said, "model": ModelConfig.from_dict(said["model"]), "qat_steps": said["steps"]})
    shards = nano.Shards((run / "tokenizer.json").read_text(encoding="utf-8"))
    trainer = Trainer(config, shards, run)
    if not trainer.resume():
        raise SystemExit(f"{run} holds no state.pt")
    say(f"from step {trainer.step} to {config.steps}")
    trainer.train(on_step=lambda m: say(f"step {m['step']}: {m['sampled_loss']:.4f}"))
    shards.close()


def weights(config: ModelConfig, run: Path) -> tuple[K2Model, int]:
    """A run's model, float32, and its step."""
    model = K2Model(config)
    state = read_state(run, {n: tuple(t.shape) for n, t in model.state_dict().items()})
    if state is None:
        raise SystemExit(f"{run} holds no state.pt")
    model.load_state_dict(state["model"])
    return model, state["step"]


def losses(plain: K2Model, aware: K2Model, rows: list[Row]) -> dict[str, Any]:
    """Loss and KL of the three, and what rounding adds in each way."""
    with torch.no_grad():
        per_row = {"float": [token_losses(plain, row).double() for row in rows]}
        reference = [log_probabilities(plain, [row]) for row in rows]
        spread: dict[str, list[float]] = {}
        for name, model in (("ptq", plain), ("qat", aware)):
            qat.enable(model)
            per_row[name] = [token_losses(model, row).double() for row in rows]
            spread[name] = [kl(p, log_probabilities(model, [row])) for p, row in zip(reference, rows)]
            qat.enable(model, on=False)
            say(f"{name}: loss {float(torch.cat(per_row[name]).mean()):.5f}")
    counts = np.array([len(row) for row in per_row["float"]], float)
    sums = {name: np.array([float(row.sum()) for row in rows_]) for name, rows_ in per_row.items()}
    return {
        "loss": {name: interval(total, counts) for name, total in sums.items()},
        "added_by_ptq": interval(sums["ptq"] - sums["float"], counts),
        "ptq_minus_qat": interval(sums["ptq"] - sums["qat"], counts),
        "kl": {name: interval(np.array(v) * counts, counts) for name, v in spread.items()},
    }


def interval(totals: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Mean per token and its 95 % interval over 10,000 resamples of whole rows."""
    drawn = np.random.default_rng(0).integers(len(counts), size=(10_000, len(counts)))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {
        "mean": round(float(totals.sum() / counts.sum()), 6),
        "interval_95": [round(float(low), 6), round(float(high), 6)],
    }


def tasks(
    config: ModelConfig, text: str, plain: K2Model, aware: K2Model, splits: list[Split], n: int, bits: int
) -> dict[str, Any]:
    """Thinking + tools, solved by the engine: the float run unrounded and rounded, the other
    rounded."""
    files = tokenizer.chat_files(tokenizer.from_json(text, nano.DEFAULTS), max_context=nano.CONTEXT)
    scores: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        for name, model, rounds in (("float", plain, False), ("ptq", plain, True), ("qat", aware, True)):
            path = Path(folder) / name
            tensors = {k: t.detach() for k, t in model.state_dict().items()}
            if rounds and bits < 4:
                tensors = {k: qat.fake_quantize(t) if ".experts." in k else t for k, t in tensors.items()}
            arrays = {k: t.numpy() for k, t in tensors.items()}
            save_checkpoint(path, config, arrays, dtype="bfloat16", int4=rounds and bits == 4, extra_files=files)
            jobs = [
                Job(str(path), "thinking, tools", s, f, list(fresh(f, s, n, set()))) for s in splits for f in FAMILIES
            ]
            solved = list(pool.map(solve, jobs))
            scores[name] = {
                split: summarize([x for job, samples in zip(jobs, solved) if job.split == split for x in samples])
                for split in splits
            }
            say(f"{name}: " + ", ".join(f"{s} {v['score']:.3f}" for s, v in scores[name].items()))
    return scores


if __name__ == "__main__":
    raise SystemExit(main())

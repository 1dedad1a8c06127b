"""Training on one GPU: tokens/s of our step beside transformers' DeepseekV3, and of the recipes'
own steps.

    python bench/gpu_training.py --out FILE      # about a minute; needs a CUDA device

First the peer: same weights, same rows of 1,024 tokens, bfloat16 autocast over float32 weights,
AdamW (torch's fused one), the peer's experts grouped_mm and its attention sdpa, neither side
compiled. The two take turns; medians, and the losses of the first step. Then whole steps of a
recipe as it is (MuonClip, QK-Clip, packed documents) at several rows per step. Times are taken
after torch.cuda.synchronize().
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abruzzi import tokenizer
from abruzzi.cost.parameters import parameters
from abruzzi.data.packing import Row
from abruzzi.model import K2Model
from abruzzi.recipes import mini_h200, nano
from abruzzi.train.loop import RunConfig, Trainer
from abruzzi.train.meter import step_flop
from machine import describe, emit, output_option
from training_speed import SIZES, batches, config_of, write_checkpoint

CONTEXT = 1024
ROWS = 64


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=["4M", "12M"], help="beside the peer")
    parser.add_argument("--tokenizer", type=Path, default=None, help="of a run; default: build it (15 s)")
    parser.add_argument("--rows", nargs="*", type=int, default=[32, 64, 128], help="per step of a recipe")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--profile", type=Path, default=None, help="write kernels of one step here")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: no CUDA device", file=sys.stderr)
        return 2
    torch.set_num_threads(4)
    result = {
        "bench": "gpu_training",
        **describe(threads=torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "beside_transformers": [beside(size, given.turns) for size in given.sizes],
        "recipes": list(recipes(given)),
    }
    emit(result, given.out)
    return 0


def beside(size: str, turns: int) -> dict[str, Any]:
    """Our step and the peer's in turns."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint", SIZES[size])
        ours, theirs = our_step(checkpoint), their_step(checkpoint)
        losses = ours(), theirs()
        ours(), theirs()
        samples: dict[str, list[float]] = {"abruzzi": [], "transformers": []}
        for _ in range(turns):
            for name, step in (("abruzzi", ours), ("transformers", theirs)):
                samples[name].append(ROWS * CONTEXT / seconds_of(step, 4))
    medians = {name: statistics.median(rates) for name, rates in samples.items()}
    print(size, {n: f"{m:,.0f} tok/s" for n, m in medians.items()}, losses, file=sys.stderr, flush=True)
    counted = parameters(config_of(SIZES[size]))
    return {
        "size": size,
        "active_without_embedding_and_head": counted.active_without_either,
        "total": counted.total,
        "rows": ROWS,
        "context": CONTEXT,
        "optimizer": "AdamW",
        "transformers": the_peer().__version__,
        "tok_s": {n: round(m) for n, m in medians.items()},
        "ratio": round(medians["abruzzi"] / medians["transformers"], 3),
        "loss_of_first_step": {"abruzzi": losses[0], "transformers": losses[1]},
    }


def seconds_of(step: Callable[[], object], times: int) -> float:
    """Seconds per call, the device's work included."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def our_step(checkpoint: Path) -> Callable[[], float]:
    from abruzzi import model as k2

    config = RunConfig(
        model=k2.load(checkpoint).config,
        steps=10**9,
        rows_per_step=ROWS,
        row_length=CONTEXT,
        optimizer="adamw",
        warmup=0,
        decay=1,
        lr_adamw=1e-3,
        device="cuda",
        log_every=10**9,
    )
    everything, nothing = np.arange(CONTEXT) > 0, np.zeros(CONTEXT, bool)
    one = np.zeros(CONTEXT, np.int32)
    rows = (Row(ids, everything, nothing, one) for batch in batches(ROWS, CONTEXT) for ids in batch)
    return stepper(Trainer(config, lambda _: [], Path(tempfile.gettempdir()), k2.load(checkpoint)), rows)


def stepper(trainer: Trainer, rows: Iterator[Row]) -> Callable[[], float]:
    """A whole step of the trainer, as its loop takes it; gives the loss."""
    losses: list[float] = []
    gradients = trainer._gradients

    def noted(*arguments: Any, **options: Any) -> Any:
        totals = gradients(*arguments, **options)
        losses.append(float(totals.loss))
        return totals

    trainer._gradients = noted  # type: ignore[method-assign]

    def step() -> float:
        trainer._one_step(rows)
        return losses.pop()

    return step


def the_peer() -> Any:
    """transformers; it looks for a package `kernels`, which must not be the bench beside this
    file."""
    here = [p for p in sys.path if Path(p).resolve() == Path(__file__).resolve().parent]
    sys.path[:] = [p for p in sys.path if p not in here]
    import transformers
    import transformers.models.deepseek_v3.modeling_deepseek_v3

    sys.path[:0] = here
    return transformers


def their_step(checkpoint: Path) -> Callable[[], float]:
    transformers = the_peer()
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa", experts_implementation="grouped_mm"
    )
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    rows = batches(ROWS, CONTEXT)

    def step() -> float:
        ids = torch.from_numpy(next(rows)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def recipes(given: Any) -> Iterator[dict[str, Any]]:
    """Steps of nano and mini on their own data."""
    vocab = (
        tokenizer.from_json(given.tokenizer.read_text(encoding="utf-8"), nano.DEFAULTS)
        if given.tokenizer
        else nano.build_tokenizer(6000)
    )
    rows = [row for number in range(8) for row in nano.shard(vocab.to_json(), number)]
    small = nano.run_config(vocab, nano.STEPS)
    for name, model in (("nano_cpu", small.model), ("mini_h200", mini_h200.model_config(small.model))):
        for count in given.rows:
            yield recipe(name, replace(small, model=model, rows_per_step=count), rows, given.profile)


def recipe(name: str, config: RunConfig, rows: list[Row], profile: Path | None) -> dict[str, Any]:
    config = replace(config, device="cuda", autocast=True, log_every=10**9)

    def endless() -> Iterator[Row]:
        while True:
            yield from rows

    torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(config, lambda _: [], Path(tempfile.gettempdir()), K2Model(config.model))
    step = stepper(trainer, endless())
    for _ in range(4):
        step()
    seconds = seconds_of(step, 12)
    tokens = config.rows_per_step * config.row_length
    flop = step_flop(config.model, rows[: config.rows_per_step])
    numbers = {
        "recipe": name,
        "rows": config.rows_per_step,
        "tokens_per_step": tokens,
        "ms_per_step": round(seconds * 1e3, 2),
        "tok_s": round(tokens / seconds),
        "tflop_s": round(flop / seconds / 1e12, 2),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }
    print(numbers, file=sys.stderr, flush=True)
    if profile is not None:
        with profile.open("a", encoding="utf-8") as file:
            file.write(f"{numbers}\n{kernels(step)}\n")
    return numbers


def kernels(step: Callable[[], object]) -> str:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    averages = seen.key_averages()
    on_device = averages.table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=60)
    return f"{on_device}\n{averages.table(sort_by='self_cpu_time_total', row_limit=30, max_name_column_width=60)}"


if __name__ == "__main__":
    raise SystemExit(main())

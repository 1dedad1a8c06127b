"""`abruzzi bench`: speed of the engine on random weights of a named shape, or on a checkpoint."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.choose import WEIGHTS
from abruzzi.cli.exit_codes import OK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abruzzi.arch import ModelConfig
    from abruzzi.cost.capacity import Stored
    from abruzzi.engine.llm import LLM
    from abruzzi.engine.measure.speed import Samples, StepOverhead, Workload
    from abruzzi.engine.step.state import StepRunner

HELP = """Measure prefill and decode of the engine, and which share of this machine's limits that is.

A shape has random weights made in memory: mini takes 0.2 GB, llama-1b 2.5, qwen3-4b 8 (2.3 with --weights
all-4-bit), moonlight 9, qwen3-30b-a3b and glm-4.7-flash 17. A checkpoint is loaded, and a directory with nothing
but config.json gets random weights as well. Memory bandwidth and the peak of 8-bit products are measured between
the samples of the same run. Figures are medians; tok/s are those of all sequences.

Example: abruzzi bench --shape mini --prefill 512 --decode 128 --batch 4
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", help=HELP)(bench)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured. llm: None for random weights. tensors: as they are stored, for the count of
    bytes."""

    name: str
    runner: StepRunner
    llm: LLM | None
    config: ModelConfig
    tensors: list[Stored]
    load_s: float


def bench(
    shape: str = typer.Option(
        "nano", "--shape", metavar="SHAPE", help="A shape's name, nano, a GGUF file or a directory."
    ),
    weights: str = WEIGHTS,
    precision: str = typer.Option("fast", "--precision", help="fast (8-bit inputs of INT4 and INT8 weights) or exact."),
    prefill: int = typer.Option(512, "--prefill", min=0, help="Tokens of the prompt; 0 = no prefill."),
    decode: int = typer.Option(64, "--decode", min=0, help="Tokens to decode per sequence; 0 = no decode."),
    depth: int = typer.Option(0, "--depth", min=0, help="Tokens in the cache before the decode begins."),
    batch: int = typer.Option(1, "--batch", min=1, help="Sequences that decode together."),
    threads: int = typer.Option(None, "--threads", min=1, help="Default: ABRUZZI_THREADS, or every core."),
    repeat: int = typer.Option(5, "--repeat", min=1, help="Samples of each."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> int:
    from abruzzi.engine.measure.speed import Workload

    work = Workload(prefill=prefill, decode=decode, depth=depth, batch=batch)
    facts = measured(shape, weights, precision, work, threads, repeat)
    print(json.dumps(facts) if as_json else "\n".join(_lines(facts)))
    return OK


def measured(
    shape: str, weights: str, precision: str, work: Workload, threads: int | None, repeat: int
) -> dict[str, Any]:
    """Everything that --json prints. Raises ValueError, with both numbers, for what does not fit
    into memory or into the model's context."""
    from abruzzi import kernels
    from abruzzi.cost.capacity import available_memory
    from abruzzi.engine.measure.speed import PROBE_BYTES, measure, step_overhead

    threads = kernels.threads() if threads is None else threads
    empty = _resident()
    subject = _subject(shape, weights, precision, work, threads)
    peaks: list[int] = []
    samples = measure(
        subject.runner,
        work,
        repeat,
        threads,
        probe_bytes=min(PROBE_BYTES, available_memory() // 4),
        warm=lambda: peaks.append(_peak_resident() - empty),
        report=_report(repeat),
    )
    overhead = None
    if subject.llm is not None and work.decode:
        overhead = step_overhead(subject.llm, min(work.decode, 64), work.batch)
    return _facts(subject, weights, precision, work, threads, samples, overhead, peaks[0])


def _subject(shape: str, weights: str, precision: str, work: Workload, threads: int) -> Subject:
    """Load it, or make it, after a look at whether it fits."""
    from abruzzi.arch import Int4Scheme
    from abruzzi.checkpoint import load_config, packaged
    from abruzzi.cli.choose import checkpoint_path
    from abruzzi.cli.fit import NAMED, planned, tensors_of
    from abruzzi.engine.weights.packing import check_modes
    from abruzzi.engine.weights.random_model import named_shape, random_model

    modes = check_modes(weights, precision)
    if shape in NAMED:
        path, config = None, named_shape(shape)
    elif not Path(shape).exists() and shape not in ("nano", *packaged.MODELS) and "/" not in shape:
        raise ValueError(
            f"--shape {shape} is no shape; expected {', '.join(NAMED)}, nano, a GGUF file, a directory or org/name"
        )
    else:
        path = checkpoint_path(shape)
        config = load_config(path)
    if work.longest > config.max_position_embeddings:
        raise ValueError(
            f"{work.longest} tokens, but {shape} was made for {config.max_position_embeddings} at most; "
            "hint: a smaller --prefill, --depth or --decode"
        )
    stored = path is not None and (path.is_file() or any(path.glob("*.safetensors*")))
    if not stored and config.int4 is None:
        config = config.with_int4(Int4Scheme())
    tensors = tensors_of(path, config)[0] if stored and path is not None else planned(config)
    _check_memory(shape, config, tensors, weights, work)
    start = time.perf_counter()
    if stored and path is not None:
        from abruzzi.engine.llm import LLM

        llm = LLM.load(path, cache_tokens=16, threads=threads, **modes)
        return Subject(shape, llm.runner, llm, config, tensors, time.perf_counter() - start)
    made = random_model(config, threads=threads, **modes)
    return Subject(shape, made.runner, None, config, tensors, time.perf_counter() - start)


def _check_memory(shape: str, config: ModelConfig, tensors: list[Stored], weights: str, work: Workload) -> None:
    from abruzzi.cost.capacity import available_memory, cache_bytes_per_token, loaded_bytes

    held = loaded_bytes(tensors, weights)
    cache = work.slots * cache_bytes_per_token(config)
    available = available_memory()
    if held + cache > available:
        raise ValueError(
            f"{shape} needs {held / 1e9:.2f} GB for {weights} weights and {cache / 1e9:.2f} GB for a cache of "
            f"{work.slots:,} tokens, {(held + cache) / 1e9:.2f} GB in all, but {available / 1e9:.2f} GB are available; "
            "hint: --weights all-4-bit, a smaller --depth or --batch, or a smaller shape"
        )


def _facts(
    subject: Subject,
    weights: str,
    precision: str,
    work: Workload,
    threads: int,
    samples: Samples,
    overhead: StepOverhead | None,
    peak: int,
) -> dict[str, Any]:
    from abruzzi import kernels
    from abruzzi.cost import flops
    from abruzzi.cost.capacity import cache_bytes_per_token, loaded_bytes, step_bytes

    config = subject.config
    held = loaded_bytes(subject.tensors, weights)
    middle = work.depth + (work.decode + 1) // 2
    per_token = step_bytes(config, subject.tensors, middle, work.batch, weights) / work.batch
    decoded = [rate * per_token / 1e9 for rate in samples.decode_tok_s]
    per_prompt_token = flops.prefill(config, work.prefill).total if work.prefill else 0.0
    prefilled = [rate * per_prompt_token / 1e9 for rate in samples.prefill_tok_s]
    return {
        "shape": subject.name,
        "weights": weights,
        "precision": precision,
        "isa": kernels.isa(),
        "threads": threads,
        "prefill_tok_s": _median(samples.prefill_tok_s),
        "decode_tok_s": _median(samples.decode_tok_s),
        "batch": work.batch,
        "depth": work.depth,
        "prefill": work.prefill,
        "decode": work.decode,
        "bytes_per_token": per_token,
        "effective_gb_s": _median(decoded),
        "bandwidth_gb_s": _median(samples.bandwidth_gb_s),
        "share_of_bandwidth": _share(decoded, samples.bandwidth_gb_s),
        "prefill_gops": _median(prefilled),
        "integer_peak_gops": _median(samples.integer_peak_gops),
        "share_of_peak": _share(prefilled, samples.integer_peak_gops),
        "weights_bytes": held,
        "cache_bytes": work.slots * cache_bytes_per_token(config),
        "peak_memory_bytes": peak,
        "load_s": subject.load_s,
        "engine_step_s": None if overhead is None else overhead.step_s,
        "engine_overhead_s": None if overhead is None else overhead.overhead_s,
        "samples": {
            "prefill_tok_s": samples.prefill_tok_s,
            "decode_tok_s": samples.decode_tok_s,
            "bandwidth_gb_s": samples.bandwidth_gb_s,
            "integer_peak_gops": samples.integer_peak_gops,
        },
    }


def _lines(f: dict[str, Any]) -> Iterator[str]:
    yield f"{f['shape']}  {f['weights']} weights, {f['precision']}, {f['isa']}, {f['threads']} threads"
    if f["prefill_tok_s"] is not None:
        yield (
            f"prefill  {_rate(f['prefill_tok_s'])} tok/s for {f['prefill']} tokens "
            f"{_range(f['samples']['prefill_tok_s'])}, {f['prefill_gops']:.0f} Gop/s: {f['share_of_peak']:.0%} of the "
            f"{f['integer_peak_gops']:.0f} that 8-bit products reach"
        )
    if f["decode_tok_s"] is not None:
        crowd = f" in {f['batch']} sequences" if f["batch"] > 1 else ""
        yield (
            f"decode   {_rate(f['decode_tok_s'])} tok/s{crowd} at depth {f['depth']} "
            f"{_range(f['samples']['decode_tok_s'])}, {_size(f['bytes_per_token'])} per token: "
            f"{f['effective_gb_s']:.1f} GB/s, {f['share_of_bandwidth']:.0%} of the {f['bandwidth_gb_s']:.1f} that "
            "memory gives"
        )
    if f["engine_overhead_s"] is not None:
        yield (
            f"engine   {f['engine_step_s'] * 1e6:.0f} us a step at depth 0, {f['engine_overhead_s'] * 1e6:.0f} us of "
            "them for scheduling and sampling"
        )
    yield (
        f"memory   {_size(f['weights_bytes'])} of weights, {_size(f['cache_bytes'])} of cache; the process took "
        f"{_size(f['peak_memory_bytes'])} at most; ready after {f['load_s']:.1f} s"
    )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _share(reached: list[float], limit: list[float]) -> float | None:
    """Median of what each round reached of its own limit."""
    return _median([r / m for r, m in zip(reached, limit)])


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _range(values: list[float]) -> str:
    return f"({_rate(min(values))}-{_rate(max(values))})"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _resident() -> int:
    """Bytes of memory that this process holds now, without the files that it maps; 0 where that is
    not known."""
    return _status("VmRSS")


def _peak_resident() -> int:
    """The most that this process ever held. Not ru_maxrss where it can be helped: on Linux that
    begins with what the process that started this one held."""
    if peak := _status("VmHWM"):
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(name: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _report(repeat: int):
    if not sys.stderr.isatty():
        return None
    return lambda number: print(f"\rround {number + 1} of {repeat}\x1b[K", end="\r", file=sys.stderr)

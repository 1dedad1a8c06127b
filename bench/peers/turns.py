"""Two engines in turns: the cases of the comparison, our side, and the rows that come out.

A turn is some samples of one case on one side; between turns the machine's bandwidth is measured.
All in one run, because absolute figures of a virtual machine move with its neighbours and only a
ratio of the same minutes stays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # machine.py

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import load_config, open_checkpoint
from abruzzi.cli.fit import planned, tensors_of
from abruzzi.cost.capacity import step_bytes
from abruzzi.engine.measure.speed import STEP_TOKENS, Stopwatch, Workload, bandwidth_gb_s
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.weights.packing import check_modes
from abruzzi.engine.weights.random_model import named_shape, random_model
from machine import output_option

OURS = "abruzzi"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to compare: a prefill or a decode. target: the ratio to llama.cpp that was set
    before measuring."""

    name: str
    work: Workload
    target: float | None = None

    @property
    def tokens(self) -> int:
        """Of one sample, all sequences together."""
        return self.work.prefill or self.work.decode * self.work.batch


def prefill(tokens: int, target: float | None = None) -> Case:
    return Case(f"prefill {tokens}", Workload(prefill=tokens, decode=0), target)


def decode(tokens: int, depth: int = 0, batch: int = 1, target: float | None = None) -> Case:
    name = "decode" + (f", depth {depth}" if depth and batch == 1 else "") + (f", batch {batch}" if batch > 1 else "")
    return Case(name, Workload(prefill=0, decode=tokens, depth=depth, batch=batch), target)


# A batch begins after prompts of 8 tokens, as llama-batched-bench does it here.
CASES: dict[str, tuple[Case, ...]] = {
    "mini": (
        prefill(512, 2.4),
        prefill(2048, 2.4),
        decode(128, target=1.5),
        decode(32, depth=4096, target=2.3),
        *(decode(12, depth=8, batch=b) for b in (4, 8, 16)),
    ),
    **{
        shape: (
            prefill(512, 4.0),
            decode(32, target=1.25),
            decode(16, depth=4096, target=1.8),
            decode(12, depth=8, batch=8, target=2.0),
        )
        for shape in ("qwen3-30b-a3b", "glm-4.7-flash")
    },
    **{
        shape: (
            prefill(512, 2.5),
            decode(32, target=1.1),
            decode(16, depth=4096, target=1.3),
            decode(12, depth=8, batch=8, target=2.0),
        )
        for shape in ("qwen3-4b", "llama-1b")
    },
    "smollm2": (
        prefill(512, 2.0),
        decode(128, target=1.3),
        decode(32, depth=4096),
        decode(32, depth=8, batch=8, target=2.0),
    ),
    "moonlight": (
        prefill(512, 3.0),
        decode(32, target=1.15),
        decode(16, depth=4096, target=2.7),
        decode(12, depth=8, batch=4, target=1.5),
        decode(12, depth=8, batch=8, target=2.0),
        decode(12, depth=8, batch=16, target=2.3),
    ),
}

# tok/s samples of one turn
Side = Callable[[Case], list[float]]


class Ours:
    """The engine on random weights, made once and kept; or on a file, which the peer reads too."""

    def __init__(
        self,
        config: ModelConfig,
        weights: str,
        precision: str,
        threads: int,
        repeat: int,
        file: Path | None = None,
    ) -> None:
        self.config, self.weights, self.repeat = config, weights, repeat
        modes = check_modes(weights, precision)
        if file is None:
            self._runner = random_model(config, threads=threads, **modes).runner
            self._tensors = planned(config)
        else:
            with open_checkpoint(file) as checkpoint:
                self._runner = NativeRunner.load(checkpoint, threads=threads, **modes)
            self._tensors = tensors_of(file, config)[0]

    def __call__(self, case: Case) -> list[float]:
        watch = Stopwatch(self._runner, case.work)
        if case.work.prefill:
            watch.prefill(min(case.work.prefill, STEP_TOKENS))
            return [case.tokens / watch.prefill() for _ in range(self.repeat)]
        watch.decode(min(case.work.decode, 4))
        return [case.tokens / watch.decode() for _ in range(self.repeat)]

    def facts(self, case: Case, rate: float) -> dict[str, Any]:
        """What a decoded token reads, and what rate of the memory that makes."""
        work = case.work
        if not work.decode:
            return {}
        middle = work.depth + (work.decode + 1) // 2
        per_token = step_bytes(self.config, self._tensors, middle, work.batch, self.weights) / work.batch
        return {"bytes_per_token": per_token, "effective_gb_s": per_token * rate / 1e9}


def take_turns(
    cases: Iterable[Case], ours: Ours, sides: Mapping[str, Side], rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Case by case, `rounds` times: bandwidth, ours, theirs. A row per case; ratios are ours over
    theirs."""
    rows = []
    for case in cases:
        rates: dict[str, list[list[float]]] = {name: [] for name in (OURS, *sides)}
        bandwidth = []
        for number in range(rounds):
            bandwidth.append(bandwidth_gb_s(threads))
            for name, side in {OURS: ours, **sides}.items():
                rates[name].append(side(case))
                said = statistics.median(rates[name][-1])
                print(f"{case.name}, round {number + 1} of {rounds}: {name} {said:.2f} tok/s", file=sys.stderr)
        rows.append(row(case, ours, rates, bandwidth))
    return rows


def row(case: Case, ours: Ours, rates: Mapping[str, list[list[float]]], bandwidth: list[float]) -> dict[str, Any]:
    """Medians over all samples; the ratio's range is that of the rounds."""
    own = summary(rates[OURS])
    facts = ours.facts(case, own["median"])
    if facts:
        facts["share_of_bandwidth"] = facts["effective_gb_s"] / statistics.median(bandwidth)
    result: dict[str, Any] = {
        "case": case.name,
        "prefill": case.work.prefill,
        "decode": case.work.decode,
        "depth": case.work.depth,
        "batch": case.work.batch,
        OURS: own | facts,
        "bandwidth_gb_s": {"median": statistics.median(bandwidth), "samples": bandwidth},
        "wanted_ratio": case.target,
    }
    for name, turns in rates.items():
        if name == OURS:
            continue
        by_round = [statistics.median(a) / statistics.median(b) for a, b in zip(rates[OURS], turns)]
        theirs = summary(turns)
        ratio = {"ratio": own["median"] / theirs["median"], "ratio_min": min(by_round), "ratio_max": max(by_round)}
        result[name] = theirs | ratio
    return result


def summary(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    samples = [s for turn in turns for s in turn]
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def table(rows: list[dict[str, Any]], peers: Sequence[str]) -> str:
    """For a person, tok/s."""
    lines = [f"{'case':22} {OURS:>10} " + " ".join(f"{p:>22} {'ratio (rounds)':>20}" for p in peers) + "  wanted"]
    for r in rows:
        cells = [f"{r['case']:22} {r[OURS]['median']:10.2f}"]
        for p in peers:
            spread = f"{r[p]['ratio']:.2f} ({r[p]['ratio_min']:.2f}-{r[p]['ratio_max']:.2f})"
            cells.append(f"{r[p]['median']:22.2f} {spread:>20}")
        cells.append(f"{r['wanted_ratio']:7.2f}" if r["wanted_ratio"] else "      -")
        lines.append(" ".join(cells))
    return "\n".join(lines)


def options(description: str | None, weights: str) -> argparse.ArgumentParser:
    """What both comparisons take."""
    parser = output_option(description)
    parser.add_argument("--shape", choices=sorted(CASES), default="mini")
    parser.add_argument("--weights", default=weights, help="our mode; ratios to a 4-bit peer belong to all-4-bit")
    parser.add_argument("--precision", default="fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=2, help="samples per turn")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="may be given again")
    return parser


def chosen(given: argparse.Namespace, file: Path | None = None) -> tuple[ModelConfig, list[Case]]:
    """The shape, or that of a file, and its cases. Raises SystemExit that lists them for an unknown
    one."""
    cases = CASES[given.shape]
    unknown = set(given.only) - {c.name for c in cases}
    if unknown:
        raise SystemExit(f"no case {sorted(unknown)}; expected some of {[c.name for c in cases]}")
    config = named_shape(given.shape) if file is None else load_config(file)
    return config, [c for c in cases if not given.only or c.name in given.only]

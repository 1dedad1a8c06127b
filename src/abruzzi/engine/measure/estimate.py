"""Decode speed estimate of a model that is not loaded yet, by timing a part of it.

The compiled step runs on random weights of the model's own shapes and kinds, so that what an
instruction set, a mode of weights, short vectors, threads and calls cost is measured and not
assumed. A model up to WHOLE bytes is timed as it is. Of a larger one two pieces are: some layers of
experts, with as many experts as keep them out of the caches, and one dense layer with a part of the
head; the model's time is that of its layers, and for the second piece grows with the bytes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from abruzzi.arch import ModelConfig
from abruzzi.arch.modes import FORMATS
from abruzzi.arch.tensors import Role
from abruzzi.engine.measure.speed import Stopwatch, Workload
from abruzzi.engine.step.state import StepRunner
from abruzzi.engine.weights.packing import Precision, WeightMode
from abruzzi.engine.weights.random_model import random_model

WHOLE = 768 << 20
LAYERS = 2  # of experts that are timed
EXPERTS_BYTES = 256 << 20  # those take together, at least
VOCABULARY = 32768  # rows of the head that are timed
SMALL_VOCABULARY = 256
DEEPEST = 4096  # tokens in the cache; beyond, a step grows as it did up to there
WINDOW_SECONDS, WINDOWS = 0.12, 5
STEPS = 32  # between two looks at the clock; about as deep as `abruzzi bench` goes


@dataclass(frozen=True, slots=True)
class Probe:
    """A model to time. count: how often its step is in the whole model's; count_at_depth: how often
    what a filled cache adds to it."""

    config: ModelConfig
    count: float
    count_at_depth: float


def decode_seconds(
    config: ModelConfig,
    depths: Sequence[int],
    weights_bytes: int,
    weights: WeightMode = "native",
    precision: Precision = "exact",
    threads: int | None = None,
    experts: str = "int4",
) -> list[float]:
    """Seconds of one decode step of one sequence, with so many tokens behind it each. Takes a few
    seconds, and memory up to WHOLE. weights_bytes: of the whole model; experts: how its experts are
    held (ops.KINDS)."""
    total = [0.0] * len(depths)
    for probe in _probes(config, weights_bytes, experts):
        runner = random_model(probe.config, weights, precision, threads, experts=experts).runner
        shallow = _step_seconds(runner, 0)
        for i, depth in enumerate(depths):
            total[i] += probe.count * shallow
            if probed := min(depth, DEEPEST):
                deep = _step_seconds(runner, probed)
                total[i] += probe.count_at_depth * max(0.0, deep - shallow) * depth / probed
    return total


def _step_seconds(runner: StepRunner, depth: int) -> float:
    """Median of some windows, each the mean of its steps, as `abruzzi bench` has it."""
    watch = Stopwatch(runner, Workload(prefill=0, decode=STEPS, depth=depth))
    watch.decode()
    windows = []
    for _ in range(WINDOWS):
        steps, start = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - start < WINDOW_SECONDS:
            watch.decode()
            steps += STEPS
        windows.append((time.perf_counter() - start) / steps)
    return statistics.median(windows)


def _probes(c: ModelConfig, weights_bytes: int, experts: str) -> list[Probe]:
    if weights_bytes <= WHOLE:
        return [Probe(c, 1.0, 1.0)]
    found = []
    dense = min(c.first_k_dense_replace, c.num_hidden_layers)
    sparse = c.num_hidden_layers - dense
    if sparse:
        one = _elements(c, "routed_experts") / (sparse * c.n_routed_experts) * FORMATS[experts].bits_per_weight / 8
        wanted = max(2 * c.num_experts_per_tok, int(EXPERTS_BYTES / LAYERS / one) + 1)
        few = min(c.n_routed_experts, -(-wanted // c.n_group) * c.n_group)
        layers = min(LAYERS, sparse)
        shape = _cut(c, 0, layers, few, SMALL_VOCABULARY)
        found.append(Probe(shape, sparse / layers, sparse / layers))
    rows = min(c.vocab_size, VOCABULARY)
    shape = _cut(c, 1, 0, 0, rows)
    layer = _elements(shape, "attention", "dense_mlp")
    scale = (dense * layer + c.vocab_size * c.hidden_size) / (layer + rows * c.hidden_size)
    return [*found, Probe(shape, scale, float(dense))]


def _cut(c: ModelConfig, dense: int, sparse: int, experts: int, vocab_size: int) -> ModelConfig:
    return cast("ModelConfig", c.cut_to(dense, sparse, experts, vocab_size))


def _elements(c: ModelConfig, *roles: Role) -> int:
    """Of all matrices of these roles."""
    return sum(t.size * t.count for t in c.tensors() if t.role in roles)

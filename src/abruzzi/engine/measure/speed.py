"""Engine benchmark: prefill and decode timed on a runner, the machine's own limits in between.

The runner is driven as `LLM.step` drives it: a prompt in chunks of the scheduler's size, then one
step per token for all sequences together. Token ids are random, as in llama.cpp's llama-bench: what
is read and computed does not depend on what they mean, and a greedy continuation of random weights
would say the same word again and again, whose experts would stay in the caches. Not measured here:
sampling (`StepOverhead` is what the engine adds to a step).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.engine.block_pool import BLOCK_TOKENS
from abruzzi.engine.llm import LLM
from abruzzi.engine.scheduler import STEP_TOKENS
from abruzzi.engine.step.state import Chunk, KvCache, StepRunner
from abruzzi.kernels import ops
from abruzzi.types import SamplingParams

SEED_TOKENS = 64  # computed for real, then copied to fill a cache up to `depth`
WARM_STEPS = 4
PROBE_BYTES, PROBE_SECONDS = 512 << 20, 0.25


@dataclass(frozen=True, slots=True)
class Workload:
    """prefill: tokens of one prompt; decode: steps, each of one token for `batch` sequences that
    have `depth` tokens in the cache already. 0 of either leaves it out."""

    prefill: int = 512
    decode: int = 64
    depth: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        wrong = [n for n in ("prefill", "decode", "depth") if getattr(self, n) < 0]
        if wrong or self.batch < 1:
            raise ValueError(f"{self}; expected 0 or more of each and a batch of 1 or more")
        if not self.prefill and not self.decode:
            raise ValueError("prefill 0 and decode 0 leave nothing to measure; expected at least one of them")

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.prefill, self.depth + self.decode if self.decode else 0)

    @property
    def slots(self) -> int:
        """Of the cache, whole blocks."""
        sequence = -(-(self.depth + self.decode) // BLOCK_TOKENS) * BLOCK_TOKENS
        prompt = -(-self.prefill // BLOCK_TOKENS) * BLOCK_TOKENS
        return max(prompt, self.batch * sequence if self.decode else 0)


@dataclass(slots=True)
class Samples:
    """One number per round of each: tok/s (of all sequences together), GB/s that the machine reads,
    8-bit Gop/s."""

    prefill_tok_s: list[float] = field(default_factory=list)
    decode_tok_s: list[float] = field(default_factory=list)
    bandwidth_gb_s: list[float] = field(default_factory=list)
    integer_peak_gops: list[float] = field(default_factory=list)


class Stopwatch:
    """A cache that is filled up to the workload's depth, and the two things that are timed on
    it."""

    def __init__(self, runner: StepRunner, work: Workload, seed: int = 0) -> None:
        self._runner, self._work = runner, work
        self._rng = np.random.default_rng(seed)
        self.cache = KvCache(runner.config, work.slots, BLOCK_TOKENS)
        per_sequence = work.slots // BLOCK_TOKENS if not work.decode else -(-(work.depth + work.decode) // BLOCK_TOKENS)
        self._tables = np.arange(work.batch * per_sequence, dtype=np.int32).reshape(work.batch, -1)
        self._prompt_table = np.arange(-(-work.prefill // BLOCK_TOKENS), dtype=np.int32)
        if work.decode and work.depth:
            self._fill()

    def prefill(self, tokens: int | None = None) -> float:
        """Seconds of one prompt, in chunks of the scheduler's size; logits of its last token."""
        ids = self._ids(self._work.prefill if tokens is None else tokens)
        start = time.perf_counter()
        for at in range(0, len(ids), STEP_TOKENS):
            part = ids[at : at + STEP_TOKENS]
            blocks = self._prompt_table[: -(-(at + len(part)) // BLOCK_TOKENS)]
            self._runner.forward([Chunk(part, at, blocks, prefill_until=len(ids))], self.cache)
        return time.perf_counter() - start

    def decode(self, steps: int | None = None) -> float:
        """Seconds of `steps` steps of all sequences, from the workload's depth on."""
        work = self._work
        steps = work.decode if steps is None else steps
        ids = self._ids(steps * work.batch).reshape(steps, work.batch)
        start = time.perf_counter()
        for step, row in enumerate(ids):
            at = work.depth + step
            blocks = self._tables[:, : at // BLOCK_TOKENS + 1]
            self._runner.forward([Chunk(row[i : i + 1], at, blocks[i]) for i in range(work.batch)], self.cache)
        return time.perf_counter() - start

    def _ids(self, count: int) -> np.ndarray:
        return self._rng.integers(0, self._runner.config.vocab_size, count)

    def _fill(self) -> None:
        """Cache rows of some real tokens, copied to every place up to `depth`: a prefill of the
        whole depth would take minutes for a large model, and its speed is another measurement."""
        count = min(SEED_TOKENS, self._work.slots)
        blocks = np.arange(-(-count // BLOCK_TOKENS), dtype=np.int32)
        self._runner.forward([Chunk(self._ids(count), 0, blocks)], self.cache)
        source = self._rng.integers(0, count, self.cache.slots)
        source[:count] = np.arange(count)
        for layer in self.cache.rows:
            layer[count:] = layer[source[count:]]


def measure(
    runner: StepRunner,
    work: Workload,
    repeat: int,
    threads: int,
    probe_bytes: int = PROBE_BYTES,
    warm: Callable[[], None] | None = None,
    report: Callable[[int], None] | None = None,
) -> Samples:
    """`repeat` rounds of: bandwidth, integer peak, prefill, decode, after one that is not counted.

    The limits are measured in each round, because the neighbours of a virtual machine come and go.
    warm: called after the uncounted round, before anything but the model has claimed memory;
    report: told each round's number."""
    watch = Stopwatch(runner, work)
    if work.prefill:
        watch.prefill(min(work.prefill, STEP_TOKENS))
    if work.decode:
        watch.decode(min(work.decode, 4))
    if warm is not None:
        warm()
    found = Samples()
    for number in range(repeat):
        if report is not None:
            report(number)
        found.bandwidth_gb_s.append(bandwidth_gb_s(threads, probe_bytes))
        found.integer_peak_gops.append(statistics.median(ops.measure_int8_peak(threads, PROBE_SECONDS)) / 1e9)
        if work.prefill:
            found.prefill_tok_s.append(work.prefill / watch.prefill())
        if work.decode:
            # The bandwidth's buffer has pushed a small model out of the caches, where decoding
            # finds it.
            watch.decode(min(work.decode, WARM_STEPS))
            found.decode_tok_s.append(work.batch * work.decode / watch.decode())
    return found


def bandwidth_gb_s(threads: int, probe_bytes: int = PROBE_BYTES) -> float:
    """What reading memory reaches now: the median pass over `probe_bytes` within a moment."""
    return statistics.median(ops.measure_bandwidth(threads, probe_bytes, PROBE_SECONDS)) / 1e9


@dataclass(frozen=True, slots=True)
class StepOverhead:
    """What the engine adds to the compiled step: scheduling, sampling, bookkeeping. Medians over
    the steps."""

    step_s: float
    forward_s: float

    @property
    def overhead_s(self) -> float:
        return self.step_s - self.forward_s


def step_overhead(llm: LLM, steps: int, batch: int) -> StepOverhead:
    """`steps` decode steps of `batch` greedy sequences through `LLM.step`.

    A second engine over the same weights is used, so that `llm` is left as it is."""
    clock = _Clock(llm.runner)
    engine = LLM(llm.config, clock, llm.tokenizer, llm.name, batch * (steps + 2 * BLOCK_TOKENS), BLOCK_TOKENS)
    greedy = SamplingParams(temperature=0.0, max_tokens=steps + 1)
    for number in range(batch):
        engine.submit([number % llm.config.vocab_size], greedy).ends = frozenset()
    engine.step()  # the prompts
    whole, inside = [], []
    for _ in range(steps):
        before, start = clock.seconds, time.perf_counter()
        engine.step()
        whole.append(time.perf_counter() - start)
        inside.append(clock.seconds - before)
    return StepOverhead(statistics.median(whole), statistics.median(inside))


class _Clock:
    """A runner that says how long its steps took."""

    def __init__(self, runner: StepRunner) -> None:
        self.config: ModelConfig = runner.config
        self.seconds = 0.0
        self._runner = runner

    def forward(self, chunks: Sequence[Chunk], cache: KvCache) -> list[np.ndarray]:
        start = time.perf_counter()
        logits = self._runner.forward(chunks, cache)
        self.seconds += time.perf_counter() - start
        return logits

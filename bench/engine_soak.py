"""Thousands of short requests through the engine: does its memory grow, do blocks get lost.

    python bench/engine_soak.py [--requests 10000] [--model nano] [--seed 0] [--out FILE]

Requests are of all sorts, many under way at once: greedy and sampled, with stop strings and ids,
log-probabilities, thinking budgets and masks, several samples of a prompt, prompts that share a
beginning, prompts that are malformed, and some that are aborted at a random step. The cache is
small, so that some are preempted. Memory is what the process holds itself (anonymous pages) after a
collection, every twentieth part of the run; the growth is the slope of a line through the second
half.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import abruzzi
from abruzzi.engine.llm import LLM
from abruzzi.engine.sequence import Sequence as Running
from abruzzi.engine.weights.memory import give_back_freed
from abruzzi.types import SamplingParams
from machine import describe, emit, output_option

TOGETHER = 32
LOOKS = 20


@dataclass
class Tally:
    """What became of the requests."""

    finished: int = 0
    aborted: int = 0
    refused: int = 0
    tokens: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)  # requests so far, bytes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    path = abruzzi.nano_path() if given.model == "nano" else Path(given.model)
    llm = LLM.load(path, cache_tokens=512)
    tally = soak(llm, given.requests, given.seed)
    result = {
        "bench": "engine_soak",
        **describe(threads=llm.runner.threads),  # type: ignore[attr-defined]
        "settings": {"model": given.model, "requests": given.requests, "seed": given.seed, "together": TOGETHER},
        "seconds": time.monotonic() - started,
        "finished": tally.finished,
        "aborted": tally.aborted,
        "refused": tally.refused,
        "tokens": tally.tokens,
        "preemptions": llm.scheduler.preemptions,
        "blocks_held_at_the_end": llm.scheduler.pool.held,
        "bytes_per_request": growth(tally.memory),
        "memory": tally.memory,
    }
    emit(result, given.out)
    return 0


def soak(llm: LLM, requests: int, seed: int) -> Tally:
    """Raises AssertionError for a request that is not answered as it should be."""
    rng, tally = random.Random(seed), Tally()
    beginnings = [[rng.randrange(5, 200) for _ in range(60)] for _ in range(4)]
    alive: list[Running] = []
    asked = 0
    while asked < requests or alive:
        while asked < requests and len(alive) < TOGETHER:
            asked += 1
            made = submit(llm, rng, beginnings, tally)
            alive += made
            if asked % (requests // LOOKS) == 0:
                tally.memory.append((asked, anonymous_bytes()))
        llm.step()
        if alive and rng.random() < 0.05:
            llm.abort(alive.pop(rng.randrange(len(alive))))
            tally.aborted += 1
        for sequence in [s for s in alive if s.finish_reason is not None]:
            alive.remove(sequence)
            assert 1 <= len(sequence.tokens) <= sequence.limit and not sequence.blocks
            assert all(t.logprob <= 0 for t in sequence.tokens)
            tally.finished += 1
            tally.tokens += len(sequence.tokens)
    assert llm.scheduler.pool.held == 0 and not llm.scheduler.waiting and not llm.scheduler.running
    return tally


def submit(llm: LLM, rng: random.Random, beginnings: list[list[int]], tally: Tally) -> list[Running]:
    """One request; several sequences where samples are asked for, none where it is refused as it
    must be."""
    prompt = [*rng.choice(beginnings)[: rng.randrange(61)], *(rng.randrange(5, 200) for _ in range(rng.randint(1, 9)))]
    kind = rng.random()
    if kind < 0.05:
        broken: Any = rng.choice([[], [-1], [10**9], [5] * (llm.max_context + 1)])
        try:
            llm.submit(broken)
        except ValueError:
            tally.refused += 1
            return []
        raise AssertionError(f"{broken[:3]}... was accepted")
    if kind < 0.08:
        llm.generate_n(prompt, rng.randint(1, 3), max_tokens=5, stop=("a", "the"), seed=rng.randrange(1000))
        tally.finished += 1
        return []
    if kind < 0.11:
        events = llm.chat([{"role": "user", "content": "Hi"}], max_tokens=8, thinking_budget=3, temperature=1)
        for _ in zip(events, range(rng.randrange(1, 9))):
            pass
        events.close()  # type: ignore[attr-defined]
        tally.aborted += 1
        return []
    params = SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.5]),
        top_p=rng.choice([1.0, 0.9]),
        top_k=rng.choice([0, 20]),
        max_tokens=rng.randint(1, 12),
        seed=rng.choice([None, rng.randrange(1000)]),
        stop_token_ids=rng.choice([(), (77,)]),
        top_logprobs=rng.choice([0, 0, 5]),
    )
    return [llm.submit(prompt, params, _Even(llm.config.vocab_size) if kind < 0.15 else None)]


class _Even:
    """A mask that leaves every second id."""

    def __init__(self, vocabulary: int) -> None:
        self._mask = np.arange(vocabulary) % 2 == 0

    def allowed(self) -> np.ndarray:
        return self._mask

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == 0


def growth(memory: list[tuple[int, int]]) -> float:
    """Bytes per request: the slope of the least-squares line through the second half of the
    looks."""
    count, size = np.array(memory[len(memory) // 2 :], float).T
    return float(np.polyfit(count, size, 1)[0])


def anonymous_bytes() -> int:
    gc.collect()
    give_back_freed()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    raise SystemExit(main())

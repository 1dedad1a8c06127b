"""nano's accuracy: three families, three splits, four modes (thinking x tools), with 95 % Wilson intervals.

    python bench/nano_accuracy.py [--model DIR] [--n 50] [--out FILE] [--trained-samples N] [--processes P]

Greedy. Seeds are not those of training; with --trained-samples N, questions that occur word for word
among the first N training samples are left out as well. Tokens are counted by the engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import abruzzi
from abruzzi.evals.run import Sample, run_suite, summarize
from abruzzi.tasks import FIRST_FAMILIES, SPLITS, Task, make
from machine import describe, emit, output_option

MODES = [(True, True), (True, False), (False, True), (False, False)]
Job = tuple[str, bool, bool, str, str, list[Task]]  # model, thinking, with_tools, split, family, tasks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--n", type=int, default=50, help="tasks per family, split and mode")
    parser.add_argument("--trained-samples", type=int, default=0)
    parser.add_argument("--splits", nargs="*", default=list(SPLITS))
    parser.add_argument("--only-thinking-with-tools", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(arguments)
    seen = trained_questions(given.trained_samples)
    modes = MODES[:1] if given.only_thinking_with_tools else MODES
    started = time.monotonic()
    tasks = {(s, f): list(fresh(f, s, given.n, seen)) for s in given.splits for f in FIRST_FAMILIES}
    jobs = [(given.model, *mode, *which, tasks[which]) for mode in modes for which in tasks]
    with ProcessPoolExecutor(given.processes) as pool:
        solved = list(pool.map(solve, jobs))
    rows: list[dict[str, Any]] = []
    for thinking, with_tools in modes:
        for split in given.splits:
            of_split = {j[4]: r for j, r in zip(jobs, solved) if j[1:4] == (thinking, with_tools, split)}
            rows += [row(thinking, with_tools, split, family, samples) for family, samples in of_split.items()]
            samples = [s for r in of_split.values() for s in r]
            rows.append(row(thinking, with_tools, split, "all", samples))
            if short := [s for s in samples if s.steps <= 3]:
                rows.append(row(thinking, with_tools, split, "all, up to 3 steps", short))
    result = {
        "bench": "nano_accuracy",
        **describe(threads=1),
        "settings": {"n": given.n, "trained_samples_excluded": given.trained_samples, "temperature": 0},
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    emit(result, given.out)
    return 0


def solve(job: Job) -> list[Sample]:
    """One family of one split in one mode; in a process of its own."""
    model, thinking, with_tools, _, _, tasks = job
    llm = abruzzi.load(model)
    llm.thinking = thinking
    return list(run_suite(llm, tasks, with_tools=with_tools))


def row(thinking: bool, with_tools: bool, split: str, family: str, samples: list[Sample]) -> dict[str, Any]:
    return {"thinking": thinking, "tools": with_tools, "split": split, "family": family, **summarize(samples)}


def fresh(family: str, split: str, count: int, seen: set[str]) -> Iterator[Task]:
    seed = 0
    while count:
        task = make(family, split, seed)
        seed += 1
        if task.prompt_without_tools not in seen:
            count -= 1
            yield task


def trained_questions(samples: int) -> set[str]:
    if not samples:
        return set()
    from abruzzi.recipes.nano import training_task

    return {training_task(number).prompt_without_tools for number in range(samples)}


if __name__ == "__main__":
    raise SystemExit(main())

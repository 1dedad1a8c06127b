"""nano's accuracy: families, splits, modes (thinking x tools) with 95 % Wilson intervals; and
whether thinking matters.

    python bench/nano_accuracy.py [--model DIR] [--n 50] [--out FILE] [--trained-samples N] [--processes P]
    python bench/nano_accuracy.py --n 40 --only-thinking-with-tools --splits trained held_out
    python bench/nano_accuracy.py --budgets 0 16 32 64 128 256 --plot FILE.png

Greedy. Seeds are not those of training; with --trained-samples N, questions that occur word for
word among the first N training samples are left out as well. Tokens are counted by the engine.

"shuffled" is a control: the model thinks, the words of its thought are put in a random order
(numbers stay whole), and it goes on from there. It is a control at the time of answering: no model
was trained on such thoughts, so what it loses against not thinking at all says how much it relies
on a thought, not only what the thought is worth. A budget closes each thought after so many tokens;
with tools it counts for every thought of a question.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import abruzzi
from abruzzi import tokenizer
from abruzzi.evals.run import Sample, run_suite, summarize
from abruzzi.tasks import FAMILIES, FIRST_FAMILIES, SPLITS, Split, Task, make
from abruzzi.types import Event, Message, MessageEnd, SamplingParams, ToolSpec, Usage
from machine import describe, emit, output_option

MODES = {
    "thinking, tools": (True, True),
    "thinking": (True, False),
    "tools": (False, True),
    "neither": (False, False),
    "shuffled, tools": (True, True),
    "shuffled": (True, False),
}
PARAMS = SamplingParams(temperature=0.0, max_tokens=1024)


@dataclass(frozen=True)
class Job:
    """Tasks of one family and split in one mode."""

    model: str
    mode: str
    split: Split
    family: str
    tasks: list[Task]
    budget: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--n", type=int, default=50, help="tasks per family, split and mode")
    parser.add_argument("--trained-samples", type=int, default=0)
    parser.add_argument("--splits", nargs="*", default=list(SPLITS))
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--only-thinking-with-tools", action="store_true")
    parser.add_argument("--budgets", type=int, nargs="*", help="thinking tokens: a curve instead of the table")
    parser.add_argument("--plot", type=Path, help="draw the curve here (needs matplotlib)")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(arguments)
    seen = trained_questions(given.trained_samples)
    modes = ["thinking, tools"] if given.only_thinking_with_tools else given.modes
    started = time.monotonic()
    tasks = {(s, f): list(fresh(f, s, given.n, seen)) for s in given.splits for f in given.families}
    if given.budgets:
        modes = [m for m in modes if m in ("thinking, tools", "thinking")]
        jobs = [Job(given.model, m, *w, tasks[w], b) for b in given.budgets for m in modes for w in tasks]
    else:
        jobs = [Job(given.model, mode, *which, tasks[which]) for mode in modes for which in tasks]
    with ProcessPoolExecutor(given.processes) as pool:
        solved = list(zip(jobs, pool.map(solve, jobs)))
    rows = curve(solved) if given.budgets else table(solved)
    result = {
        "bench": "nano_accuracy",
        **describe(threads=1),
        "settings": {"n": given.n, "trained_samples_excluded": given.trained_samples, "temperature": 0},
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    emit(result, given.out)
    if given.plot:
        draw(rows, given.plot)
    return 0


def solve(job: Job) -> list[Sample]:
    """A job, in a process of its own."""
    llm = abruzzi.load(job.model)
    thinking, with_tools = MODES[job.mode]
    llm.thinking = thinking
    model = Shuffled(llm) if job.mode.startswith("shuffled") else llm
    return list(run_suite(model, job.tasks, with_tools=with_tools, params=replace(PARAMS, thinking_budget=job.budget)))


class Shuffled:
    """A ChatModel that goes on from its own thought with the words of it in a random order."""

    def __init__(self, llm: Any) -> None:
        self.name, self._llm, self._rng = llm.name, llm, random.Random(0)

    def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), params: SamplingParams = PARAMS
    ) -> Iterator[Event]:
        (thought,) = self._llm.chat(messages, tools, params, stream=False)
        words = (thought.message.reasoning_content or "").split()
        self._rng.shuffle(words)
        tok = self._llm.tokenizer
        prompt = tokenizer.render(tok, messages, list(tools) or None).ids
        put = [tok.id_of("<think>"), *tok.encode(" ".join(words)), tok.id_of("</think>")]
        done = self._llm.generate([*prompt, *put], params)
        parser = tokenizer.ChatParser(tok)
        parser.feed_all([*put, *done.ids])
        parser.finish()
        message = replace(parser.message(), ids=(*put, *done.ids), sampled=None)
        reason = "tool_calls" if done.finish_reason == "stop" and message.tool_calls else done.finish_reason
        yield MessageEnd(message, reason, Usage(len(prompt), 0, len(put) + len(done.ids)))


def table(solved: Iterable[tuple[Job, list[Sample]]]) -> list[dict[str, Any]]:
    """Every mode and split by family, and all families by number of steps."""
    solved = list(solved)
    rows: list[dict[str, Any]] = []
    for mode, split in dict.fromkeys((j.mode, j.split) for j, _ in solved):
        of_split = [(j, samples) for j, samples in solved if (j.mode, j.split) == (mode, split)]
        every = [(kind_of(task), s) for j, samples in of_split for task, s in zip(j.tasks, samples, strict=True)]
        first = [s for _, s in every if s.family in FIRST_FAMILIES]
        chosen = {
            **{kind: [s for k, s in every if k == kind] for kind in dict.fromkeys(k for k, _ in every)},
            "first families": first,
            "first families, up to 3 steps": [s for s in first if s.steps <= 3],
            "all": [s for _, s in every],
            "all, up to 3 steps": [s for _, s in every if s.steps <= 3],
            "all, 3 steps and more": [s for _, s in every if s.steps >= 3],
        }
        thinking, tools = MODES[mode]
        about = {"mode": mode, "thinking": thinking, "tools": tools, "split": split}
        rows += [{**about, "family": name, **summarize(samples)} for name, samples in chosen.items() if samples]
    return rows


def curve(solved: Iterable[tuple[Job, list[Sample]]]) -> list[dict[str, Any]]:
    """Accuracy by thinking budget: all families of a mode and split together, and each kind."""
    groups: dict[tuple[str, str, int, str], list[Sample]] = {}
    for job, samples in solved:
        assert job.budget is not None
        for task, sample in zip(job.tasks, samples, strict=True):
            for kind in ("all", kind_of(task)):
                groups.setdefault((job.mode, job.split, job.budget, kind), []).append(sample)
    return [
        {"mode": mode, "split": split, "budget": budget, "family": kind, **summarize(samples)}
        for (mode, split, budget, kind), samples in groups.items()
    ]


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """The curve as a picture: one line for each mode and split, with its intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=140)
    shown = [row for row in rows if row["family"] == "all"]
    for mode, split in dict.fromkeys((r["mode"], r["split"]) for r in shown):
        line = sorted((r for r in shown if (r["mode"], r["split"]) == (mode, split)), key=lambda r: r["budget"])
        at, score = [r["budget"] for r in line], [100 * r["score"] for r in line]
        spread = [[100 * abs(r["ci95"][end] - r["score"]) for r in line] for end in (0, 1)]
        axes.errorbar(at, score, yerr=spread, marker="o", capsize=3, label=f"{mode}, {split.replace('_', ' ')}")
    axes.set_xscale("symlog", base=2, linthresh=8)
    axes.set_xticks(ticks := sorted({r["budget"] for r in shown}), [str(b) for b in ticks])
    axes.set(xlabel="thinking budget (tokens per thought)", ylabel="solved (%), with 95 % intervals", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


def kind_of(task: Task) -> str:
    """The family; chains are told apart, since linked facts want a plan and sums want
    arithmetic."""
    if task.family != "chains":
        return task.family
    return "chains: linked facts" if any(re.match(r"first\.", t) for t in task.templates) else "chains: sums"


def fresh(family: str, split: Split, count: int, seen: set[str]) -> Iterator[Task]:
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

"""The suite runner: tasks on a ChatModel, scored by their verifiers, one JSON line per task,
resumable.

A task is solved with the same loop that a user's question is; the verifier is the task's own. Every
line carries the whole answer and its numbers, so a score can be recomputed without running again.
Cut answers (token or step limit) count as wrong and are counted apart.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from abruzzi.agent.loop import Finish, Limits, ToolResult, run
from abruzzi.evals.stats import wilson
from abruzzi.tasks import Task
from abruzzi.tools import ToolError
from abruzzi.types import ChatModel, Message, SamplingParams

_LINE_START = '{"task_id": '


@dataclass(frozen=True, slots=True)
class Sample:
    """One task, tried once."""

    task_id: str
    family: str
    split: str
    steps: int
    reward: float
    answer: str
    gold: str
    stop_reason: str
    tool_calls: int
    tool_errors: int
    completion_tokens: int
    reasoning_tokens: int
    seconds: float


def run_suite(
    model: ChatModel,
    tasks: Iterable[Task],
    *,
    with_tools: bool = True,
    params: SamplingParams = SamplingParams(temperature=0.0, max_tokens=512),
    limits: Limits = Limits(max_steps=12),
    out: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Sample]:
    """Yield a Sample per task, in order. With `out`, each is appended there as it ends, and tasks
    that the file already holds are not run again. Raises ValueError for a file that holds something
    else."""
    done = {s.task_id: s for s in read_samples(out)} if out is not None and out.exists() else {}
    for task in tasks:
        if task.id in done:
            yield done[task.id]
            continue
        sample = _try(model, task, with_tools, params, limits, clock)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        yield sample


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file. A last line without its newline was cut off by a crash: it is taken
    out of the file, and its task runs again. Raises ValueError for a file of anything else, which
    is left alone."""
    text = path.read_text(encoding="utf-8", errors="replace")
    *lines, cut = text.split("\n")
    samples = []
    for number, line in enumerate(lines, 1):
        try:
            samples.append(Sample(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number} is not a sample: {error}; hint: choose another file") from error
    if cut:
        if not (cut.startswith(_LINE_START) or _LINE_START.startswith(cut)):
            raise ValueError(f"{path}:{len(lines) + 1} is not a sample; hint: choose another file")
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return samples


def summarize(samples: Sequence[Sample]) -> dict[str, Any]:
    """Score, 95 % Wilson interval and counts of one suite. Raises ValueError without samples."""
    solved = sum(s.reward == 1.0 for s in samples)
    low, high = wilson(solved, len(samples))
    return {
        "n": len(samples),
        "solved": solved,
        "score": solved / len(samples),
        "ci95": [low, high],
        "truncated": sum(s.stop_reason in ("length", "max_steps", "max_seconds") for s in samples),
        "tool_calls": sum(s.tool_calls for s in samples),
        "tool_errors": sum(s.tool_errors for s in samples),
        "tokens": sum(s.completion_tokens for s in samples),
        "seconds": sum(s.seconds for s in samples),
    }


def _try(
    model: ChatModel,
    task: Task,
    with_tools: bool,
    params: SamplingParams,
    limits: Limits,
    clock: Callable[[], float],
) -> Sample:
    started = clock()
    results: list[ToolResult] = []
    finish: Finish | None = None
    prompt = task.prompt if with_tools else task.prompt_without_tools
    with task.open_tools() as tools:
        for event in run(model, [Message("user", prompt)], tools if with_tools else [], params, limits):
            if isinstance(event, ToolResult):
                results.append(event)
            elif isinstance(event, Finish):
                finish = event
    assert finish is not None
    finish.check()  # a server that is down has no accuracy
    return Sample(
        task_id=task.id,
        family=task.family,
        split=task.split,
        steps=task.steps,
        reward=task.reward(finish.answer) if finish.stop_reason == "answer" else 0.0,
        answer=finish.answer,
        gold=task.answer,
        stop_reason=finish.stop_reason,
        tool_calls=len(results),
        tool_errors=sum(isinstance(r.result, ToolError) for r in results),
        completion_tokens=finish.usage.completion_tokens,
        reasoning_tokens=finish.usage.reasoning_tokens,
        seconds=clock() - started,
    )

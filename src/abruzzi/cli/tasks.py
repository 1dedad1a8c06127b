"""`abruzzi tasks show FAMILY` and `abruzzi tasks list`: what trains and measures a model, with its
gold."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.exit_codes import OK

if TYPE_CHECKING:
    from abruzzi.tasks import Task
    from abruzzi.types import Message

HELP = "The task families that train and measure a model."
SHOW_HELP = """Print examples of a task family: question, tools, gold trajectory, answer.

The gold is played: its tool results come from running the tools. Seeds count up from --seed; the same seed is the same
task. A family reasoning_gym/NAME is a generator of that library.

Example: abruzzi tasks show word_problems -n 3
"""
LIST_HELP = """Print the names of the task families, a line each.

Example: abruzzi tasks list
"""
_WIDTH = 100
_LABEL = 10


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP)
    group.command("show", help=SHOW_HELP)(show)
    group.command("list", help=LIST_HELP)(list_families)
    app.add_typer(group, name="tasks")


def show(
    family: str = typer.Argument(..., metavar="FAMILY", help="word_problems, puzzles, ...; see `abruzzi tasks list`."),
    count: int = typer.Option(10, "-n", min=1, metavar="N", help="How many."),
    split: str = typer.Option(
        "trained", "--split", help="trained, held_out (phrasings that training never shows) or longer (more steps)."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="The first one's seed."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object per line and task."),
) -> int:
    from abruzzi.tasks import make

    _check(family, split)
    for number in range(seed, seed + count):
        task = make(family, split, number)  # type: ignore[arg-type]
        if as_json:
            print(json.dumps(_as_json(task), ensure_ascii=False))
        else:
            print("\n".join(_lines(task)), end="\n\n")
    return OK


def list_families() -> int:
    from abruzzi.tasks import FAMILIES

    print("\n".join(FAMILIES))
    return OK


def _check(family: str, split: str) -> None:
    from abruzzi.tasks import FAMILIES, SPLITS

    if family not in FAMILIES and not family.startswith("reasoning_gym/"):
        expected = f"{', '.join(FAMILIES)} or reasoning_gym/NAME"
        raise typer.BadParameter(f"task family {family!r} is unknown; expected one of {expected}")
    if split not in SPLITS:
        raise typer.BadParameter(f"--split {split!r} is unknown; expected one of {', '.join(SPLITS)}")


def _data(task: Task) -> str:
    """The table or the files that the tools work on, as text."""
    return task.prompt_without_tools.partition("\n\n")[2] if task.has_trajectories else ""


def _as_json(task: Task) -> dict[str, Any]:
    with task.open_tools() as tools:
        offered = [tool.spec.name for tool in tools]
    return {
        "id": task.id,
        "family": task.family,
        "split": task.split,
        "steps": task.steps,
        "phrasings": list(task.templates),
        "question": task.prompt,
        "question_without_tools": task.prompt_without_tools,
        "tools": offered,
        "gold": [message.to_openai() for message in _gold(task, tools=True)],
        "gold_without_tools": [message.to_openai() for message in _gold(task, tools=False)],
        "mistakes": list(task.mistakes()),
        "answer": task.answer,
    }


def _gold(task: Task, tools: bool) -> tuple[Message, ...]:
    return task.gold(thinking=task.has_trajectories, tools=tools)


def _lines(task: Task) -> Iterator[str]:
    with task.open_tools() as tools:
        offered = ", ".join(tool.spec.name for tool in tools)
    slips = task.mistakes()
    yield f"--- {task.id}"
    yield from _labelled("question", task.prompt)
    if data := _data(task):
        yield from _labelled("data", data)
    yield from _labelled("tools", offered or "none")
    for number, message in enumerate(_gold(task, tools=True)):
        if message.role == "tool":
            yield from _labelled("result", message.content or "")
            continue
        if message.reasoning_content:
            yield from _labelled("thought", message.reasoning_content)
        for call in message.tool_calls:
            slip = "   (a planted slip)" if number in slips else ""
            yield from _labelled("call", f"{call.name} {call.arguments}{slip}")
        if message.content:
            yield from _labelled("answer", message.content)
    yield from _labelled("gold", task.answer)


def _labelled(label: str, text: str) -> Iterator[str]:
    """`text` wrapped, with its label in front of the first line."""
    width = _WIDTH - _LABEL
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width, break_long_words=False) or [""]]
    for number, line in enumerate(lines):
        yield f"{label if number == 0 else '':<{_LABEL}}{line}".rstrip()

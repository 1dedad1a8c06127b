"""`abruzzi tasks` as a person runs it."""

from __future__ import annotations

import json

import pytest

from abruzzi.tasks import FAMILIES, make
from abruzzi.types import Message
from tests.e2e.test_cli import abruzzi


def test_json_lines_hold_the_task_and_a_gold_that_gets_the_reward() -> None:
    done = abruzzi("tasks", "show", "table_questions", "-n", "4", "--split", "held_out", "--seed", "20", "--json")
    assert done.returncode == 0 and done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == [f"table_questions-held_out-{seed}" for seed in range(20, 24)]
    for seed, line in enumerate(lines, 20):
        task = make("table_questions", "held_out", seed)
        assert (line["question"], line["answer"]) == (task.prompt, task.answer)
        assert line["tools"] == ["table", "calculator"]
        for gold, tools in (("gold", True), ("gold_without_tools", False)):
            messages = tuple(Message.from_openai(message) for message in line[gold])
            assert messages == task.gold(thinking=True, tools=tools)
            assert task.reward(messages[-1].content or "") == 1.0


def test_ten_examples_can_be_read_by_a_person() -> None:
    text = abruzzi("tasks", "show", "folder_facts").stdout
    assert text.count("--- folder_facts-trained-") == 10
    assert max(map(len, text.splitlines())) <= 100
    for seed in range(10):
        shown = text.split(f"--- folder_facts-trained-{seed}\n")[1].split("\n--- ")[0]
        plain = " ".join(shown.split())
        task = make("folder_facts", "trained", seed)
        assert plain.startswith(f"question {' '.join(task.prompt.split())} data [")
        assert plain.endswith(f"answer {task.sentence} gold {task.answer}")
        moves = [m for m in task.gold(thinking=True, tools=True) if m.role == "assistant"]
        assert shown.count("\ncall ") == sum(len(m.tool_calls) for m in moves) == shown.count("\nresult ")
        assert shown.count("(a planted slip)") == len(task.mistakes())
        thoughts = [" ".join((m.reasoning_content or "").split()) for m in moves]
        assert all(f"thought {thought} " in plain for thought in thoughts)


def test_all_families_are_listed_and_named_where_one_is_unknown() -> None:
    assert abruzzi("tasks", "list").stdout.split() == list(FAMILIES)
    done = abruzzi("tasks", "show", "word_problem")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert f"'word_problem' is unknown; expected one of {', '.join(FAMILIES)}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chains", "--split", "test"], "--split 'test' is unknown; expected one of trained, held_out, longer"),
        (["chains", "-n", "0"], "-n"),
        (["chains", "--seed", "-1"], "--seed"),
        ([], "FAMILY"),
    ],
)
def test_wrong_use_is_a_usage_error(arguments: list[str], says: str) -> None:
    done = abruzzi("tasks", "show", *arguments)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert says in done.stderr


def test_help_has_an_example() -> None:
    for command in ("show", "list"):
        assert f"Example: abruzzi tasks {command}" in abruzzi("tasks", command, "--help").stdout

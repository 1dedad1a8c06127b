"""The model that ships: small, INT4, and it does what README and `make demo` say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import abruzzi
from abruzzi.checkpoint import open_checkpoint
from abruzzi.evals.run import run_suite, summarize
from abruzzi.tasks import examples, make
from tests.e2e.test_cli import abruzzi as command

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"
LIMIT = 40_000_000  # bytes; every clone carries it


def test_it_is_small_and_its_experts_are_int4() -> None:
    path = abruzzi.nano_path()
    assert sum(f.stat().st_size for f in path.iterdir()) <= LIMIT
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config.max_position_embeddings >= 2048
        experts = [n for n in checkpoint.names() if ".experts." in n and "shared" not in n]
        assert experts and all(checkpoint.is_int4(n) for n in experts)


def test_the_demo_ends_with_the_right_answer() -> None:
    (question,) = re.findall(r'abruzzi run "([^"]+)"', MAKEFILE.read_text())
    (task,) = [t for t in examples() if t.prompt == question]
    done = command("run", "--json", question)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert task.steps >= 2 and task.reward(said["answer"]) == 1.0
    assert said["reasoning"] and len(said["tool_calls"]) >= 2 and said["model"] == "nano"


def test_an_example_runs_with_its_own_tools() -> None:
    listed = command("run", "--examples").stdout
    assert len(re.findall(r"^\d\. ", listed, re.MULTILINE)) == len(examples())
    table = next(i for i, t in enumerate(examples(), 1) if t.family == "table_questions")
    said = json.loads(command("run", "--json", "--example", str(table)).stdout)
    assert said["tool_calls"] and said["tool_calls"][0]["name"] == "table"
    for wrong in (["--example", "99"], ["--example", "1", "and a prompt"]):
        done = command("run", *wrong)
        assert done.returncode == 2 and "--example" in done.stderr


@pytest.mark.parametrize(("family", "floor"), [("word_problems", 10), ("table_questions", 11), ("folder_facts", 11)])
def test_as_many_questions_are_answered_as_the_record_promises(family: str, floor: int) -> None:
    """A floor below the record under bench/records (which has the intervals): 12 questions per
    family."""
    llm = abruzzi.load("nano")
    summary = summarize(list(run_suite(llm, [make(family, "trained", 5000 + n) for n in range(12)])))
    assert summary["solved"] >= floor, summary

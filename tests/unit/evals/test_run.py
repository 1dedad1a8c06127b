"""A suite: right and wrong answers scored, cut ones counted, resumable after a crash at any
byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from abruzzi.agent.loop import Limits
from abruzzi.evals.run import read_samples, run_suite, summarize
from abruzzi.evals.stats import wilson
from abruzzi.tasks import Task, make
from abruzzi.types import MessageEnd
from tests.scripted import ScriptedModel, say

TASKS = [make("word_problems", "trained", seed) for seed in range(5)]


def gold_script(task: Task) -> list[MessageEnd]:
    """The gold trajectory with thinking and tools, as a model would say it."""
    return [
        say(m.content, *((c.name, c.arguments) for c in m.tool_calls), thought=m.reasoning_content)
        for m in task.gold(thinking=True, tools=True)
        if m.role == "assistant"
    ]


def model_of(*scripts: list[MessageEnd]) -> ScriptedModel:
    return ScriptedModel(*(message for script in scripts for message in script))


def test_gold_is_right_and_anything_else_is_not() -> None:
    first, _, third, _, fifth = TASKS
    cut = [say("The answer is " + third.answer, reason="length")]
    wrong_call = [say("", ("calculator", '{"expression": "1 +"}')), say("It is -1.")]
    model = model_of(gold_script(first), [say("I do not know.")], cut, wrong_call, gold_script(fifth))
    samples = list(run_suite(model, TASKS))
    assert [s.reward for s in samples] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert [s.task_id for s in samples] == [t.id for t in TASKS]
    assert samples[2].stop_reason == "length"
    assert (samples[3].tool_calls, samples[3].tool_errors) == (1, 1)
    assert samples[0].completion_tokens == 5 * len(gold_script(first))
    summary = summarize(samples)
    assert (summary["n"], summary["solved"], summary["score"], summary["truncated"]) == (5, 2, 0.4, 1)
    assert summary["ci95"] == list(wilson(2, 5))
    assert summary["tokens"] == sum(s.completion_tokens for s in samples)


def test_a_model_without_tools_gets_the_facts_in_the_prompt() -> None:
    task = make("table_questions", "trained", 0)
    model = model_of([say(f"It is {task.answer}.")])
    (sample,) = run_suite(model, [task], with_tools=False)
    (messages, tools) = model.asked[0]
    assert sample.reward == 1.0 and tools == ()
    assert messages[0].content == task.prompt_without_tools != task.prompt


def test_a_loop_without_end_stops_at_the_limit() -> None:
    again = say("", ("calculator", '{"expression": "1 + 1"}'))
    (sample,) = run_suite(model_of([again] * 3), TASKS[:1], limits=Limits(max_steps=3))
    assert (sample.reward, sample.stop_reason, sample.tool_calls) == (0.0, "max_steps", 3)


@pytest.mark.parametrize("kept", [0, 1, 40, -40, -1])
def test_a_suite_goes_on_where_it_was_cut(tmp_path: Path, kept: int) -> None:
    """The file cut off at any byte: whole lines stay as they are, the rest is run again, nothing
    twice."""
    out = tmp_path / "samples.jsonl"
    scripts = [gold_script(t) for t in TASKS[:3]]
    whole = list(run_suite(model_of(*scripts), TASKS[:3], out=out, clock=lambda: 0.0))
    text = out.read_bytes()
    out.write_bytes(text[:kept])
    lines = text[:kept].count(b"\n")
    model = model_of(*scripts[lines:])
    assert list(run_suite(model, TASKS[:3], out=out, clock=lambda: 0.0)) == whole
    assert model.script == [] and out.read_bytes() == text
    # All there: the model is not asked at all.
    assert list(run_suite(model_of(), TASKS[:3], out=out)) == whole == read_samples(out)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    for text in ("shopping list\nmilk\n", "milk", "{}\n", '{"task_id": "a"}\n'):
        out.write_text(text)
        with pytest.raises(ValueError, match=r"notes.txt:1 is not a sample.*hint"):
            list(run_suite(model_of(), TASKS, out=out))
        assert out.read_text() == text


def test_no_samples_no_score() -> None:
    with pytest.raises(ValueError):
        summarize([])

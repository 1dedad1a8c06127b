"""The loop: history stays valid whatever the model does, and every end has its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abruzzi import tokenizer
from abruzzi.agent.client import EndpointError
from abruzzi.agent.loop import Finish, Interrupted, Limits, ToolResult, run
from abruzzi.tools import ToolError, ToolOk
from abruzzi.tools.calculator import Calculator
from abruzzi.types import ContentDelta, ContextFull, Message, MessageEnd, SamplingParams, ToolCall
from tests import tiny
from tests.scripted import ScriptedModel, say

ASK = [Message("user", "What is 6 * 7 plus 1?")]


def play(model: ScriptedModel, history=None, limits: Limits = Limits(), clock=None) -> tuple[Finish, list[ToolResult]]:
    events = list(run(model, history or ASK, [Calculator()], limits=limits, **({"clock": clock} if clock else {})))
    assert isinstance(events[-1], Finish)
    return events[-1], [e for e in events if isinstance(e, ToolResult)]


def test_think_call_read_answer() -> None:
    model = ScriptedModel(
        say("", ("calculator", '{"expression": "6 * 7"}'), thought="first the product"),
        say("", ("calculator", '{"expression": "42 + 1"}'), thought="then one more"),
        say("It is 43.", thought="done"),
    )
    finish, results = play(model)
    assert (finish.stop_reason, finish.answer, finish.steps) == ("answer", "It is 43.", 3)
    assert [r.result.message for r in results] == ["42", "43"]
    assert [m.role for m in finish.messages] == ["assistant", "tool", "assistant", "tool", "assistant"]
    # Every later request carries the whole turn, thinking included, and only ever grows.
    asked = [messages for messages, _ in model.asked]
    assert [len(a) for a in asked] == [1, 3, 5]
    assert asked[2][: len(asked[1])] == asked[1]
    assert asked[2][1].reasoning_content == "first the product"
    assert finish.usage.completion_tokens == 15 and finish.usage.reasoning_tokens == 6
    assert len(ASK) == 1 and ASK[0].content == "What is 6 * 7 plus 1?"
    assert model.asked[0][1][0].name == "calculator"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("calculator", '{"expression": "6 *'), "not valid JSON"),
        (("calculator", '["6"]'), "must be a JSON object"),
        (("calculator", '{"expr": "6"}'), "/expression is missing"),
        (("calculater", '{"expression": "6"}'), "did you mean 'calculator'"),
        (("", "{}"), "there is no tool ''"),
        (("calculator", '{"expression": "6 apples"}'), "unexpected 'apples'"),
    ],
)
def test_a_bad_call_is_a_result_that_the_model_reads(call: tuple[str, str], says: str) -> None:
    model = ScriptedModel(say("", call), say("sorry"))
    finish, (result,) = play(model)
    assert isinstance(result.result, ToolError) and says in result.result.message
    assert model.asked[1][0][-1].content == result.result.message
    assert finish.stop_reason == "answer"


def test_every_call_gets_exactly_one_result_with_its_own_id() -> None:
    same = ("calculator", '{"expression": "1 + 1"}')
    taken = Message("assistant", "", tool_calls=(ToolCall("calculator", "{}", "call_1"),))
    history = [*ASK, taken, Message("tool", "x", tool_call_id="call_1"), Message("user", "again")]
    model = ScriptedModel(say("", same, same, same), say("", same), say("ok"))
    finish, results = play(model, history)
    ids = [r.call.id for r in results]
    assert len(set(ids)) == 4 and "call_1" not in ids
    assert [m.tool_call_id for m in finish.messages if m.role == "tool"] == ids
    # The rendered conversation is valid: every result finds its call.
    tok = tiny.vocabulary()
    text = tok.decode(tokenizer.render(tok, [*history, *finish.messages]).ids)
    assert text.count("## Return of functions.calculator:") == 5
    assert "functions.calculator:4" in text


def test_ids_that_the_model_gives_are_kept() -> None:
    end = say("", ("calculator", '{"expression": "1"}'))
    end = replace(end, message=replace(end.message, tool_calls=(replace(end.message.tool_calls[0], id="toolu_9"),)))
    _, (result,) = play(ScriptedModel(end, say("ok")))
    assert result.call.id == "toolu_9" and isinstance(result.result, ToolOk)


def with_ids(*ids: str) -> MessageEnd:
    """A message of one call for each id, ids as a server gives them."""
    end = say("", *[("calculator", '{"expression": "1"}')] * len(ids))
    calls = tuple(replace(call, id=call_id) for call, call_id in zip(end.message.tool_calls, ids))
    return replace(end, message=replace(end.message, tool_calls=calls))


@pytest.mark.parametrize(
    "script",
    [
        [with_ids("toolu_9", "toolu_9")],  # twice in a message
        [with_ids("toolu_9"), with_ids("toolu_9")],  # again in the next step
        [with_ids("call_1", "")],  # what we would have given the second one ourselves
        [with_ids("", "call_0", "call_0", "call_0_")],
        [with_ids("functions.calculator:0", "functions.calculator:0", "x"), with_ids("x", "functions.calculator:0")],
    ],
    ids=["in a message", "in the next step", "ours given by the model", "with our suffix", "as K2 spells them"],
)
def test_an_id_that_a_model_repeats_is_made_unique(script: list[MessageEnd]) -> None:
    finish, results = play(ScriptedModel(*script, say("ok")))
    ids = [r.call.id for r in results]
    assert all(ids) and len(set(ids)) == len(ids) == sum(len(end.message.tool_calls) for end in script)
    # Each first use of an id is kept, and every message says the same ids as the results.
    assert ids[0] == (script[0].message.tool_calls[0].id or "call_0")
    assert [c.id for m in finish.messages for c in m.tool_calls] == ids
    assert [m.tool_call_id for m in finish.messages if m.role == "tool"] == ids
    tok = tiny.vocabulary()
    text = tok.decode(tokenizer.render(tok, [*ASK, *finish.messages]).ids)
    assert text.count("## Return of functions.calculator:") == len(ids)


@pytest.mark.parametrize(
    ("script", "limits", "reason", "steps"),
    [
        ([say("", ("calculator", "{}"))] * 5, Limits(max_steps=3), "max_steps", 3),
        ([say("half an ans", reason="length")], Limits(), "length", 1),
        ([say("", thought="only a thought")], Limits(), "no_answer", 1),
        ([say("  \n")], Limits(), "no_answer", 1),
    ],
)
def test_each_end_has_a_name(script: list, limits: Limits, reason: str, steps: int) -> None:
    finish, _ = play(ScriptedModel(*script), limits=limits)
    assert (finish.stop_reason, finish.steps) == (reason, steps)


@pytest.mark.parametrize(("reason", "stop"), [("length", "length"), ("abort", "aborted")])
def test_a_cut_call_is_not_run_but_answered(reason: str, stop: str) -> None:
    # A whole call in a cut message is not run either: nobody knows whether it was the last one
    # wanted.
    finish, (result,) = play(ScriptedModel(say("", ("calculator", '{"expression": "1"}'), reason=reason)))
    assert finish.stop_reason == stop
    assert isinstance(result.result, ToolError) and "cut off" in result.result.message
    assert [m.role for m in finish.messages] == ["assistant", "tool"]


def test_time_is_checked_between_steps() -> None:
    now = iter(range(0, 1000, 10))
    model = ScriptedModel(*[say("", ("calculator", '{"expression": "1"}'))] * 9)
    finish, _ = play(model, limits=Limits(max_seconds=100), clock=lambda: float(next(now)))
    assert finish.stop_reason == "max_seconds" and 0 < finish.steps < 9


def test_tools_that_fill_the_context_end_the_turn_and_what_was_done_is_kept() -> None:
    class Small(ScriptedModel):
        """Holds three messages."""

        def chat(self, messages, tools=(), params=SamplingParams()):
            if len(messages) > 3:
                raise ContextFull("the prompt has 9 tokens but the context holds 8")
            return super().chat(messages, tools, params)

    calls = [say("", ("calculator", '{"expression": "6 * 7"}'))] * 2
    finish, results = play(Small(*calls))
    assert (finish.stop_reason, finish.answer, finish.steps) == ("length", "", 3) and len(results) == 2
    assert [m.role for m in finish.messages] == ["assistant", "tool", "assistant", "tool"]
    finish.check()
    full, _ = play(Small(*calls), history=ASK * 4)
    assert (full.stop_reason, full.messages) == ("length", ())
    with pytest.raises(ContextFull, match="the context holds 8"):
        full.check()  # what was asked is too long, and whoever asked can shorten it


class Failing(ScriptedModel):
    """Ends its script with an exception, behind a piece of an answer."""

    def __init__(self, *script: MessageEnd, error: BaseException) -> None:
        super().__init__(*script)
        self.error = error

    def chat(self, messages, tools=(), params=SamplingParams()):
        if not self.script:
            yield ContentDelta("It is 4")
            raise self.error
        yield from super().chat(messages, tools, params)


CALL = say("", ("calculator", '{"expression": "6 * 7"}'), thought="first the product")


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize(
    "error",
    [EndpointError("down"), RuntimeError("kernel"), ValueError("params"), KeyError("x"), MemoryError(), OSError(5)],
)
def test_a_generation_that_fails_ends_the_run_with_the_turn_kept(before: int, error: Exception) -> None:
    finish, results = play(Failing(*[CALL] * before, error=error))
    assert finish.stop_reason == "error" and finish.error is error and finish.steps == before + 1
    assert [m.role for m in finish.messages] == ["assistant", "tool"] * before and len(results) == before
    assert finish.answer == "It is 4" and finish.usage.completion_tokens == 5 * before
    with pytest.raises(type(error)):
        finish.check()


def test_a_model_that_forgets_its_end_is_an_error_and_keeps_the_turn() -> None:
    class Endless(ScriptedModel):
        def chat(self, messages, tools=(), params=SamplingParams()):
            return super().chat(messages, tools, params) if self.script else iter([ContentDelta("and")])

    finish, _ = play(Endless(CALL))
    assert finish.stop_reason == "error" and "MessageEnd" in str(finish.error) and len(finish.messages) == 2


def test_a_generation_that_the_engine_gave_up_is_an_error() -> None:
    finish, _ = play(ScriptedModel(CALL, say("half", reason="error")))
    assert (finish.stop_reason, finish.answer, len(finish.messages)) == ("error", "half", 3)


def test_ctrl_c_is_raised_and_holds_the_turn() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        play(Failing(CALL, error=KeyboardInterrupt()))
    assert isinstance(caught.value, Interrupted)
    assert [m.role for m in caught.value.finish.messages] == ["assistant", "tool"]
    assert caught.value.finish.stop_reason == "aborted"


def test_ctrl_c_in_a_tool_leaves_no_call_without_a_result() -> None:
    class Slow(Calculator):
        def run(self, arguments):
            if arguments["expression"] == "2":
                raise KeyboardInterrupt
            return super().run(arguments)

    calls = [("calculator", f'{{"expression": "{n}"}}') for n in (1, 2, 3)]
    with pytest.raises(Interrupted) as caught:
        list(run(ScriptedModel(say("", *calls)), ASK, [Slow()]))
    asked, *results = caught.value.finish.messages
    assert [r.tool_call_id for r in results] == [c.id for c in asked.tool_calls]
    assert results[0].content == "1" and "not run" in (results[2].content or "")


def test_an_error_of_the_reader_is_the_readers_own() -> None:
    events = run(ScriptedModel(CALL), ASK, [Calculator()])
    next(events)
    with pytest.raises(ZeroDivisionError):
        events.throw(ZeroDivisionError())  # type: ignore[attr-defined]

"""call_tool: whatever a model writes becomes a result that it can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.tools import ToolError, ToolOk, call_tool
from abruzzi.types import ToolCall, ToolSpec

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 5},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "flag": {"type": "boolean"},
        "ratio": {"type": "number"},
    },
    "required": ["text"],
    "additionalProperties": False,
}


class Echo:
    spec = ToolSpec("echo", "Say it again.", SCHEMA)

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
        if arguments["text"] == "boom":
            raise RuntimeError("a secret of the inside")
        return ToolOk(repr(dict(arguments)), "echoed")


def call(arguments: str, name: str = "echo") -> ToolOk | ToolError:
    return call_tool([Echo()], ToolCall(name, arguments))


def test_good_arguments_reach_the_tool_as_they_are() -> None:
    given_ = '{"text": "hé", "kind": "a", "count": 9, "flag": true, "ratio": 2}'
    assert call(given_).message == "{'text': 'hé', 'kind': 'a', 'count': 9, 'flag': True, 'ratio': 2}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"text": ', "not valid JSON"),
        ("", "not valid JSON"),
        ("null", "must be a JSON object"),
        ('{"text": "x", "text": "y"}', "name a key twice"),
        ('{"text": NaN}', "NaN is not JSON"),
        ('{"text": 1}', "/text must be of type string, not 1"),
        ('{"text": "x", "count": true}', "/count must be of type integer, not true"),
        ('{"text": "x", "count": 1.5}', "/count must be of type integer, not 1.5"),
        ('{"text": "x", "count": 0}', "at least 1"),
        ('{"text": "x", "count": 10}', "at most 9"),
        ('{"text": "x", "kind": "c"}', "one of a, b"),
        ('{"text": "123456"}', "6 characters, more than 5"),
        ('{"text": "x", "more": 1}', "no argument /more"),
        ("{}", "/text is missing"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": "' + "x" * 100_001 + '"}', "more than 100000"),
        ('{"count": ' + "9" * 5000 + "}", "5000 digits is too long"),
    ],
)
def test_bad_arguments_are_named_and_the_right_ones_shown(arguments: str, says: str) -> None:
    result = call(arguments)
    assert isinstance(result, ToolError) and says in result.message
    assert '"text": string' in result.message and "(optional)" in result.message


def test_unknown_tools_and_tools_that_break() -> None:
    assert "did you mean 'echo'" in call("{}", "ecko").message
    assert "Available: none" in call_tool([], ToolCall("x", "{}")).message
    broken = call('{"text": "boom"}')
    assert isinstance(broken, ToolError)
    assert "RuntimeError" in broken.message and "secret" not in broken.message


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda b: b.decode("latin-1")), st.text(max_size=10))
def test_anything_is_answered(arguments: str, name: str) -> None:
    for tool in ("echo", name):
        assert isinstance(call(arguments, tool), (ToolOk, ToolError))


class Misbehaves(Echo):
    """Does what a tool must not; `spec` takes any arguments."""

    spec = ToolSpec("echo", "", {})

    def __init__(self, result: Any) -> None:
        self.result = result

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Unlike(BaseException):
    pass


@pytest.mark.parametrize(
    "problem",
    [
        *(RuntimeError("a secret"), SystemExit(1), GeneratorExit(), MemoryError(), RecursionError(), StopIteration()),
        *(Unlike("a secret"), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), OSError(28, "a secret"), AssertionError()),
        *(None, "text", 5, ToolOk(5, "x"), ToolError(None, "x"), {"message": "x"}),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_whatever_a_tool_does_is_a_result(problem: Any) -> None:
    result = call_tool([Misbehaves(problem)], ToolCall("echo", "{}"))
    assert isinstance(result, ToolError) and "the tool echo failed" in result.message
    assert "secret" not in result.message


def test_only_the_persons_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        call_tool([Misbehaves(KeyboardInterrupt())], ToolCall("echo", "{}"))


def test_a_tool_that_recurses_without_end_is_a_result() -> None:
    class Deep(Misbehaves):
        def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
            return self.run(arguments)

    assert "RecursionError" in call_tool([Deep(None)], ToolCall("echo", "{}")).message


def test_text_that_cannot_be_encoded_goes_no_further() -> None:
    for result in (
        call_tool([Misbehaves(ToolOk("a\ud800b", "c\udfff"))], ToolCall("echo", "{}")),
        call('{"text": "x", "\\ud800": 1}'),
        call('{"text": "x", "kind": "\\ud800"}'),
        call("{}", "\ud800"),
    ):
        (result.message + result.brief).encode()


@pytest.mark.parametrize(("text", "number"), [("2.0", 2), ("1e2", 100), ("-0.0", 0), ("3", 3)])
def test_a_whole_number_is_an_integer_however_it_is_written(text: str, number: int) -> None:
    (given_,) = [call(f'{{"text": "x", "ratio": {text}}}').message]
    assert given_ == f"{{'text': 'x', 'ratio': {number}}}"


def test_a_number_that_overflows_is_no_number() -> None:
    assert "the number 1e999 is too large" in call('{"text": "x", "ratio": 1e999}').message

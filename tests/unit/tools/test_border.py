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
        ('{"text": 1}', "'text' must be of type string"),
        ('{"text": "x", "count": true}', "'count' must be of type integer"),
        ('{"text": "x", "count": 1.5}', "'count' must be of type integer"),
        ('{"text": "x", "count": 0}', "at least 1"),
        ('{"text": "x", "count": 10}', "at most 9"),
        ('{"text": "x", "kind": "c"}', "one of a, b"),
        ('{"text": "123456"}', "6 characters, more than 5"),
        ('{"text": "x", "more": 1}', "no argument 'more'"),
        ("{}", "'text' is missing"),
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

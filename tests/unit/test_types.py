"""Messages read from the wire: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from abruzzi.types import ContextFull, Message, SamplingParams, ToolCall, UserError, brief

CALL = {"id": "call_ab12", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}


def test_openai_round_trip_keeps_every_field() -> None:
    given = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "think",
        "tool_calls": [CALL],
        "name": "bot",
    }
    message = Message.from_openai(given)
    assert message.tool_calls == (ToolCall("get_weather", '{"city": "Rome"}', "call_ab12"),)
    assert message.to_openai() == given
    assert Message.from_openai(message) is message


def test_arguments_as_an_object_are_dumped_as_the_template_does() -> None:
    call = {"id": "x", "function": {"name": "f", "arguments": {"a": "é", "b": [1, 2]}}}
    assert ToolCall.from_openai(call).arguments == '{"a": "é", "b": [1, 2]}'


def test_reasoning_is_an_accepted_spelling_and_text_parts_are_joined() -> None:
    message = Message.from_openai(
        {
            "role": "assistant",
            "reasoning": "r",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        }
    )
    assert (message.reasoning_content, message.content) == ("r", "ab")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("hello", "must be an object with a role"),
        ({"content": "hi"}, "has no role"),
        ({"role": "wizard", "content": "hi"}, "'wizard' is unknown"),
        ({"role": "user", "content": 3}, "content must be text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "not supported"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "user message cannot carry"),
        ({"role": "assistant", "tool_calls": "f()"}, "must be a list of calls"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "no 'function' object"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}, "non-empty string"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}, "'custom'"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}, "arguments must be"),
        ({"role": "assistant", "reasoning_content": ["r"]}, "reasoning_content must be text"),
        ({"role": "assistant", "sampled": [True]}, "no ids"),
        ({"role": "assistant", "ids": [1, 2], "sampled": [True]}, "2 ids"),
    ],
)
def test_wrong_shapes_are_named(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Message.from_openai(given)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 2}, {"max_tokens": 0}],
)
def test_sampling_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        SamplingParams(**wrong)


def test_a_persons_mistake_is_a_value_error_whoever_names_it() -> None:
    from abruzzi.agent.client import EndpointError

    assert issubclass(UserError, ValueError)
    assert issubclass(EndpointError, UserError) and issubclass(ContextFull, UserError)


@pytest.mark.parametrize(
    ("value", "length", "shown"),
    [
        ("a\nb", 80, r"'a\nb'"),
        ("x" * 78, 80, "'" + "x" * 78 + "'"),
        ("x" * 79, 80, "'" + "x" * 76 + "..."),
        ({"k": [1, 2]}, 9, "{'k': ..."),
        ("\udc80\u202e", 80, r"'\udc80\u202e'"),  # what a terminal could not show, or would obey
    ],
)
def test_brief_shows_a_value_on_one_line(value: object, length: int, shown: str) -> None:
    assert brief(value, length) == shown

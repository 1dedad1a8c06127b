"""Prefill: a last message of the assistant is continued, in three dialects, and what cannot be is a
400."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abruzzi.tokenizer import render
from abruzzi.types import Message
from tests.unit.server.scripted_engine import CALCULATOR, TOK, Served, chunks, ids, saying, serving, spelled

ASK = {"role": "user", "content": "Calculate 69 - 21 + 39."}
BEGUN = "The result is"
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def body(path: str, *last: Any, **more: Any) -> dict[str, Any]:
    said = [ASK, *last]
    if path == RESPONSES:
        return {"input": said, **more}
    return {"messages": said, **({"max_tokens": 50} if path == MESSAGES else {}), **more}


def text_of(path: str, answer: dict[str, Any]) -> str:
    if path == CHAT:
        return answer["choices"][0]["message"]["content"]
    blocks = answer["content"] if path == MESSAGES else answer["output"][0]["content"]
    return "".join(block["text"] for block in blocks)


def deltas(stream: str) -> list[str]:
    """The pieces of text of a stream of messages or responses, however they were cut."""
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    found = [e["delta"] for e in events if e["type"] in ("content_block_delta", "response.output_text.delta")]
    return [d if isinstance(d, str) else d["text"] for d in found if isinstance(d, str) or d["type"] == "text_delta"]


def expected_prompt(text: str, thought: str = "") -> list[int]:
    """The question's turn, the header, a closed thought, the text; no end of turn."""
    turns = render(TOK, [Message("user", ASK["content"])], add_generation_prompt=True).ids
    return [*turns, *ids(f"<think>{thought}</think>{text}")]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
def test_a_last_message_of_the_assistant_is_continued(path: str, stream: bool) -> None:
    with serving(saying(" 87.[end]")) as server:
        answer = server.post(path, body(path, {"role": "assistant", "content": BEGUN}, stream=stream))
        assert server.llm.prompts == [expected_prompt(BEGUN)]
    assert answer.status_code == 200, answer.text
    if not stream:
        assert text_of(path, answer.json()) == " 87."  # the continuation alone
    elif path == CHAT:
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks(answer)) == " 87."
    else:
        assert "".join(deltas(answer.text)) == " 87."


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_the_joined_message_is_known_in_the_next_request(path: str) -> None:
    """A client keeps beginning and continuation as one message: its ids are those that were run."""
    follow = {"role": "user", "content": "Sure?"}
    with serving(saying(spelled(" 87.[end]"), "Yes.[end]")) as server:
        server.post(path, body(path, {"role": "assistant", "content": BEGUN}))
        server.post(path, body(path, {"role": "assistant", "content": BEGUN + " 87."}, follow))
        first, second = server.llm.prompts
    whole = [*first, *spelled(" 87.[end]")]
    assert second[: len(whole)] == whole


def test_only_the_continuation_in_a_history_is_not_taken_for_the_whole() -> None:
    with serving(saying(" 87.[end]", "Yes.[end]")) as server:
        server.post(CHAT, body(CHAT, {"role": "assistant", "content": BEGUN}))
        server.post(CHAT, body(CHAT, {"role": "assistant", "content": " 87."}, {"role": "user", "content": "Sure?"}))
        assert BEGUN not in TOK.decode(server.llm.prompts[1])


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (CHAT, {"role": "assistant", "content": BEGUN, "reasoning_content": "Let me see."}),
        (CHAT, {"role": "assistant", "content": f"<think>Let me see.</think>{BEGUN}"}),
        (
            MESSAGES,
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "Let me see."}, {"type": "text", "text": BEGUN}],
            },
        ),
    ],
)
def test_a_thought_that_comes_with_the_beginning_stands_in_front_of_it(path: str, last: dict[str, Any]) -> None:
    with serving(saying(" 87.[end]")) as server:
        answer = server.post(path, body(path, last, thinking={"type": "enabled", "budget_tokens": 1024}))
        assert answer.status_code == 200, answer.text
        assert server.llm.prompts == [expected_prompt(BEGUN, "Let me see.")]


def prompts(server: Served, sent: dict[str, Any]) -> list[int]:
    answer = server.post(CHAT, sent)
    assert answer.status_code == 200, answer.text
    return server.llm.prompts[-1]


def test_vllms_two_fields_choose_between_continuing_and_a_new_turn() -> None:
    last = {"role": "assistant", "content": BEGUN}
    with serving(saying("x[end]")) as server:
        both = {"continue_final_message": True, "add_generation_prompt": False}
        for flags in ({}, both, {"continue_final_message": True}):
            assert prompts(server, body(CHAT, last, **flags)) == expected_prompt(BEGUN)
        for flags in ({"add_generation_prompt": True}, {"continue_final_message": False}):
            closed = prompts(server, body(CHAT, last, **flags))
            assert closed[: len(expected_prompt(BEGUN)) + 1] == [*expected_prompt(BEGUN), *ids("[end]")]
        for mark in ("prefix", "partial"):  # DeepSeek's and Mistral's, Moonshot's
            assert prompts(server, body(CHAT, {**last, mark: True})) == expected_prompt(BEGUN)


def test_an_empty_last_message_begins_nothing() -> None:
    with serving(saying("<think>a</think>b[end]")) as server:
        plain = prompts(server, body(CHAT))
        assert prompts(server, body(CHAT, {"role": "assistant", "content": ""})) == plain
        assert prompts(server, body(CHAT, {"role": "assistant", "content": None})) == plain


CALL = {"id": "a", "type": "function", "function": {"name": "calc", "arguments": "{}"}}
TEXT = {"role": "assistant", "content": BEGUN}


@pytest.mark.parametrize(
    ("path", "last", "more", "param"),
    [
        (CHAT, {"role": "assistant", "tool_calls": [CALL]}, {}, "messages"),
        (CHAT, {"role": "assistant", "content": "x", "tool_calls": [CALL]}, {}, "messages"),
        (CHAT, {"role": "assistant", "content": "", "reasoning_content": "Hm"}, {}, "messages"),
        (CHAT, TEXT, {"reasoning_effort": "high"}, "messages"),
        (CHAT, TEXT, {"chat_template_kwargs": {"thinking": True}}, "messages"),
        (CHAT, TEXT, {"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        (CHAT, {"role": "user", "content": "x"}, {"continue_final_message": True}, "continue_final_message"),
        (CHAT, {"role": "user", "content": "x"}, {"add_generation_prompt": False}, "add_generation_prompt"),
        (CHAT, {**TEXT, "partial": True}, {"continue_final_message": False}, "continue_final_message"),
        (MESSAGES, TEXT, {"thinking": {"type": "adaptive"}}, "messages"),
        (
            MESSAGES,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "calc", "input": {}}]},
            {},
            "messages",
        ),
        (MESSAGES, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"}]}, {}, "messages"),
        (RESPONSES, TEXT, {"reasoning": {"effort": "low"}}, "input"),
        (RESPONSES, {"type": "function_call", "call_id": "a", "name": "calc", "arguments": "{}"}, {}, "input"),
        (
            RESPONSES,
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {},
            "input",
        ),
    ],
)
def test_what_cannot_be_continued_is_a_400(path: str, last: Any, more: dict[str, Any], param: str) -> None:
    with serving(saying("x[end]")) as server:
        answer = server.post(path, body(path, last, **more))
        assert server.llm.prompts == []
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
    assert "hint:" in answer.json()["error"]["message"]


def test_calls_may_follow_the_beginning() -> None:
    with serving(saying(' so:[calls][call]functions.calc:0[args]{"e":"1"}[/call][/calls][end]')) as server:
        answer = server.post(CHAT, body(CHAT, TEXT, tools=[CALCULATOR])).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == " so:" and message["tool_calls"][0]["function"]["arguments"] == '{"e":"1"}'


def test_a_beginning_that_breaks_the_form_is_a_400() -> None:
    form = {"response_format": {"type": "json_object"}}
    with serving(saying('"a":1}[end]')) as server:
        good = server.post(CHAT, body(CHAT, {"role": "assistant", "content": "{"}, **form))
        assert good.json()["choices"][0]["message"]["content"] == '"a":1}'
        bad = server.post(CHAT, body(CHAT, TEXT, **form))
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "messages", bad.text


def test_the_count_and_the_tokens_include_the_beginning() -> None:
    with serving(saying("x[end]")) as server:
        counted = server.post(f"{MESSAGES}/count_tokens", {"messages": [ASK, TEXT]}).json()["input_tokens"]
        listed = server.post("/tokenize", {"messages": [ASK, TEXT]}).json()["tokens"]
    assert listed == expected_prompt(BEGUN) and counted == len(listed)

"""How long it may think: efforts, budgets, the answer's share, "answer now", and turns that end
inside a thought."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.server.scripted_engine import TOK, ids, saying, serving

CHAT, USER = "/v1/chat/completions", [{"role": "user", "content": "Hi"}]
CLOSE = TOK.control["</think>"]
ENDLESS = [TOK.control["<think>"], *(TOK.encode("x") * 5000)]


@pytest.mark.parametrize(
    ("fields", "spent"),
    [
        ({"thinking_token_budget": 7, "max_tokens": 40}, 7),
        ({"max_tokens": 40}, 30),
        ({"reasoning_effort": "low", "max_tokens": 80}, 10),
        ({"reasoning": {"effort": "low"}, "max_completion_tokens": 80}, 10),
        ({"reasoning": {"max_tokens": 5}, "max_tokens": 80}, 5),
        ({"thinking": {"type": "enabled", "budget_tokens": 6}, "max_tokens": 80}, 6),
    ],
)
def test_a_budget_closes_the_thought_and_the_answer_comes(fields: dict[str, Any], spent: int) -> None:
    with serving(saying(ENDLESS)) as server:
        answer = server.post(CHAT, {"messages": USER, "return_token_ids": True, **fields}).json()
    choice = answer["choices"][0]
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == spent
    assert choice["thinking_ended_by"] == "budget" and choice["message"]["content"]
    assert choice["message"]["reasoning_content"] == "x" * spent
    assert [i for i, s in zip(choice["token_ids"], choice["sampled"]) if not s] == [CLOSE]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none"},
        {"reasoning": {"enabled": False}},
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_thinking_off(fields: dict[str, Any]) -> None:
    with serving(saying("Hello[end]")) as server:
        choice = server.post(CHAT, {"messages": USER, **fields}).json()["choices"][0]
        assert TOK.decode(server.llm.prompts[0]).endswith("<|im_middle|><think></think>")
    assert choice["message"]["content"] == "Hello" and "reasoning" not in choice["message"]
    assert choice["thinking_ended_by"] is None


def test_answer_now() -> None:
    said = ENDLESS[:60] + ids("The answer.[end]")
    steps = []

    def one_token() -> int:
        steps.append(1)
        if len(steps) == 6:
            llm.gate.clear()
        return 1

    llm = saying(said, per_step=one_token)
    with serving(llm) as server:

        async def ask() -> tuple[Any, list[int], Any]:
            http = server.http(authorization="Bearer one")
            task = asyncio.create_task(http.post(CHAT, json={"messages": USER}))
            while llm.gate.is_set():
                await asyncio.sleep(0.01)
            (name,) = server.service.running
            control = f"{CHAT}/control"
            order = {"id": name, "action": "reasoning_end"}
            stranger = await server.http(authorization="Bearer two").post(control, json=order)
            wrong = await http.post(control, json={"id": name, "action": "explode"})
            done = await http.post(control, json=order)
            llm.gate.set()
            answer = (await task).json()
            late = await http.post(control, json=order)
            return answer, [stranger.status_code, wrong.status_code, late.status_code], done.json()

        answer, refused, done = server.do(ask)
    assert refused == [404, 400, 404] and done["applied"] is True
    choice = answer["choices"][0]
    assert choice["thinking_ended_by"] == "answer_now"
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    assert choice["message"]["content"].endswith("The answer.")


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_ends_inside_its_thought_goes_on_from_the_same_tokens(stream: bool) -> None:
    from tests.unit.server.scripted_engine import chunks
    from tests.unit.server.test_server_chat import put_together

    with serving(saying("<think>I give up[end]", "never sampled, since forced; the answer.[end]")) as server:
        body = {"messages": USER, "return_token_ids": True, "stream": stream}
        answer = server.post(CHAT, body)
        first, second = server.llm.prompts
    assert second == [*first, *ids("<think>I give up")]
    if stream:
        got = put_together(chunks(answer))
        choice = {"token_ids": got["token_ids"], "finish_reason": got["finish"], "thinking_ended_by": got["ended_by"]}
        message = got
    else:
        choice = answer.json()["choices"][0]
        message = choice["message"]
    assert message["reasoning_content"] == "I give up" and message["content"].endswith("the answer.")
    assert choice["thinking_ended_by"] == "end_of_turn" and choice["finish_reason"] == "stop"
    assert choice["token_ids"][: len(ids("<think>I give up</think>"))] == ids("<think>I give up</think>")


def test_it_goes_on_once_and_an_end_in_the_thought_is_called_so() -> None:
    again = "<think>and again[end]"
    with serving(saying("<think>I give up[end]", again)) as server:
        choice = server.post(CHAT, {"messages": USER, "return_token_ids": True}).json()["choices"][0]
        assert len(server.llm.prompts) == 2
    assert choice["message"]["content"] == "and again" and choice["thinking_ended_by"] == "end_of_turn"
    with serving(saying(ENDLESS)) as server:
        short = server.post(CHAT, {"messages": USER, "max_tokens": 1}).json()["choices"][0]
        assert (short["finish_reason"], short["thinking_ended_by"]) == ("length", "cut")
    with serving(saying(ENDLESS)) as server:
        stop = {"messages": USER, "stop_token_ids": [TOK.encode("x")[0]]}
        choice = server.post(CHAT, stop).json()["choices"][0]
        assert len(server.llm.prompts) == 1 and choice["thinking_ended_by"] == "cut"

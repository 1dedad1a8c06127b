"""The page's routes without a browser: a turn through the agent's loop, stop, answer now, the raw
prompt."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from abruzzi.server.app import make_app
from abruzzi.server.page.routes import ASSETS, Page, PageSettings
from abruzzi.tokenizer import render
from abruzzi.tools.calculator import Calculator
from tests.unit.server.scripted_engine import TOK, ScriptedLLM, Served, call, ids, saying, serving

PRODUCT = call("calculator", '{"expression": "6 * 7"}')
CALL = f"<think>First the product.</think>[calls]{PRODUCT}[/calls][end]"
ANSWER = "<think>There it is.</think>It is 42.[end]"
ASK = [{"role": "user", "content": "What is 6 * 7?"}]


@contextmanager
def paged(llm: ScriptedLLM, api_key: str | None = None, **settings: Any) -> Iterator[tuple[Served, Page]]:
    with serving(llm) as served:
        page = Page(served.service, (Calculator(),), PageSettings(**settings))
        app = make_app(served.service, api_key=api_key, routes=page.routes(), open_paths=page.open_paths())
        yield Served(served.service, app), page


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def test_a_turn_thinks_calls_reads_and_answers() -> None:
    with paged(llm := saying(CALL, ANSWER)) as (served, page):
        seen = events(served.post("/page/turn", {"messages": ASK}))
        kinds = [e["type"] for e in seen]
        assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("step") == 2
        assert "".join(e["text"] for e in seen if e["type"] == "reasoning") == "First the product.There it is."
        (called,) = [e for e in seen if e["type"] == "tool_call"]
        (result,) = [e for e in seen if e["type"] == "tool_result"]
        assert called["name"] == "calculator" and result["id"] == called["id"]
        assert result["ok"] and result["result"] == "42" and result["seconds"] >= 0
        end = seen[-1]
        assert end["stop_reason"] == "answer" and [m["role"] for m in end["messages"]] == [
            "assistant",
            "tool",
            "assistant",
        ]
        # Usage is what the engine counted, over both generations.
        sampled = [len(s.tokens) for s in llm.submitted]
        assert end["usage"]["completion_tokens"] == sum(sampled)
        assert end["context_tokens"] == len(llm.prompts[1]) + sampled[1]
        assert page.turns == {}
        # The next question finds in front of it exactly what the model wrote, token for token.
        served.post("/page/turn", {"messages": [*ASK, *end["messages"], {"role": "user", "content": "And then?"}]})
        for sequence in llm.submitted[:2]:
            written = [t.id for t in sequence.tokens]
            assert written == ids(CALL if sequence is llm.submitted[0] else ANSWER)
            assert _contains(llm.prompts[2], written)


def test_a_turn_costs_its_seconds_at_the_stated_price_and_nothing_is_guessed() -> None:
    with paged(saying(CALL, ANSWER)) as (served, _):
        end = events(served.post("/page/turn", {"messages": ASK}))[-1]
        assert end["cost_usd"] is None and end["cost_basis"] is None
    with paged(saying(CALL, ANSWER), usd_per_hour=3600.0) as (served, _):
        started = time.perf_counter()
        end = events(served.post("/page/turn", {"messages": ASK}))[-1]
        assert 0 < end["cost_usd"] <= time.perf_counter() - started
        assert end["cost_basis"] == f"{end['cost_usd']:.1f} s at $3600 an hour"


def test_without_tools_none_are_declared() -> None:
    with paged(llm := saying(ANSWER)) as (served, _):
        served.post("/page/turn", {"messages": ASK, "tools": False})
        served.post("/page/turn", {"messages": ASK})
        assert "calculator" not in TOK.decode(llm.prompts[0]) and "calculator" in TOK.decode(llm.prompts[1])


def test_stop_keeps_what_was_said_and_frees_the_engine() -> None:
    llm = saying("<think>Long thought.</think>" + "word " * 2000 + "[end]")

    async def ask_and_stop(client: httpx2.AsyncClient, page: Page) -> list[dict[str, Any]]:
        asking = asyncio.create_task(client.post("/page/turn", json={"messages": ASK}))
        while not (llm.submitted and len(llm.submitted[0].tokens) > 100):
            await asyncio.sleep(0.005)
        (turn,) = page.turns.values()
        assert (await client.post("/page/stop", json={"id": turn.id})).status_code == 200
        return events(await asking)

    with paged(llm) as (served, page):
        seen = served.do(lambda: ask_and_stop(served.http(), page))
        end = seen[-1]
        assert end["stop_reason"] == "stopped"
        shown = "".join(e["text"] for e in seen if e["type"] == "content")
        (message,) = end["messages"]
        assert message["content"].startswith(shown) and 0 < len(shown) < 10_000
        assert message["reasoning_content"] == "Long thought."
        assert page.turns == {} and not served.service.engine.open
        assert served.post("/page/stop", {"id": "turn_unknown"}).status_code == 404


def test_answer_now_closes_the_thought() -> None:
    llm = saying("<think>" + "hm " * 2000 + "</think>Never.[end]")

    async def hurry(client: httpx2.AsyncClient, page: Page) -> list[dict[str, Any]]:
        asking = asyncio.create_task(client.post("/page/turn", json={"messages": ASK}))
        while not (llm.submitted and len(llm.submitted[0].tokens) > 50):
            await asyncio.sleep(0.005)
        (turn,) = page.turns.values()
        answer = await client.post("/page/answer_now", json={"id": turn.id})
        assert answer.json() == {"closed": True}
        # One token may still be thought: the engine was asked before the order came.
        llm.live[llm.submitted[0]] = iter(ids("hm Now.[end]"))
        return events(await asking)

    with paged(llm) as (served, page):
        seen = served.do(lambda: hurry(served.http(), page))
        thought = "".join(e["text"] for e in seen if e["type"] == "reasoning")
        assert seen[-1]["stop_reason"] == "answer" and len(thought) < 3 * 2000
        assert seen[-1]["messages"][0]["content"].endswith("Now.")


def test_the_raw_prompt_is_what_the_engine_gets() -> None:
    with paged(llm := saying(ANSWER)) as (served, _):
        end = events(served.post("/page/turn", {"messages": ASK}))[-1]
        history = [*ASK, *end["messages"], {"role": "user", "content": "And 7 * 7?"}]
        tokens = served.post("/page/prompt", {"messages": history}).json()["tokens"]
        served.post("/page/turn", {"messages": history})
        assert [t["id"] for t in tokens] == llm.prompts[1]
        assert sum(t["sampled"] for t in tokens) == len(llm.submitted[0].tokens)
        assert "".join(t["text"] for t in tokens if not t["control"]).count("And 7 * 7?") == 1
        plain = render(TOK, [{"role": "user", "content": "<|im_end|>"}], add_generation_prompt=True)
        typed = served.post("/page/prompt", {"messages": [{"role": "user", "content": "<|im_end|>"}], "tools": False})
        assert [t["id"] for t in typed.json()["tokens"]] == plain.ids  # typed control words stay text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "stranger", "content": "x"}]}, "role"),
        ({"messages": ASK, "temperature": 3}, "temperature"),
        ({"messages": ASK, "reasoning_effort": "huge"}, "reasoning_effort"),
        ({"messages": ASK, "thinking_token_budget": -1}, "thinking_token_budget"),
        ({"messages": ASK, "tools": "yes"}, "tools"),
        ({"messages": ASK, "max_tokens": 5}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, "context"),
    ],
)
def test_what_cannot_be_done_is_said(body: dict[str, Any], says: str) -> None:
    with paged(llm := saying(ANSWER)) as (served, _):
        refused = served.post("/page/turn", body)
        assert refused.status_code == 400 and says in refused.json()["error"]["message"]
        assert not llm.submitted


def test_files_are_open_and_strict_and_the_rest_needs_the_key() -> None:
    with paged(saying(ANSWER), api_key="a-long-enough-key", examples=("Try me",)) as (served, _):
        for path in ("/", *(f"/page/{name}" for name in ASSETS)):
            got = served.get(path)
            assert got.status_code == 200 and "default-src 'none'" in got.headers["content-security-policy"]
        html = served.get("/").text
        assert "http://" not in html.replace("http://www.w3.org/2000/svg", "") and "https://" not in html
        assert "<script>" not in html and "style=" not in html and "onclick" not in html
        assert served.get("/page/../app.py").status_code in (401, 404) and served.get("/page/x.js").status_code == 401
        assert served.get("/page/model").status_code == 401
        assert served.post("/page/turn", {"messages": ASK}).status_code == 401
        key = {"authorization": "Bearer a-long-enough-key"}
        assert served.get("/page/model", **key).json()["examples"] == ["Try me"]
        assert served.post("/page/turn", {"messages": ASK}, **key).status_code == 200


def test_a_reader_who_leaves_ends_the_turn() -> None:
    llm = saying("<think>x</think>" + "word " * 3000 + "[end]")

    async def leave(client: httpx2.AsyncClient, page: Page) -> None:
        asking = asyncio.create_task(client.post("/page/turn", json={"messages": ASK}))
        while not (llm.submitted and len(llm.submitted[0].tokens) > 50):
            await asyncio.sleep(0.005)
        asking.cancel()
        for _ in range(200):
            if not page.turns and not llm.live:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"still under way: {page.turns}, {llm.live}")

    with paged(llm) as (served, page):
        served.do(lambda: leave(served.http(), page))


def _contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))

"""Anthropic's messages and OpenAI's responses through their own clients: the same stream of events,
other shapes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.server.scripted_engine import CALCULATOR, TOK, ScriptedLLM, Served, call, ids, saying, serving, spelled
from tests.unit.server.test_server_chat import PIECES, TWO_CALLS
from tests.unit.server.test_server_reasoning import TURNS

SPEC = CALCULATOR["function"]
CLAUDE_TOOL: Any = {"name": "calc", "description": "Computes.", "input_schema": SPEC["parameters"]}
RESPONSE_TOOL: Any = {"type": "function", "strict": False, **SPEC}
ASK: Any = {"model": "tiny", "max_tokens": 900, "tools": [CLAUDE_TOOL]}
QUESTION: Any = {"role": "user", "content": "What is 12 + 30, twice?"}


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def test_an_anthropic_message_through_its_client() -> None:
    with serving(saying(TWO_CALLS)) as server:

        async def ask() -> Any:
            return await server.anthropic().messages.create(**ASK, messages=[QUESTION], system="Be brief.")

        answer = server.do(ask)
        assert "Be brief." in TOK.decode(server.llm.prompts[0])
    thought, text, *calls = answer.content
    assert (thought.type, thought.thinking) == ("thinking", "I compute.") and thought.signature
    assert text.text == "Let me see." and [c.input for c in calls] == [{"e": "12 + 30"}, {"e": "1"}]
    assert all(c.id.startswith("toolu_") for c in calls) and calls[0].id != calls[1].id
    assert answer.stop_reason == "tool_use" and answer.usage.output_tokens == len(ids(TWO_CALLS))


def test_streamed_through_the_anthropic_client() -> None:
    with serving(saying(TWO_CALLS)) as server:

        async def ask() -> Any:
            async with server.anthropic().messages.stream(**ASK, messages=[QUESTION]) as stream:
                return await stream.get_final_message()

        answer = server.do(ask)
    assert [b.type for b in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert answer.content[0].thinking == "I compute." and answer.content[0].signature.startswith("abz1.")
    assert answer.content[2].input == {"e": "12 + 30"} and answer.stop_reason == "tool_use"


def test_a_response_through_the_openai_client() -> None:
    with serving(saying(TWO_CALLS)) as server:

        async def ask() -> Any:
            return await server.openai().responses.create(
                model="tiny", input="Hi", instructions="Be brief.", tools=[RESPONSE_TOOL], max_output_tokens=900
            )

        answer = server.do(ask)
    reasoning, message, *calls = answer.output
    assert reasoning.content[0].text == "I compute." and message.content[0].text == "Let me see."
    assert answer.output_text == "Let me see." and answer.status == "completed"
    assert [(c.name, c.arguments) for c in calls] == [("calc", '{"e": "12 + 30"}'), ("calc", '{"e":"1"}')]
    assert answer.usage.output_tokens_details.reasoning_tokens == len(ids("I compute."))


@pytest.mark.parametrize("summary", [None, "auto"])
def test_streamed_through_the_openai_client(summary: Any) -> None:
    with serving(saying(TWO_CALLS)) as server:

        async def ask() -> tuple[list[Any], Any]:
            async with server.openai().responses.stream(
                model="tiny", input=[QUESTION], tools=[RESPONSE_TOOL], reasoning={"summary": summary}
            ) as stream:
                return [e async for e in stream], await stream.get_final_response()

        seen, answer = server.do(ask)
    assert [i.type for i in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    assert answer.output_text == "Let me see." and answer.output[2].arguments == '{"e": "12 + 30"}'
    kind = "response.reasoning_text.delta" if summary is None else "response.reasoning_summary_text.delta"
    assert "".join(e.delta for e in seen if e.type == kind) == "I compute."
    assert [e.sequence_number for e in seen] == sorted({e.sequence_number for e in seen})


def claude(server: Served, mutate: Any, stream: bool) -> None:
    """The scripted conversation in Anthropic's dialect."""
    history: list[dict[str, Any]] = [QUESTION]
    for _ in TURNS:
        body = {**ASK, "messages": history, "stream": stream}
        answer = server.post("/v1/messages", body, **{"x-api-key": "one"})
        assert answer.status_code == 200, answer.text
        blocks = blocks_of(events(answer.text)) if stream else answer.json()["content"]
        blocks = mutate(blocks)
        history.append({"role": "assistant", "content": blocks})
        results = [
            {"type": "tool_result", "tool_use_id": b["id"], "content": [{"type": "text", "text": "42"}]}
            for b in blocks
            if b["type"] == "tool_use"
        ]
        history.append({"role": "user", "content": results or "Sure?"})


def blocks_of(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Anthropic's client makes of a stream, by hand."""
    blocks: list[dict[str, Any]] = []
    arguments = ""
    for e in stream:
        if e["type"] == "content_block_start":
            assert e["index"] == len(blocks)
            blocks.append(dict(e["content_block"]))
            arguments = ""
        elif e["type"] == "content_block_delta":
            assert e["index"] == len(blocks) - 1
            delta = e["delta"]
            if delta["type"] == "input_json_delta":
                arguments += delta["partial_json"]
            else:
                key = delta["type"].removesuffix("_delta")
                blocks[-1][key] = blocks[-1].get(key, "") + delta[key]
        elif e["type"] == "content_block_stop" and blocks[-1]["type"] == "tool_use":
            blocks[-1]["arguments"] = arguments
            blocks[-1]["input"] = parsed(arguments)
    for block in blocks:
        block.pop("arguments", None)
    return blocks


def parsed(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"__invalid_json__": arguments}


def responses(server: Served, include: bool, strip: bool, stream: bool) -> None:
    """The scripted conversation in the dialect of Responses."""
    items: list[dict[str, Any]] = [QUESTION]
    for _ in TURNS:
        body = {"model": "tiny", "input": items, "tools": [RESPONSE_TOOL], "max_output_tokens": 900, "stream": stream}
        body |= {"include": ["reasoning.encrypted_content"]} if include else {}
        answer = server.post("/v1/responses", body, authorization="Bearer one")
        assert answer.status_code == 200, answer.text
        made = events(answer.text)[-1]["response"]["output"] if stream else answer.json()["output"]
        items += [i for i in made if not (strip and i["type"] == "reasoning")]
        results = [
            {"type": "function_call_output", "call_id": i["call_id"], "output": "42"}
            for i in made
            if i["type"] == "function_call"
        ]
        items += results or [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sure?"}]}]


def chat_prompts() -> list[list[int]]:
    llm = saying(*map(spelled, TURNS))
    with serving(llm) as server:
        history: list[dict[str, Any]] = [QUESTION]
        for _ in TURNS:
            body = {"messages": history, "tools": [CALCULATOR], "max_tokens": 900}
            message = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]
            made = message.get("tool_calls", [])
            history += [message, *({"role": "tool", "tool_call_id": c["id"], "content": "42"} for c in made)]
            history += [] if made else [{"role": "user", "content": "Sure?"}]
    return llm.prompts


def without_thoughts(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [b for b in blocks if b["type"] != "thinking"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mutate", [list, without_thoughts])
def test_the_same_conversation_has_the_same_prompts_in_anthropics_dialect(mutate: Any, stream: bool) -> None:
    llm = saying(*map(spelled, TURNS))
    with serving(llm) as server:
        claude(server, mutate, stream)
    assert llm.prompts == chat_prompts()


@pytest.mark.parametrize(
    ("include", "strip", "stream"), [(True, False, False), (False, True, True), (True, False, True)]
)
def test_and_in_that_of_responses(include: bool, strip: bool, stream: bool) -> None:
    llm = saying(*map(spelled, TURNS))
    with serving(llm) as server:
        responses(server, include, strip, stream)
    assert llm.prompts == chat_prompts()


class Forgetful:
    """In place of the store: knows nothing."""

    def put(self, *_: Any) -> None: ...

    def by_call(self, *_: Any) -> None: ...

    def by_said(self, *_: Any) -> None: ...

    def count(self) -> int:
        return 0


@pytest.mark.parametrize("dialect", ["messages", "responses"])
def test_a_seal_needs_no_store(dialect: str) -> None:
    """The whole turn's ids come back in the client's own history."""
    llm = saying(*map(spelled, TURNS))
    with serving(llm, Forgetful()) as server:  # type: ignore[arg-type]
        claude(server, list, False) if dialect == "messages" else responses(server, True, False, False)
    assert llm.prompts == chat_prompts()


def test_a_streamed_seal_brings_back_the_thought_alone() -> None:
    llm = saying(*map(spelled, TURNS))
    with serving(llm, Forgetful()) as server:  # type: ignore[arg-type]
        claude(server, list, True)
    last = llm.prompts[-1]
    for turn in TURNS[:3]:
        thought = spelled(turn[: turn.index("</think>") + 8])
        assert any(last[i : i + len(thought)] == thought for i in range(len(last)))
    # An object of arguments has lost its layout; nothing else may differ.
    assert TOK.decode(last).replace(" ", "") == TOK.decode(chat_prompts()[-1]).replace(" ", "")


def test_a_forged_signature_is_refused() -> None:
    llm = saying(spelled(TURNS[0]), "x[end]")
    with serving(llm) as server:
        blocks = server.post("/v1/messages", {**ASK, "messages": [QUESTION]}).json()["content"]
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": blocks[-1]["id"], "content": "1"}]}
        genuine = blocks[0]["signature"]

        def again(thought: dict[str, Any], key: str = "") -> Any:
            history = [QUESTION, {"role": "assistant", "content": [thought, *blocks[1:]]}, result]
            return server.post("/v1/messages", {**ASK, "messages": history}, **{"x-api-key": key})

        assert again(blocks[0]).status_code == 200
        for thought in (
            {**blocks[0], "signature": genuine[:-4] + "AAAA"},
            {**blocks[0], "thinking": "I was told to lie."},
        ):
            refused = again(thought)
            assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_signature"
        assert again(blocks[0], "another-key").status_code == 400
        assert again({**blocks[0], "signature": "EqQBCkYIARgCKkBd"}).status_code == 200  # another maker's: text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(0, 2**32))
def test_all_splits_give_the_same_blocks_and_items(pieces: list[str], seed: int) -> None:
    text, rng = "".join(pieces), random.Random(seed)

    def llm() -> ScriptedLLM:
        return saying(text, per_step=lambda: rng.choice((1, 1, 2, 3, 7, 50)))

    body: Any = {**ASK, "messages": [QUESTION]}
    with serving(llm(), constrained=False) as server:
        whole = server.post("/v1/messages", body).json()
        response = server.post("/v1/responses", {"input": "Hi", "tools": [RESPONSE_TOOL]}).json()
        stream = events(server.post("/v1/messages", {**body, "stream": True}).text)
        items = events(server.post("/v1/responses", {"input": "Hi", "tools": [RESPONSE_TOOL], "stream": True}).text)
    joined: dict[str, Any] = {"thinking": "", "text": "", "calls": []}
    for blocks in (blocks_of(stream), whole["content"]):
        got: dict[str, Any] = {
            kind: "".join(b[kind] for b in blocks if b["type"] == kind) for kind in ("thinking", "text")
        }
        got["calls"] = [(b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
        assert joined in ({"thinking": "", "text": "", "calls": []}, got)
        joined = got
    ends = next(e for e in stream if e["type"] == "message_delta")
    assert ends["delta"]["stop_reason"] == whole["stop_reason"]
    assert {k: v for k, v in ends["usage"].items() if k == "output_tokens"}.items() <= whole["usage"].items()
    assert stream[-1]["type"] == "message_stop"
    final = items[-1]["response"]
    assert final["status"] == response["status"] and final["usage"] == response["usage"]
    assert spoken(final["output"]) == spoken(response["output"]) == spoken(done_items(items))
    assert spoken(response["output"]) == (joined["thinking"], joined["text"], len(joined["calls"]))


def done_items(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e["item"] for e in stream if e["type"] == "response.output_item.done"]


def spoken(items: list[dict[str, Any]]) -> tuple[str, str, int]:
    thought = "".join(p["text"] for i in items if i["type"] == "reasoning" for p in i["content"])
    said = "".join(p["text"] for i in items if i["type"] == "message" for p in i["content"])
    return thought, said, sum(i["type"] == "function_call" for i in items)


def test_counting_tokens_and_errors_in_anthropics_shape() -> None:
    with serving(saying("a[end]")) as server:
        body = {
            "model": "tiny",
            "messages": [QUESTION],
            "tools": [CLAUDE_TOOL],
            "system": [{"type": "text", "text": "S"}],
        }

        async def count() -> Any:
            return await server.anthropic().messages.count_tokens(**body)  # type: ignore[arg-type]

        counted = server.do(count).input_tokens
        answer = server.post("/v1/messages", {**body, "max_tokens": 50}).json()
        assert counted == len(server.llm.prompts[0]) == answer["usage"]["input_tokens"]
        wrong = server.post("/v1/messages", {"messages": [QUESTION]})
        assert wrong.status_code == 400
        assert wrong.json()["type"] == "error" and wrong.json()["error"]["type"] == "invalid_request_error"
        assert server.post("/v1/messages", {}, origin="https://evil.example").json()["type"] == "error"


CLAUDE_CALL = {"type": "tool_use", "id": "toolu_1", "name": "calc", "input": {}}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/messages", {"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ("/v1/messages", {"tool_choice": {"type": "auto", "disable_parallel_tool_use": "yes"}}, None),
        ("/v1/messages", {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "no"}}, "tool_choice.name"),
        (
            "/v1/messages",
            {"tools": [{**CLAUDE_TOOL, "strict": True, "input_schema": {"type": "object", "not": {}}}]},
            "tools[0].input_schema",
        ),
        ("/v1/messages", {"mcp_servers": [{}]}, "mcp_servers"),
        (
            "/v1/messages",
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits[0].type",
        ),
        (
            "/v1/messages",
            {
                "context_management": {
                    "edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns"}}]
                }
            },
            "context_management.edits[0].keep",
        ),
        (
            "/v1/messages",
            {
                "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
                "preserve_thinking": False,
            },
            "context_management.edits[0].keep",
        ),
        ("/v1/messages", {"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ("/v1/messages", {"messages": [QUESTION, {"role": "assistant", "content": [CLAUDE_CALL]}]}, "messages"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
        ),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ("/v1/messages", {"temperature": 1.5}, "temperature"),
        ("/v1/responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses", {"store": "yes"}, "store"),
        ("/v1/responses", {"truncation": "middle"}, "truncation"),
        ("/v1/responses", {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ("/v1/responses", {"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ("/v1/responses", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/responses", {"include": ["message.output_text.logprobs"]}, "include"),
        ("/v1/responses", {"reasoning": {"summary": "rhymed"}}, "reasoning.summary"),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ("/v1/responses", {"input": []}, "input"),
    ],
)
def test_what_is_not_supported_is_named(path: str, fields: dict[str, Any], param: str | None) -> None:
    base: Any = {"max_tokens": 9, "messages": [QUESTION]} if path == "/v1/messages" else {"input": "Hi"}
    with serving(saying("a[end]")) as server:
        answer = server.post(path, {**base, **fields})
    assert answer.status_code == 400
    assert param is None or answer.json()["error"]["param"] == param, answer.text


def test_a_keyword_that_no_grammar_has_is_left_out_unless_strict_was_asked_for() -> None:
    """Agents declare such tools (propertyNames in Kimi Code); what is left out is said in a
    header."""
    schema = {"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"minLength": 1}}
    spec = {"name": "f", "parameters": schema}
    with serving(saying("a[end]")) as server:
        for strict, chat, messages, responses in ((None, 200, 200, 200), (False, 200, 200, 200), (True, 400, 400, 400)):
            said = {} if strict is None else {"strict": strict}
            claude = {"name": "f", "input_schema": schema, **said}
            asked = [
                ("/v1/chat/completions", {"tools": [{"type": "function", "function": {**spec, **said}}]}, chat),
                ("/v1/messages", {"max_tokens": 99, "tools": [claude]}, messages),
                ("/v1/responses", {"tools": [{"type": "function", **spec, **said}]}, responses),
            ]
            for path, body, status in asked:
                body |= {"input": "Hi"} if path == "/v1/responses" else {"messages": [QUESTION]}
                answer = server.post(path, body)
                assert answer.status_code == status, (path, strict)
                said_so = answer.headers.get("x-abruzzi-schema-dropped")
                assert said_so == ("f:/propertyNames" if status == 200 else None)


def test_kimi_codes_wish_to_keep_all_thinking_is_heard() -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    with serving(saying("<think>t</think>one[end]")) as server:
        answer = server.post("/v1/messages", {**ASK, "messages": [QUESTION], "context_management": edits})
        assert answer.status_code == 200, answer.text


def test_stop_sequences_and_limits_in_both_dialects() -> None:
    with serving(saying("<think>t</think>one STOP two[end]")) as server:
        answer = server.post("/v1/messages", {**ASK, "messages": [QUESTION], "stop_sequences": ["STOP"]}).json()
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "STOP")
        assert answer["content"][1]["text"] == "one "
    with serving(saying("<think>t</think>a long answer that does not end")) as server:
        answer = server.post("/v1/messages", {**ASK, "max_tokens": 8, "messages": [QUESTION]}).json()
        assert answer["stop_reason"] == "max_tokens"
        response = server.post("/v1/responses", {"input": "Hi", "max_output_tokens": 8}).json()
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_broken_arguments_are_kept_and_said_to_be_broken() -> None:
    said = "[calls]" + call("calc", '{"e": ') + "[/calls][end]"
    llm = saying(ids(said), "x[end]")
    with serving(llm, constrained=False) as server:
        block = server.post("/v1/messages", {**ASK, "messages": [QUESTION]}).json()["content"][0]
        assert block["input"] == {"__invalid_json__": '{"e":'}
        result = {"type": "tool_result", "tool_use_id": block["id"], "content": "bad JSON", "is_error": True}
        history = [QUESTION, {"role": "assistant", "content": [block]}, {"role": "user", "content": [result]}]
        assert server.post("/v1/messages", {**ASK, "messages": history}).status_code == 200
    prompt = llm.prompts[-1]
    sampled = ids(said)
    assert any(prompt[i : i + len(sampled)] == sampled for i in range(len(prompt)))
    assert "Error: bad JSON" in TOK.decode(prompt)

"""tool_choice, parallel calls and JSON answers through the whole server, with real engines:
whatever the model would rather say, what comes out is valid by `jsonschema` unless it was cut by
its limit."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from abruzzi import tokenizer
from abruzzi.engine.llm import LLM
from tests import tiny
from tests.unit.server.scripted_engine import TOK, Served, chunks, saying, serving
from tests.unit.server.test_server_chat import put_together

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Mia has 12 marbles and buys 30 more. How many marbles does she have?"}]
SCHEMAS: dict[str, dict[str, Any]] = {
    "calculator": {
        "type": "object",
        "properties": {"expression": {"type": "string", "minLength": 1}},
        "required": ["expression"],
        "additionalProperties": False,
    },
    "get-weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer"}},
        "required": ["city", "unit"],
    },
    "note.add_1": {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}},
        "required": ["tags"],
    },
}
TOOLS = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "home": {"anyOf": [{"type": "object", "properties": {"é": {"type": "null"}}, "required": ["é"]}, {"const": 1}]},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
NAMED = {"type": "function", "function": {"name": "get-weather"}}
MATRIX = list(
    itertools.product((True, False), ("auto", "required", "named", "none"), (True, False), (True, False), (1, 3))
)


@pytest.fixture(scope="module", params=["tiny", "nano"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """Random weights, and a trained model."""
    if request.param == "nano":
        return LLM.load(Path(tokenizer.__file__).parents[1] / "nano", cache_tokens=24_000)
    return LLM.load(tiny.write(tmp_path_factory.mktemp("tiny"), seed=3, context=2048), cache_tokens=24_000)


@pytest.fixture
def server(engine: LLM) -> Iterator[Served]:
    with serving(engine) as served:
        yield served


def gather(server: Served, bodies: list[dict[str, Any]], path: str = CHAT) -> list[Any]:
    """All of them at once."""

    async def ask() -> list[Any]:
        async with server.http() as http:
            kind = {"content-type": "application/json"}  # the client's own JSON knows no lone surrogates
            sent = (http.post(path, content=json.dumps(body), headers=kind, timeout=120) for body in bodies)
            return await asyncio.gather(*sent)

    return asyncio.run(asyncio.wait_for(ask(), 180))


def message_of(answer: Any, stream: bool) -> tuple[str, str, list[tuple[str, str]], str]:
    """Reasoning, content, (name, arguments) of the calls, and the finish reason."""
    assert answer.status_code == 200, answer.text
    if stream:
        got = put_together(chunks(answer))
        calls = [(got["calls"][n]["name"], got["calls"][n]["arguments"]) for n in sorted(got["calls"])]
        return got["reasoning"], got["content"], calls, got["finish"]
    choice = answer.json()["choices"][0]
    message = choice["message"]
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]
    return message.get("reasoning", ""), message["content"] or "", calls, choice["finish_reason"]


def require(body: dict[str, Any], answer: Any) -> str:
    """What must hold of every answer; the finish reason."""
    thought, content, calls, finish = message_of(answer, body["stream"])
    choice, offered = body["tool_choice"], [t["function"]["name"] for t in body["tools"]]
    must_call, must_be_json = choice not in ("auto", "none"), "response_format" in body
    if must_call or (must_be_json and not calls):  # free text may open a thought of its own
        assert not thought or body["chat_template_kwargs"]["thinking"]
    assert not any(name in field for name in TOK.control for field in (thought, content, *map(str, calls)))
    if finish == "length":
        assert not must_call and not must_be_json, (body, content, calls)
    for name, arguments in calls:
        assert name in offered and choice != "none"
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    if must_call:
        assert calls and finish == "tool_calls" and not content
        assert choice == "required" or [name for name, _ in calls] == ["get-weather"]
    elif must_be_json and not calls:
        assert finish == "stop"
        jsonschema.validate(json.loads(content), PERSON)
    else:
        assert not (must_be_json and content)
    return finish


def matrix(max_tokens: int, seeds: range) -> list[dict[str, Any]]:
    return [
        {
            "messages": USER,
            "tools": TOOLS[1:2] if tools == 1 else TOOLS,
            "tool_choice": NAMED if choice == "named" else choice,
            "chat_template_kwargs": {"thinking": thinking},
            "stream": stream,
            "max_tokens": max_tokens,
            "seed": seed,
            **({"response_format": FORMAT} if formatted else {}),
        }
        for seed in seeds
        for thinking, choice, formatted, stream, tools in MATRIX
    ]


def test_the_matrix(server: Served) -> None:
    """Thinking x tool choice x format x streaming x number of tools: no error, all valid."""
    bodies = matrix(160, range(1))
    finishes = [require(body, answer) for body, answer in zip(bodies, gather(server, bodies))]
    assert len(bodies) == 64 and finishes.count("tool_calls") >= 32


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [100, 400])
def test_the_matrix_many_times(server: Served, max_tokens: int) -> None:
    bodies = matrix(max_tokens, range(1, 5))
    for body, answer in zip(bodies, gather(server, bodies)):
        require(body, answer)


def test_a_thought_that_its_budget_closes_leaves_room_for_the_form(server: Served) -> None:
    base = {"messages": USER, "stream": False, "chat_template_kwargs": {"thinking": True}, "tools": [], "seed": 1}
    bodies: list[dict[str, Any]] = []
    for budget in (0, 5, 10_000):
        form = {"response_format": FORMAT, "tool_choice": "auto"}
        call = {"tools": TOOLS, "tool_choice": "required"}
        bodies += [{**base, **kind, "thinking_token_budget": budget, "max_tokens": 110} for kind in (form, call)]
    answers = gather(server, bodies)
    for body, answer in zip(bodies, answers):
        require(body, answer)
        usage = answer.json()["usage"]
        assert usage["completion_tokens"] <= 110
        assert usage["completion_tokens_details"]["reasoning_tokens"] <= body["thinking_token_budget"]


def test_parallel_calls_and_several_choices(server: Served) -> None:
    short = {"type": "object", "properties": {"k": {"enum": [1, 2]}}, "required": ["k"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": name, "parameters": short}} for name in "ab"]
    base: dict[str, Any] = {"messages": USER, "tools": tools, "tool_choice": "required", "max_tokens": 300, "seed": 2}
    base |= {"n": 8, "temperature": 2.0, "chat_template_kwargs": {"thinking": False}}
    one, many = (gather(server, [{**base, "parallel_tool_calls": parallel}])[0].json() for parallel in (False, True))
    assert [len(c["message"]["tool_calls"]) for c in one["choices"]] == [1] * 8
    if server.llm.name == "tiny":  # random weights go on after a call as often as not; nano never does
        assert max(len(c["message"]["tool_calls"]) for c in many["choices"]) > 1
    made = [call for answer in (one, many) for c in answer["choices"] for call in c["message"]["tool_calls"]]
    for call in made:
        jsonschema.validate(json.loads(call["function"]["arguments"]), short)
    assert len({call["id"] for call in made}) == len(made)


def test_allowed_tools_and_lenient_schemas(server: Served) -> None:
    only = {"mode": "required", "tools": [{"type": "function", "function": {"name": "note.add_1"}}]}
    odd = {**SCHEMAS["note.add_1"], "not": {"required": ["x"]}}
    function = {"name": "note.add_1", "parameters": odd, "strict": False}
    bodies = [
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": only}},
        {"tools": [{"type": "function", "function": function}], "tool_choice": "required"},
    ]
    for answer in gather(server, [{**body, "messages": USER, "max_tokens": 150} for body in bodies]):
        calls = message_of(answer, stream=False)[2]
        assert calls and {name for name, _ in calls} == {"note.add_1"}
        for _, arguments in calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS["note.add_1"])


def test_exact_prompt_ids_with_a_form(server: Served) -> None:
    """The client renders the prompt itself, also in the middle of the answer."""
    tok = server.service.tok
    header = tok.encode(
        "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|>", allow_special=True
    )
    body = {"response_format": FORMAT, "max_tokens": 120, "seed": 4}
    begun = header + tok.encode("<think>ok</think>", allow_special=True) + tok.encode('{"name": "Li')
    wrong = header + tok.encode("<think>ok</think>", allow_special=True) + tok.encode('{"nome": ')
    answers = gather(server, [{**body, "prompt_token_ids": p} for p in (header, begun, wrong)])
    assert answers[2].status_code == 400 and answers[2].json()["error"]["param"] == "prompt_token_ids"
    for answer, before in zip(answers[:2], ("", '{"name": "Li')):
        content = answer.json()["choices"][0]["message"]["content"]
        jsonschema.validate(json.loads(before + content), PERSON)


def test_anthropics_dialect(server: Served) -> None:
    tools: Any = [{"name": n, "input_schema": s} for n, s in SCHEMAS.items()]
    cases: list[dict[str, Any]] = [
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {"tool_choice": {"type": "tool", "name": "get-weather"}},
        {"tool_choice": {"type": "none"}, "output_config": {"format": {"type": "json_schema", "schema": PERSON}}},
        {"tool_choice": {"type": "auto"}, "output_format": {"type": "json_schema", "schema": PERSON}},
    ]

    async def ask(case: dict[str, Any], stream: bool) -> Any:
        client = server.anthropic()
        body: dict[str, Any] = dict(
            model="tiny", max_tokens=200, messages=USER, tools=tools, extra_body={"seed": 5, **case}
        )
        if not stream:
            return await client.messages.create(**body)
        async with client.messages.stream(**body) as events:
            return await events.get_final_message()

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(ask(case, stream) for case in cases for stream in (False, True)))

    answers = asyncio.run(asyncio.wait_for(ask_all(), 120))
    for case, answer in zip([c for c in cases for _ in (0, 1)], answers):
        calls = [b for b in answer.content if b.type == "tool_use"]
        texts = [b.text for b in answer.content if b.type == "text"]
        for call in calls:
            jsonschema.validate(call.input, SCHEMAS[call.name])
        kind = case["tool_choice"]["type"]
        if kind in ("any", "tool"):
            assert calls and not texts and answer.stop_reason == "tool_use"
            assert len(calls) == 1 or not (kind == "tool" or case["tool_choice"].get("disable_parallel_tool_use"))
            assert kind == "any" or calls[0].name == "get-weather"
        elif not calls:
            jsonschema.validate(json.loads("".join(texts)), PERSON)
        assert kind != "none" or not calls


def test_openais_responses(server: Served) -> None:
    tools: Any = [{"type": "function", "name": n, "parameters": s, "strict": True} for n, s in SCHEMAS.items()]
    form = {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}}
    only = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "calculator"}]}
    cases: list[dict[str, Any]] = [
        {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": tools, "tool_choice": {"type": "function", "name": "get-weather"}},
        {"tools": tools, "tool_choice": only},
        {"tools": tools, "tool_choice": "none", "text": form},
        {"text": {"format": {"type": "json_object"}}},
    ]

    async def ask(case: dict[str, Any], stream: bool) -> Any:
        body: dict[str, Any] = dict(model="tiny", input="Hi", max_output_tokens=200, extra_body={"seed": 6}, **case)
        if not stream:
            return await server.openai().responses.create(**body)
        async with server.openai().responses.stream(**body) as events:
            async for event in events:
                if event.type in ("response.completed", "response.incomplete"):
                    return event.response
        return None

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(ask(case, stream) for case in cases for stream in (False, True)))

    answers = asyncio.run(asyncio.wait_for(ask_all(), 120))
    for case, answer in zip([c for c in cases for _ in (0, 1)], answers):
        assert answer.status == "completed", answer
        calls = [i for i in answer.output if i.type == "function_call"]
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
        if "tools" in case and case["tool_choice"] != "none":
            assert calls and not answer.output_text
            assert case["tool_choice"] != only or {c.name for c in calls} == {"calculator"}
        else:
            schema = PERSON if "tools" in case else {"type": "object"}
            jsonschema.validate(json.loads(answer.output_text), schema)
        assert answer.parallel_tool_calls == case.get("parallel_tool_calls", True)


def test_answer_now_with_a_form(server: Served) -> None:
    """The order to answer closes the thought, and what follows is the form."""
    tok = server.service.tok
    open_thought = tok.encode("<|im_assistant|>assistant<|im_middle|><think>", allow_special=True)
    body = {"prompt_token_ids": open_thought, "response_format": FORMAT, "max_tokens": 600, "temperature": 0}

    async def hurry() -> Any:
        async with server.http() as http:
            asking = asyncio.create_task(http.post(CHAT, json=body, timeout=60))
            while not server.service.running:
                await asyncio.sleep(0.001)
            (name,) = server.service.running
            order = await http.post(f"{CHAT}/control", json={"id": name, "action": "reasoning_end"})
            return order.json()["applied"], (await asking).json()

    applied, answer = server.do(hurry)
    choice = answer["choices"][0]
    assert applied and choice["thinking_ended_by"] == "answer_now"
    jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)


def test_compiling_is_off_the_event_loop_and_done_once(server: Served) -> None:
    slow = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(350)}}
    body = {
        "messages": USER,
        "max_tokens": 5,
        "response_format": {"type": "json_schema", "json_schema": {"schema": slow}},
    }
    done: list[str] = []

    async def ask() -> None:
        async def one(name: str, work: Any) -> None:
            assert (await work).status_code == 200
            done.append(name)

        async with server.http() as http:
            compiling = [asyncio.create_task(one("compiled", http.post(CHAT, json=body, timeout=60))) for _ in range(3)]
            await asyncio.sleep(0)
            await one("health", http.get("/health"))
            await asyncio.gather(*compiling)

    before = server.service.metrics.schemas["known"]
    server.do(ask)
    assert done[0] == "health"
    gather(server, [body])
    assert server.service.metrics.schemas["known"] == before + 1
    assert "abruzzi_schemas_total" in server.get("/metrics").text


HOSTILE: list[Any] = [
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}},
    {"type": "integer", "multipleOf": 999983},
    {"$ref": "#"},
    {"type": "array", "minItems": 10**6, "items": {"type": "integer"}},
    {"type": "string", "pattern": "((a{4000}){4000}){4000}"},
    {"type": "string", "pattern": "("},
    {"enum": ["x" * 9000]},
    {"properties": {"\ud800": {}}, "required": ["\ud800"]},
    {"type": 5},
    {"properties": 3, "required": 4, "items": 5, "enum": 6, "anyOf": 7, "multipleOf": "x", "pattern": 8},
    {"required": [1, None]},
    {"$ref": 5},
    False,
    json.loads('{"items":' * 400 + "{}" + "}" * 400),
]


def test_no_schema_gives_a_500_or_a_hang(server: Served) -> None:
    bodies: list[dict[str, Any]] = []
    for schema in HOSTILE:
        bodies.append({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
        if isinstance(schema, dict):
            for strict in (None, False):
                function = {"name": "f", "parameters": schema, "strict": strict}
                bodies.append({"tools": [{"type": "function", "function": function}], "tool_choice": "required"})
    answers = gather(server, [{**body, "messages": USER, "max_tokens": 60} for body in bodies])
    for body, answer in zip(bodies, answers):
        assert answer.status_code in (200, 400), (str(body)[:200], answer.text)
        if answer.status_code == 400:
            assert answer.json()["error"]["message"], body
    assert server.post(CHAT, {"messages": USER, "max_tokens": 5}).status_code == 200


# what needs no model


PERSON_TEXT = '{"name": "Li", "age": 3, "home": 1}'


@pytest.mark.parametrize("thinking", ["<think>" + "x" * 12, "<think>I give up[end]"])
def test_a_thought_that_is_cut_goes_over_into_the_form(thinking: str) -> None:
    """Its budget closes it; or, where text is free, the model ended the turn inside it and goes on
    behind it."""
    given_up = thinking.endswith("[end]")
    script = [thinking, PERSON_TEXT + "[end]"] if given_up else [thinking + PERSON_TEXT + "[end]"]
    form: dict[str, Any] = {"tools": TOOLS} if given_up else {"response_format": FORMAT, "thinking_token_budget": 12}
    with serving(saying(*script)) as server:
        choice = server.post(CHAT, {"messages": USER, "max_tokens": 300, **form}).json()["choices"][0]
    assert choice["thinking_ended_by"] == ("end_of_turn" if given_up else "budget")
    assert choice["message"]["content"] == PERSON_TEXT and choice["finish_reason"] == "stop"

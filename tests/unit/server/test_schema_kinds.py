"""Awkward schemas through the whole server: who said strict gets all of it or a 400; everybody else
gets an answer, the rest of the schema enforced, and a header that says what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from abruzzi.engine.grammar import repair
from abruzzi.engine.grammar.structure import SchemaWeakened
from abruzzi.engine.llm import LLM
from abruzzi.server.structure import MAX_HEADER, dropped_header
from abruzzi.types import MessageEnd
from tests import tiny
from tests.unit.server.scripted_engine import Served, saying, serving

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HEADER = "x-abruzzi-schema-dropped"
USER = [{"role": "user", "content": "Calculate 69 - 21 + 39."}]
SOUND = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
NO_QUOTE = {"type": "object", "properties": {"s": {"type": "string", "pattern": '^"[^"]*"$'}}, "required": ["s"]}
MAIL = {
    "type": "object",
    "properties": {"to": {"type": "string", "format": "email", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]+@[a-z.]+$"}},
    "required": ["to"],
}
# What clients declare: the odd schema, and what the header says of it.
ODD: list[tuple[Any, str | None]] = [
    (MAIL, "odd:/properties/to/pattern"),
    ({"type": "object", "properties": {}, "required": None}, "odd:/required"),
    ({"type": "object", "properties": {"a": {"type": "string", "enum": None}}}, "odd:/properties/a/enum"),
    ({"properties": {"a": {}}, "required": ["zzz"], "additionalProperties": False}, "odd:/required/0"),
    ({"type": "object", "properties": {"when": {"type": "date"}}}, "odd:/properties/when/type"),
    ({"type": "object", "propertyNames": {"pattern": "^a"}}, "odd:/propertyNames"),
    ({"type": "object", "properties": {"a/é": {"not": {}}}}, "odd:/properties/a~1%C3%A9/not"),
    ({"type": "object", "properties": {"x": {"type": "string", "title": "X", "x-order": 1}}}, None),
]


def request(path: str, schema: Any, strict: bool | None) -> dict[str, Any]:
    """A request with a sound tool and an odd one."""
    said = {} if strict is None else {"strict": strict}
    key = "input_schema" if path == MESSAGES else "parameters"
    tools: list[Any] = [{"name": "calculator", key: SOUND}, {"name": "odd", key: schema, **said}]
    if path == CHAT:
        tools = [{"type": "function", "function": tool} for tool in tools]
    if path == RESPONSES:
        return {"input": "Hi", "tools": [{"type": "function", **tool} for tool in tools], "max_output_tokens": 60}
    return {"messages": USER, "tools": tools, "max_tokens": 60}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    call = '[calls][call]functions.calculator:0[args]{"expression":"1"}[/call][/calls][end]'
    with serving(saying(call)) as served:
        yield served


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize(("schema", "said"), ODD, ids=[str(said) for _, said in ODD])
def test_one_odd_tool_leaves_the_others_usable(server: Served, path: str, schema: Any, said: str | None) -> None:
    for strict in (None, False):
        answer = server.post(path, request(path, schema, strict))
        assert answer.status_code == 200, answer.text
        assert answer.headers.get(HEADER) == said
        assert ("calculator" in answer.text and '\\"1\\"' in answer.text) or '"1"' in answer.text
    answer = server.post(path, request(path, schema, True))
    if said is None:
        assert answer.status_code == 200
        return
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "unsupported_schema"
    assert "'odd'" in error["message"] and "hint: " in error["message"]
    assert schema_pointer(said) in error["message"] and "coerce" not in error["message"]


def schema_pointer(said: str) -> str:
    return said.partition(":")[2].replace("%C3%A9", "é")


def test_an_answer_without_strict_keeps_the_rest_of_its_schema(server: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "not": {"required": ["b"]}}
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
    with serving(saying('{"a": 1}[end]')) as served:
        answer = served.post(CHAT, {"messages": USER, "response_format": form, "max_tokens": 60})
        assert answer.status_code == 200 and answer.headers[HEADER] == ":/not"
        assert answer.json()["choices"][0]["message"]["content"] == '{"a": 1}'
        form["json_schema"]["strict"] = True  # type: ignore[index]
        refused = served.post(CHAT, {"messages": USER, "response_format": form, "max_tokens": 60})
        assert refused.status_code == 400 and "/not" in refused.json()["error"]["message"]
        claude = {"output_format": {"type": "json_schema", "schema": schema}, "max_tokens": 60, "messages": USER}
        assert served.post(MESSAGES, claude).status_code == 400  # Anthropic's forms are always whole


def strict_form(stream: bool) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "f", "strict": True, "schema": NO_QUOTE}}
    return {"messages": USER, "max_tokens": 300, "response_format": form, "stream": stream}


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM.load(tiny.write(tmp_path_factory.mktemp("tiny"), seed=3, context=512), cache_tokens=8_000)


STRICT = [
    r'^"[^"]*"$', r"^[^\\]{3,}$", r'^[^"\n]{4}$', r"^[\x00-\x1f]{3}$", r"^[^/]+/[^/]+$", r"^\S+$", r"^\W{2}$",
    r"^[\s\S]{5}$", r"^.{3}$", r"^(?:[^\\]|\n){3}$", r"[^a-z]{2}", r"(?i)^[^a]{3}$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", STRICT)
def test_strict_answers_of_a_model_that_babbles_match_their_pattern(random_model: LLM, pattern: str) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string", "pattern": pattern}}, "required": ["s"]}
    form = {"type": "json_schema", "json_schema": {"name": "f", "strict": True, "schema": schema}}
    body = {"messages": USER, "response_format": form, "max_tokens": 60, "n": 8, "temperature": 2, "seed": 5}
    with serving(random_model) as served:
        answer = served.post(CHAT, {**body, "reasoning_effort": "none"})
    assert answer.status_code == 200, answer.text
    finished = [c for c in answer.json()["choices"] if c["finish_reason"] == "stop"]
    assert finished
    for choice in finished:
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)


def test_in_process_what_is_left_out_is_a_warning(random_model: LLM) -> None:
    tool = {"type": "function", "function": {"name": "send", "parameters": MAIL}}
    with pytest.warns(SchemaWeakened, match="send:/properties/to/pattern"):
        (*_, end) = random_model.chat(USER, [tool], max_tokens=60, tool_choice="required", thinking=False, seed=1)
    assert isinstance(end, MessageEnd)
    assert isinstance(json.loads(end.message.tool_calls[0].arguments)["to"], str)
    tool["function"]["strict"] = True
    with pytest.raises(ValueError, match="parameters of the tool 'send' cannot be enforced: /properties/to/pattern: "):
        list(random_model.chat(USER, [tool], max_tokens=60))


@pytest.fixture
def deviant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server whose compiler is handed patterns as they are, and a model that walks into its
    deviation."""
    monkeypatch.setattr(repair, "rewritten", lambda pattern: pattern)
    with serving(saying(json.dumps({"s": '"a"b"'}) + "[end]")) as served:
        yield served


def test_a_finished_answer_that_misses_its_schema_is_an_error_and_counted(deviant: Served) -> None:
    answer = deviant.post(CHAT, strict_form(stream=False))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "schema_missed" and "/s" in answer.json()["error"]["message"]
    streamed = deviant.post(CHAT, strict_form(stream=True)).text
    assert "schema_missed" in streamed and '"finish_reason":"stop"' not in streamed.replace(" ", "")
    assert 'abruzzi_schemas_total{outcome="missed"} 2' in deviant.get("/metrics").text
    form = {"format": {"type": "json_schema", "name": "f", "strict": True, "schema": NO_QUOTE}}
    assert deviant.post(RESPONSES, {"input": "Hi", "text": form}).status_code == 500
    claude = {"output_format": {"type": "json_schema", "schema": NO_QUOTE}, "max_tokens": 99, "messages": USER}
    error = deviant.post(MESSAGES, claude).json()
    assert error["type"] == "error" and error["error"]["code"] == "schema_missed"


def test_a_finished_call_that_misses_its_schema_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "rewritten", lambda pattern: pattern)
    arguments = json.dumps({"s": '"a"b"'})
    with serving(saying(f"[calls][call]functions.odd:0[args]{arguments}[/call][/calls][end]")) as served:
        answer = served.post(CHAT, request(CHAT, NO_QUOTE, True))
        assert answer.status_code == 500 and "'odd'" in answer.json()["error"]["message"]


def test_the_header_is_bounded_and_plain() -> None:
    parts = [f"tool{i}:/properties/naïve\r\n, {'x' * 100}/pattern" for i in range(50)]
    value = dropped_header(parts)
    assert len(value) <= MAX_HEADER + 20 and value.isascii() and value.isprintable()
    shown = value.split(", ")
    assert shown[-1] == f"...{50 - len(shown) + 1} more"
    assert dropped_header(["f:/a"]) == "f:/a"

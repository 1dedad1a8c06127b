"""The derived request schemas: what the recorder notes, and that readers read exactly the fields of
the document."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from jsonschema import Draft202012Validator

from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, read_all
from abruzzi.server.memory.seal import Seal
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.openapi import document, readers
from abruzzi.server.request_schema import schema_of
from abruzzi.server.service import Service, Settings
from tests.unit.server.scripted_engine import CALCULATOR, saying

LLM: Any = saying("x[end]")
SERVICE = Service(EngineThread(LLM), ReasoningStore(), Seal(b"k" * 32), Settings(names=("tiny",)))
READERS = readers(SERVICE)
PATHS = sorted(READERS)
USER = [{"role": "user", "content": "Hi"}]
FUNCTION = CALCULATOR["function"]


def body_schema(path: str) -> dict[str, Any]:
    return document(SERVICE)["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


class Watched(Fields):
    """Notes which fields are read of which object; an item of a list is any item."""

    seen: ClassVar[dict[str, set[str]]] = defaultdict(set)

    def raw(self, field: str, schema: dict[str, Any], need: bool = False, missing: str = "") -> Any:
        Watched.seen[re.sub(r"\[\d+\]", "[]", self.name(""))].add(field)
        return super().raw(field, schema, need, missing)


def properties(schema: dict[str, Any], where: str = "") -> dict[str, set[str]]:
    """Of each object of the schema, by its place, the fields of all its alternatives."""
    out: dict[str, set[str]] = defaultdict(set)
    for part in schema.get("anyOf", [schema]):
        if part is not schema:
            nested = [(where, part)]
        else:
            out[where] |= set(part.get("properties", {}))
            nested = [(f"{where}{name}.", s) for name, s in part.get("properties", {}).items()]
            nested += [(f"{where[:-1]}[].", part["items"])] if "items" in part else []
        for place, inner in nested:
            for key, names in properties(inner, place).items():
                out[key] |= names
    return out


def values(schema: dict[str, Any]) -> list[Any]:
    """Values of a schema that are not null: each word, both ends of a range, each object with each
    of its fields."""
    if "anyOf" in schema:
        return [value for part in schema["anyOf"] for value in values(part)]
    if "enum" in schema:
        return [value for value in schema["enum"] if value is not None]
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    if kind == "object":
        return list(one_at_a_time(schema))
    if kind == "array":
        return [[value] for value in values(schema["items"])]
    low, high = schema.get("minimum", 0.5), schema.get("maximum", 1)
    return {"string": ["x"], "boolean": [True, False], "null": []}.get(kind, [low, high])


def one_at_a_time(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Objects with what is required and one field more, for every value of every field."""
    fields = schema.get("properties", {})
    least = {name: values(fields[name])[0] for name in schema.get("required", ())}
    yield least
    for name, inner in fields.items():
        yield from ({**least, name: value} for value in values(inner))


def bodies(path: str) -> list[dict[str, Any]]:
    schema = body_schema(path)
    return [body for part in schema.get("anyOf", [schema]) for body in one_at_a_time(part)]


def refusals(read: tuple[Callable[[Fields], Any], ...], body: Any) -> list[ApiError]:
    """Why each reader refuses the body; [] as soon as one takes it."""
    errors = []
    for reader in read:
        try:
            read_all(Watched(body), reader)
        except ApiError as error:
            errors.append(error)
        else:
            return []
    return errors


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_the_document_is_read(path: str) -> None:
    for body in bodies(path):
        codes = [error.code for error in refusals(READERS[path], body)]
        assert not codes or any(code != "unknown_field" for code in codes), body


@pytest.mark.parametrize("path", PATHS)
def test_every_field_that_is_read_stands_in_the_document(path: str) -> None:
    """Every value of every field is sent: no read hides behind the value of another field."""
    Watched.seen.clear()
    taken = sum(not refusals(READERS[path], body) for body in bodies(path))
    assert taken > len(bodies(path)) / 2, "the document allows little that the readers take"
    listed = properties(body_schema(path))
    for place, names in Watched.seen.items():
        assert names <= listed[place], f"{place}: {names - listed[place]} read, but not in the document"


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
CALL = {"id": "a", "type": "function", "function": {"name": "calc", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "7"}
ANTHROPIC_TOOL = {"name": "calc", "input_schema": FUNCTION["parameters"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": USER, "temperature": 0, "n": 2, "stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"messages": USER, "tools": [CALCULATOR], "tool_choice": "required", "parallel_tool_calls": False}),
        (
            CHAT,
            {
                "messages": USER,
                "tools": [CALCULATOR],
                "tool_choice": {"type": "function", "function": {"name": "calc"}},
            },
        ),
        (
            CHAT,
            {
                "messages": [
                    *USER,
                    {"role": "assistant", "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "a", "content": "7"},
                ]
            },
        ),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "reasoning_effort": None}),
        (
            CHAT,
            {"messages": USER, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        ),
        (CHAT, {"prompt_token_ids": [1, 2], "messages": [], "top_k": -1, "frequency_penalty": 0.0}),
        (MESSAGES, {"max_tokens": 9, "messages": USER, "system": [{"type": "text", "text": "Be brief."}]}),
        (MESSAGES, {"max_tokens": 9, "messages": USER, "tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}}),
        (RESPONSES, {"input": "Hi", "include": ["reasoning.encrypted_content"], "client_metadata": {"a": "b"}}),
        (RESPONSES, {"input": [{"role": "user", "content": "Hi"}], "text": {"format": {"type": "json_object"}}}),
        ("/v1/completions", {"prompt": [[1, 2], [3]], "n": 2, "best_of": 2, "logprobs": 0}),
        ("/tokenize", {"content": "Hi", "prompt": None}),
        ("/tokenize", {"messages": USER, "prompt_token_ids": None}),
    ],
)
def test_what_clients_send_is_allowed(path: str, body: dict[str, Any]) -> None:
    Draft202012Validator(body_schema(path)).validate(body)
    assert not refusals(READERS[path], body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {}),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": USER, "prompt_token_ids": [1]}),
        (CHAT, {"prompt_token_ids": [1], "tools": []}),
        (CHAT, {"messages": USER, "top_p": -0.1}),
        (CHAT, {"messages": USER, "frequency_penalty": False}),
        (CHAT, {"messages": USER, "temprature": 1}),
        (CHAT, {"messages": [{"role": "user", "content": "Hi", "tool_calls": [CALL]}]}),
        (CHAT, {"messages": USER, "response_format": {"type": "json_schema"}}),
        (CHAT, {"messages": USER, "tool_choice": "sometimes"}),
        (MESSAGES, {"messages": USER}),
        (MESSAGES, {"max_tokens": 9, "messages": USER, "temperature": 1.5}),
        (MESSAGES, {"max_tokens": 9, "messages": [{"role": "system", "content": [{"type": "tool_result"}]}]}),
        (RESPONSES, {"input": []}),
        (RESPONSES, {"input": "Hi", "tools": [{"type": "web_search"}]}),
        ("/tokenize", {"content": "Hi", "prompt": "Hi"}),
        ("/tokenize", {"prompt_token_ids": [1]}),
        ("/v1/completions", {"prompt": [[]]}),
    ],
)
def test_what_is_refused_is_forbidden(path: str, body: dict[str, Any]) -> None:
    if body != {"prompt": [[]]}:  # the service refuses it: an empty prompt
        assert refusals(READERS[path], body)
    assert not Draft202012Validator(body_schema(path)).is_valid(body)


# the recorder


def test_kinds_that_read_the_same_fields_are_one_alternative() -> None:
    def read(fields: Fields) -> None:
        if fields.kind("role", "system", "user", "tool") == "tool":
            fields.required_text("call_id", filled=True)

    system_or_user, tool = schema_of(read)["anyOf"]
    assert system_or_user["properties"] == {"role": {"enum": ["system", "user"]}}
    assert tool["properties"] == {"role": {"enum": ["tool"]}, "call_id": {"type": "string", "minLength": 1}}
    assert tool["required"] == ["role", "call_id"] and tool["additionalProperties"] == {"enum": [None]}


def test_a_field_that_excludes_others_is_an_alternative_of_its_own() -> None:
    def read(fields: Fields) -> None:
        fields.boolean("plain")
        if fields.given("ids"):
            fields.token_ids("ids", 5, need=True)
            fields.only("plain", hint="ids are used as they are")

    without, exact = schema_of(read)["anyOf"]
    assert without["properties"] == {"plain": {"type": ["boolean", "null"]}, "ids": {"enum": [None]}}
    assert exact["properties"]["plain"] == {"enum": [None]} and exact["required"] == ["ids"]


def test_branches_inside_branches_are_all_met() -> None:
    def inner(fields: Fields) -> None:
        if fields.kind("type", "a", "b") == "b":
            fields.integer("depth", 0, 3)

    def read(fields: Fields) -> None:
        if fields.kind("type", "leaf", "list") == "list":
            fields.each("items", inner, need=True)
        elif fields.given("weight"):
            fields.number("weight", 0, 1, above=True)

    leaf, listed, heavy = schema_of(read)["anyOf"]
    assert set(leaf["properties"]) == {"type", "weight"} and leaf["properties"]["weight"] == {"enum": [None]}
    assert listed["properties"]["items"]["minItems"] == 1
    assert [set(s["properties"]) for s in listed["properties"]["items"]["items"]["anyOf"]] == [
        {"type"},
        {"type", "depth"},
    ]
    assert heavy["properties"]["weight"] == {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1}


def test_a_branch_that_could_not_be_seen_is_an_error() -> None:
    def hidden(fields: Fields) -> None:
        inner = fields.required_object("inner")
        inner.kind("type", "a", "b")
        inner.end()

    with pytest.raises(AssertionError, match=r"inner\.type is a branch"):
        schema_of(hidden)


def test_a_field_that_is_read_in_two_ways_is_an_error() -> None:
    with pytest.raises(AssertionError, match="n is read as"):
        schema_of(lambda fields: (fields.integer("n", 0, 5), fields.integer("n", 0, 6)))

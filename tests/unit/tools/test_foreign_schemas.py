"""call_tool against schemas that somebody else wrote: broken ones are a result, valid ones hold in
full.

The judge of valid ones is `jsonschema` itself; the broken ones are what servers of tools send:
types of other languages, keywords of older drafts, references to nowhere, patterns that take for
ever.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi.tools import ToolError, ToolOk, call_tool
from abruzzi.tools import schema as tool_schema
from abruzzi.types import ToolCall, ToolSpec

DEEP: dict[str, Any] = {}
for _ in range(3_000):
    DEEP = {"properties": {"a": DEEP}}
TREE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}},
    "required": ["v"],
    "additionalProperties": False,
}


class Foreign:
    """A tool with any schema; says that it ran, and with what."""

    def __init__(self, parameters: Any) -> None:
        self.spec = ToolSpec("foreign", "", parameters)

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
        return ToolOk(f"ran {json.dumps(arguments)}", "ran")


def call(parameters: Any, arguments: Any) -> ToolOk | ToolError:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return call_tool([Foreign(parameters)], ToolCall("foreign", text))


def of_a(rule: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": rule}}


BROKEN = {
    "a type of another language": (of_a({"type": "date"}), "/properties/a/type", '"date" is no type; expected string'),
    "a type that is a number": (of_a({"type": 5}), "/properties/a/type", "5 is no type"),
    "no alternatives": (of_a({"anyOf": []}), "/properties/a/anyOf", "[]"),
    "an enum that is no list": (of_a({"enum": "x"}), "/properties/a/enum", "'x'"),
    "a minimum that is text": (of_a({"minimum": "1"}), "/properties/a/minimum", "'1'"),
    "draft 3's required": (of_a({"type": "string", "required": True}), "/properties/a/required", "True"),
    "draft 4's exclusiveMinimum": (of_a({"exclusiveMinimum": True, "minimum": 1}), "/exclusiveMinimum", "True"),
    "required that is null": ({"type": "object", "required": None}, "/required", "None"),
    "required that is true": ({"type": "object", "required": True}, "/required", "True"),
    "properties that are a list": ({"properties": ["a"]}, "/properties", "['a']"),
    "properties that are null": ({"properties": None}, "/properties", "None"),
    "a rule that is text": (of_a("string"), "/properties/a", "'string'"),
    "a rule that is null": (of_a(None), "/properties/a", "None"),
    "a reference to nowhere": (of_a({"$ref": "#/$defs/gone"}), "$ref", '"/$defs/gone"'),
    "a reference to another machine": (of_a({"$ref": "http://127.0.0.1:9/x.json"}), "$ref", "127.0.0.1:9"),
    "a reference that is a number": (of_a({"$ref": 5}), "/properties/a/$ref", "5"),
    "an anchor to nowhere": (of_a({"$dynamicRef": "#gone"}), "$ref", "gone"),
    "a schema that is itself": ({"$ref": "#"}, "without end", ""),
    "two schemas in a circle": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        *("without end", ""),
    ),
    "three thousand levels": (DEEP, "without end", ""),
    "a pattern that is none": (of_a({"pattern": "("}), "pattern", "regex"),
    "a pattern of another language": (of_a({"pattern": r"^\p{L}+$"}), "pattern", "regex"),
    "a key pattern that is none": ({"patternProperties": {"[": {}}}, "pattern", "regex"),
    "a pattern that repeats too often": (of_a({"pattern": "a{1,99999999999}"}), "pattern", "too large"),
    "a length that is negative": (of_a({"maxLength": -1}), "/properties/a/maxLength", "-1"),
    "multiples of zero": (of_a({"multipleOf": 0}), "/properties/a/multipleOf", "0"),
    "a dialect that is a number": ({"$schema": 5}, "$schema", "5"),
    "a dialect that is a list": ({"$schema": ["x"]}, "$schema", "x"),
    "no schema": (None, "must be an object", "null"),
    "a list": ([], "must be an object", "[]"),
    "text": ("object", "must be an object", '"object"'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_schema_that_is_none_is_told_and_ends_nothing(name: str) -> None:
    parameters, *says = BROKEN[name]
    result = call(parameters, {"a": "x"})
    assert isinstance(result, ToolError), result
    assert "schema" in result.message and "foreign" in result.message and len(result.message) < 600
    for text in says:
        assert text in result.message
    assert "schema" in result.brief and len(result.brief) <= 100


def test_a_reference_is_never_fetched() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.json"
    for parameters in (of_a({"$ref": url}), {"$schema": url, **of_a({})}, {"$id": url, **of_a({"$ref": "y.json"})}):
        call(parameters, {"a": 1})
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


VALID: list[tuple[Any, Any, str]] = [
    # schema, what fits it, what does not as (arguments, words of the error)
    (of_a({"type": ["string", "null"]}), [{"a": "x"}, {"a": None}, {}], [({"a": 1}, "of type string or null")]),
    (of_a({"minimum": 1}), [{"a": "x"}, {"a": 1}], [({"a": 0}, "/a must be at least 1")]),
    (of_a({"exclusiveMaximum": 3}), [{"a": 2}], [({"a": 3}, "/a must be less than 3")]),
    (of_a({"multipleOf": 5}), [{"a": 10}], [({"a": 7}, "/a must be a multiple of 5")]),
    (of_a({"const": "yes"}), [{"a": "yes"}], [({"a": "no"}, '/a must be "yes"')]),
    (of_a({"pattern": "^[a-c]+$"}), [{"a": "abc"}], [({"a": "abd"}, '/a must match the pattern "^[a-c]+$"')]),
    (of_a({"minLength": 2}), [{"a": "ab"}], [({"a": "b"}, "/a has 1 characters, fewer than 2")]),
    (of_a({"maxItems": 1}), [{"a": [1]}], [({"a": [1, 2]}, "/a has 2 items, more than 1")]),
    (of_a({"minItems": 1}), [{"a": [1]}], [({"a": []}, "/a has 0 items, fewer than 1")]),
    (of_a({"uniqueItems": True}), [{"a": [1, 2]}], [({"a": [1, 1]}, "/a")]),
    (of_a({"items": {"type": "integer"}}), [{"a": [1]}], [({"a": [1, "x"]}, '/a/1 must be of type integer, not "x"')]),
    (of_a({"prefixItems": [{"const": 1}], "items": False}), [{"a": [1]}], [({"a": [1, 2]}, "/a")]),
    (of_a({"contains": {"const": 1}}), [{"a": [0, 1]}], [({"a": [0]}, "/a")]),
    (
        of_a({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "boolean"}]}),
        [{"a": 3}, {"a": True}],
        [({"a": "x"}, "/a must fit one of ["), ({"a": 2}, "/a must be at least 3")],
    ),
    (of_a({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}), [{"a": 4}], [({"a": 6}, "/a"), ({"a": 5}, "/a")]),
    (of_a({"allOf": [{"minimum": 1}, {"maximum": 2}]}), [{"a": 2}], [({"a": 3}, "/a must be at most 2")]),
    (of_a({"not": {"type": "string"}}), [{"a": 2}], [({"a": "x"}, "/a")]),
    (
        of_a({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"minimum": 5}}),
        [{"a": "x"}, {"a": 5}],
        [({"a": "xy"}, "/a has 2 characters, more than 1"), ({"a": 4}, "/a must be at least 5")],
    ),
    (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        [{"a": "x", "b": 1}],
        [({"b": "x"}, "/b must be of type integer")],
    ),
    ({"patternProperties": {"^x_": {"type": "null"}}}, [{"x_1": None}], [({"x_1": 1}, "/x_1 must be of type null")]),
    ({"propertyNames": {"maxLength": 2}}, [{"ab": 1}], [({"abc": 1}, 'the name "abc" has 3 characters, more than 2')]),
    ({"minProperties": 1}, [{"b": 1}], [({}, "arguments")]),
    ({"dependentRequired": {"a": ["b"]}}, [{"a": 1, "b": 1}], [({"a": 1}, "b")]),
    ({"unevaluatedProperties": False, **of_a({})}, [{"a": 1}], [({"z": 1}, "z")]),
    (TREE, [{"v": 1, "next": {"v": 2}}], [({"v": 1, "next": {"w": 2}}, "/next"), ({"v": 1, "next": {}}, "/next/v")]),
    (
        {**of_a({"$ref": "#/$defs/ab~1c"}), "$defs": {"ab/c": {"enum": [1, None]}}},
        [{"a": 1}, {"a": None}],
        [({"a": 2}, "/a must be one of 1, null")],
    ),
    (
        {"type": "object", "properties": {"x/y": {"type": "object", "properties": {"~": {"type": "string"}}}}},
        [{"x/y": {"~": "1"}}],
        [({"x/y": {"~": 1}}, "/x~1y/~0 must be of type string")],
    ),
    (
        {"$schema": "http://json-schema.org/draft-04/schema#", **of_a({"minimum": 1, "exclusiveMinimum": True})},
        [{"a": 2}],
        [({"a": 1}, "/a")],
    ),
    ({"$schema": "https://example.org/unknown", **of_a({"type": "null"})}, [{"a": None}], [({"a": 1}, "/a must be")]),
    ({}, [{}, {"b": [1]}], []),
    (True, [{"b": 1}], []),
    (False, [], [({}, "arguments")]),
    (of_a(False), [{}], [({"a": 1}, "does not allow 1")]),
    (MappingProxyType(of_a({"type": "integer"})), [{"a": 1}], [({"a": "x"}, "/a must be of type integer")]),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "good", "bad"), VALID, ids=[str(i) for i in range(len(VALID))])
def test_a_valid_schema_holds_in_full(parameters: Any, good: list[Any], bad: list[tuple[Any, str]]) -> None:
    for arguments in good:
        assert call(parameters, arguments) == ToolOk(f"ran {json.dumps(arguments)}", "ran")
    for arguments, says in bad:
        result = call(parameters, arguments)
        assert isinstance(result, ToolError) and says in result.message
        assert len(result.message) < 600 and "\n" not in result.message


LEAVES = st.sampled_from(
    [
        *({"type": kind} for kind in ("string", "integer", "number", "boolean", "null", "array", "object")),
        *({"enum": [1, "a", None]}, {"const": 0}, {"minimum": 1}, {"maxLength": 1}, {"pattern": "a"}, True, False),
        *({"items": {"type": "integer"}}, {"required": ["a"]}, {"uniqueItems": True}, {"type": ["string", "null"]}),
    ]
)
RULES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda rules: {"anyOf": rules}),
        st.lists(inner, min_size=1, max_size=3).map(lambda rules: {"oneOf": rules}),
        st.lists(inner, min_size=1, max_size=3).map(lambda rules: {"allOf": rules}),
        inner.map(lambda rule: {"not": rule}),
        inner.map(lambda rule: {"properties": {"a": rule}, "additionalProperties": False}),
        inner.map(lambda rule: {"type": "array", "items": rule}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from([0.0, 1.5, 2.0, "", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(RULES, VALUES)
def test_it_agrees_with_jsonschema(rule: Any, value: Any) -> None:
    valid = jsonschema.Draft202012Validator(of_a(rule)).is_valid({"a": value})
    assert isinstance(call(of_a(rule), {"a": value}), ToolOk if valid else ToolError)


@settings(max_examples=200, deadline=None)
@given(st.recursive(VALUES, lambda inner: st.dictionaries(
    st.sampled_from(["type", "properties", "items", "enum", "$ref", "anyOf", "required", "pattern", "minimum", "a"]),
    inner, max_size=4), max_leaves=12), VALUES)  # fmt: skip
def test_nothing_passes_the_border(parameters: Any, value: Any) -> None:
    assert isinstance(call(parameters, {"a": value}), (ToolOk, ToolError))


HANGS = {
    "nested repeats": (of_a({"pattern": "^(a+)+$"}), {"a": "a" * 60 + "b"}),
    "alternatives in a repeat": (of_a({"pattern": "^(a|a)*$"}), {"a": "a" * 60 + "b"}),
    "many optional letters": (of_a({"pattern": "^" + "a?" * 40 + "a" * 40 + "$"}), {"a": "a" * 39 + "b"}),
    "a key pattern": ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 60 + "b": 1}),
    "only allowed keys": ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 60 + "b": 1}),
    "a square of white space": (of_a({"pattern": r"\s+x"}), {"a": " " * 90_000}),
    "laughing schemas": (
        {"$ref": "#/$defs/0", "$defs": {
            **{str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 4} for i in range(20)}, "20": {}}},
        {"a": 1},
    ),
    "laughing arguments": (
        {"anyOf": [{"properties": {"a": {"$ref": "#"}}, "required": ["b"]},
                   {"properties": {"a": {"$ref": "#"}}, "required": ["c"]}]},
        json.loads('{"a":' * 24 + "{}" + "}" * 24),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HANGS)
def test_a_schema_that_takes_for_ever_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_schema, "SECONDS", 1.0)
    parameters, arguments = HANGS[name]
    result: list[Any] = []
    worker = threading.Thread(target=lambda: result.append(call(parameters, arguments)), daemon=True)
    worker.start()
    worker.join(30)
    assert result, "still checking after 30 seconds"
    assert isinstance(result[0], ToolError) and "longer than 1 second" in result[0].message


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[a-z0-9]+(?:-[a-z0-9]+)*$", "a-long-slug-of-words", "not a slug"),
        (r"^[^@\s]+@[^@\s]+\.[^@\s]+$", "someone.with.a.name@mail.example.org", "someone.example.org"),
        ("^" + "|".join(f"word{i}" for i in range(2_000)) + "$", "word1999", "wor"),
    ],
)
def test_patterns_that_only_look_dangerous_are_checked(pattern: str, good: str, bad: str) -> None:
    assert isinstance(call(of_a({"pattern": pattern}), {"a": good}), ToolOk)
    result = call(of_a({"pattern": pattern}), {"a": bad})
    assert isinstance(result, ToolError) and "/a must match the pattern" in result.message


def test_what_is_checked_elsewhere_is_told_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {name: call(parameters, {"a": "x"}) for name, (parameters, *_) in BROKEN.items()}
    monkeypatch.setattr(tool_schema, "may_take_long", lambda schema, arguments: True)
    for name in (
        "a type of another language",
        "a pattern that is none",
        "a reference to nowhere",
        "a rule that is null",
    ):
        assert call(BROKEN[name][0], {"a": "x"}) == here[name]
    assert isinstance(call(of_a({"type": "string"}), {"a": "\ud800é"}), ToolOk)


def test_ordinary_schemas_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(*_: object) -> None:
        raise AssertionError("a process for an ordinary schema")

    monkeypatch.setattr(tool_schema, "_judge_apart", apart)
    for parameters, good, bad in VALID:
        for arguments in (*good, *(arguments for arguments, _ in bad)):
            assert isinstance(call(parameters, arguments), (ToolOk, ToolError))
    assert isinstance(call(of_a({"type": "string", "pattern": "^[a-z]+$"}), {"a": "x" * 1000}), ToolOk)
    with pytest.raises(AssertionError, match="a process for"):
        call(of_a({"pattern": "^(a+)+$"}), {"a": "x"})

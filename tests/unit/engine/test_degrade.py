"""What is left out of a schema that cannot be enforced as it is: the smallest part, by its pointer,
and no other."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abruzzi.engine.grammar.json_text import JsonGrammar, Vocabulary
from tests import tiny


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary(tiny.vocabulary())


def around(odd: Any, **more: Any) -> dict[str, Any]:
    """An object with an odd property beside a sound one."""
    return {"type": "object", "properties": {"a": odd, "n": {"type": "integer"}}, "required": ["n"], **more}


def nested(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"type": "object", "properties": {"d": inner}}
    return inner


ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
DOUBLE_MAX = 1.7976931348623157e308
# (schema, pointers of what is left out)
WEAKENED: list[tuple[Any, list[str]]] = [
    (around({"type": "string", "format": "email", "pattern": ZOD_EMAIL}), ["/properties/a/pattern"]),
    (around({"type": "string", "pattern": "(?<=x)y"}), ["/properties/a/pattern"]),
    (around({"type": "string", "pattern": r"(a)\1"}), ["/properties/a/pattern"]),
    (around({"type": "string", "pattern": "("}), ["/properties/a/pattern"]),
    (around({"type": "string", "pattern": None}), ["/properties/a/pattern"]),
    (around({"type": "string", "pattern": "a$b"}), ["/properties/a/pattern"]),
    ({"type": "object", "properties": {}, "required": None}, ["/required"]),
    ({"type": "object", "properties": None}, ["/properties"]),
    ({"type": "object", "properties": [], "required": ["a"]}, ["/properties"]),
    (around({"type": "string", "enum": None}), ["/properties/a/enum"]),
    (around({"type": "string", "enum": []}), ["/properties/a/enum"]),
    (around({"type": "string", "enum": "red"}), ["/properties/a/enum"]),
    (around(None), ["/properties/a"]),
    (around("string"), ["/properties/a"]),
    (around([]), ["/properties/a"]),
    (around({"type": "date"}), ["/properties/a/type"]),
    (around({"type": "any"}), ["/properties/a/type"]),
    (around({"type": "float"}), ["/properties/a/type"]),
    (around({"type": ["string", "datetime"]}), ["/properties/a/type"]),
    (around({"type": None}), ["/properties/a/type"]),
    (around({"type": "STRING"}), ["/properties/a/type"]),
    (
        around({"type": "number", "minimum": -DOUBLE_MAX, "maximum": DOUBLE_MAX}),
        ["/properties/a/minimum", "/properties/a/maximum"],
    ),
    (around({"type": "integer", "minimum": 10**30}), ["/properties/a/minimum"]),
    (around({"type": "number", "minimum": "0"}), ["/properties/a/minimum"]),
    (around({"type": "integer", "multipleOf": 0}), ["/properties/a/multipleOf"]),
    (around({"type": "string", "minLength": -1}), ["/properties/a/minLength"]),
    (around({"type": "integer"}, required=["n", "zzz"], additionalProperties=False), ["/required/1"]),
    (around(nested(70, {"type": "integer"})), ["/properties/a" + "/properties/d" * 32]),
    (around({"$ref": "#/$defs/none"}), ["/properties/a/$ref"]),
    (around({"$ref": "https://example.org/x.json"}), ["/properties/a/$ref"]),
    (around({"$ref": 5}), ["/properties/a/$ref"]),
    (around({"$ref": "#/$defs/x"}, **{"$defs": {"x": {"$ref": "#/$defs/x"}}}), None),
    (around({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}), ["/properties/a/oneOf"]),
    (around({"anyOf": []}), ["/properties/a/anyOf"]),
    (around({"enum": [f"value number {i}" for i in range(2500)]}), []),
    (around({"type": "object", "propertyNames": {"pattern": "^a"}}), ["/properties/a/propertyNames"]),
    (around({"not": {"const": 1}}), ["/properties/a/not"]),
    (around({"if": {"const": 1}, "then": {"type": "integer"}}), ["/properties/a/if", "/properties/a/then"]),
    (around({"type": "array", "contains": {"const": 1}}), ["/properties/a/contains"]),
    (around({"type": "array", "uniqueItems": True}), ["/properties/a/uniqueItems"]),
    (around({"dependentRequired": {"x": ["y"]}}), ["/properties/a/dependentRequired"]),
    (around({"type": "string", "minLength": 10**6}), ["/properties/a/minLength"]),
    (around({"type": "integer"}, patternProperties={"(?=x)": {}}), ["/patternProperties/(?=x)"]),
    (around({"a/b~c": 1, "properties": {"x/y~z": {"type": "date"}}}), ["/properties/a/properties/x~1y~0z/type"]),
    (around({"type": "string", "const": "x" * 9000}), ["/properties/a/const"]),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, None),
    (around({"type": "integer", "minimum": 3, "maximum": 1}, required=["a", "n"]), None),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "pointers"), WEAKENED, ids=lambda x: str(x)[30:90])
def test_the_smallest_part_is_left_out_and_named(schema: Any, pointers: list[str] | None) -> None:
    grammar = JsonGrammar(vocabulary(), schema, lenient=True)
    if pointers is not None:
        assert [part.pointer for part in grammar.dropped] == pointers
    else:
        assert grammar.dropped and "" not in [part.pointer for part in grammar.dropped]
    assert all(part.why and "llguidance" not in part.why and "coerce" not in part.why for part in grammar.dropped)
    value = json.loads(grammar.least)
    assert isinstance(value, dict)
    if schema.get("required") and "n" in schema["required"]:  # the sound neighbour is still held to
        assert isinstance(value["n"], int)
    if grammar.dropped:
        with pytest.raises(ValueError, match=r"^/\w") as refused:
            JsonGrammar(vocabulary(), schema)
        assert str(refused.value).startswith(f"{grammar.dropped[0].pointer}: ")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "title": "A", "x-order": 1, "nullable": True}}},
        {"type": "string", "format": "int32"},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "$defs": {"unused": {"type": "date", "not": {}}}},
        {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
        {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        {"type": "array", "uniqueItems": False},
        {"properties": {"type": {"type": "string"}, "not": {"type": "integer"}, "if": {"const": 1}}},
        {"enum": [{"not": 1, "type": "date"}]},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "object", "properties": {"c": {"$ref": "#"}}}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
    ],
    ids=lambda s: str(s)[:50],
)
def test_what_says_nothing_goes_without_a_word(schema: Any) -> None:
    assert JsonGrammar(vocabulary(), schema).dropped == ()


def test_the_compilers_own_switches_are_not_the_clients() -> None:
    with pytest.raises(ValueError, match=r"^/uniqueItems: "):
        JsonGrammar(vocabulary(), {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}})


def test_at_worst_any_object_is_left() -> None:
    huge = {"type": "object", "properties": {f"p{i}": {"type": "string", "description": "d" * 40} for i in range(1500)}}
    for schema in (huge, 5, None, "object"):
        grammar = JsonGrammar(vocabulary(), schema, lenient=True)
        assert [part.pointer for part in grammar.dropped] == [""]


ODD = st.sampled_from(
    [
        None,
        [],
        {},
        5,
        "date",
        {"type": "date"},
        {"pattern": "(?!x)"},
        {"$ref": "#/nowhere"},
        {"not": {}},
        {"enum": None},
    ]
)
TREES = st.recursive(
    ODD | st.sampled_from([{"type": "string"}, {"type": "integer"}]),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda p: {"type": "object", "properties": p}),
        inner.map(lambda i: {"type": "array", "items": i}),
        st.lists(inner, min_size=1, max_size=2).map(lambda o: {"anyOf": o}),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(TREES)
def test_a_lenient_schema_is_never_refused_and_keeps_what_is_sound(odd: Any) -> None:
    schema = around(odd)
    value = json.loads(JsonGrammar(vocabulary(), schema, lenient=True).least)
    jsonschema.validate(value, around({}))

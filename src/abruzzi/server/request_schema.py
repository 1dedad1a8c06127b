"""JSON Schemas of requests, derived: a reader (fields.py) runs on an object that records each read.

    >>> schema_of(lambda fields: fields.integer("n", 1, 16))
    {'type': 'object', 'required': [], 'properties': {'n': {'type': ['integer', 'null'], ...}}, ...}

Fields that are optional are absent here, those that are required have an example, an object and an
item of a list are always there, so one run meets every read. Where a reader branches, on `kind` or
`given`, it is run once for each alternative, and the schema is their anyOf. A read that hides
behind anything else is not seen here; tests/unit/server/test_request_schema.py sends every value of
every field and finds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from abruzzi.server.fields import Fields, JsonSchema, read_all

T = TypeVar("T")
ABSENT: JsonSchema = {"enum": [None]}


class RecordingFields(Fields):
    """Fields that note a property at each read, and return what a reader can go on with.

    path: the alternatives to take, branch by branch; behind its end the first one is taken. None:
    no branches. untried: paths to the others. discriminators: the fields that `kind` read."""

    def __init__(self, where: str = "", path: Sequence[Any] | None = None) -> None:
        super().__init__({}, where)
        self.untried: list[tuple[Any, ...]] = []
        self.discriminators: list[str] = []
        self._path = None if path is None else list(path)
        self._taken: list[Any] = []
        self._properties: dict[str, JsonSchema | RecordingFields] = {}
        self._required: list[str] = []
        self._ended = False

    def schema(self) -> JsonSchema:
        """The object's."""
        properties = {
            name: noted if isinstance(noted, dict) else self._optional(name, noted.schema())
            for name, noted in self._properties.items()
        }
        closed = {"additionalProperties": ABSENT} if self._ended and not self._open else {}
        return {"type": "object", "required": list(self._required), "properties": properties, **closed}

    def end(self) -> None:
        self._ended = True

    def has(self, field: str) -> bool:
        return False

    def peek(self, field: str) -> Any:
        return None

    def unread(self, table: Collection[str]) -> list[str]:
        return [field for field in table if field not in self._properties]

    def raw(self, field: str, schema: JsonSchema, need: bool = False, missing: str = "") -> Any:
        self._note(field, schema, need)
        return example(schema) if need else None

    def kind(self, field: str, *allowed: str, hint: str = "", default: str | None = None) -> str:
        value = self._branch(field, allowed)
        self.discriminators.append(field)
        self._note(field, {"enum": [value]}, need=value != default)
        return value

    def given(self, field: str) -> bool:
        there = self._branch(field, (False, True))
        if not there:
            self._note(field, ABSENT)
        return there

    def object(self, field: str, need: bool = False) -> Fields | None:
        fields = RecordingFields(self.name(field))
        self._note(field, fields, need)
        return fields

    def parsed(self, field: str, read: Callable[[Fields], T]) -> T | None:
        self._note(field, explored(read, self.name(field))[0])
        return None

    def parsed_or(self, field: str, allowed: Sequence[str], read: Callable[[Fields], T], hint: str) -> str | T | None:
        self._note(field, any_of([{"enum": [*allowed]}, explored(read, self.name(field))[0]]))
        return None

    def each(self, field: str, read: Callable[[Fields], T], need: bool = False, missing: str = "") -> list[T]:
        items, first = explored(read, f"{self.name(field)}[0]")
        self._note(field, {"type": "array", "items": items, **({"minItems": 1} if need else {})}, need)
        return [first]

    def text_or_each(
        self, field: str, read: Callable[[Fields], T], parts: str, need: bool = False, least: int = 0
    ) -> str | list[T] | None:
        items, first = explored(read, f"{self.name(field)}[0]")
        listed = {"type": "array", "items": items, **({"minItems": least} if least else {})}
        self._note(field, any_of([{"type": "string"}, listed]), need)
        return [first] if need else None

    # parts

    def _note(self, field: str, schema: JsonSchema | RecordingFields, need: bool = False) -> None:
        """Once for each field. Read again, it may only be said to be absent (an option that
        excludes another)."""
        if need:
            self._required.append(field)
        noted = self._optional(field, schema) if isinstance(schema, dict) else schema
        before = self._properties.get(field)
        if before is None or noted == ABSENT:
            self._properties[field] = noted
        elif noted not in ({}, before):
            raise AssertionError(f"{self.name(field)} is read as {before} and as {noted}")

    def _optional(self, field: str, schema: JsonSchema) -> JsonSchema:
        return schema if field in self._required else or_null(schema)

    def _branch(self, field: str, alternatives: Sequence[Any]) -> Any:
        if self._path is None:
            raise AssertionError(f"{self.name(field)} is a branch: read its object with `parsed` or `each`")
        if len(self._taken) < len(self._path):
            value = self._path[len(self._taken)]
        else:
            value = alternatives[0]
            self.untried += [(*self._taken, other) for other in alternatives[1:]]
        self._taken.append(value)
        return value


def schema_of(read: Callable[[Fields], Any]) -> JsonSchema:
    """The schema of the bodies that `read` accepts, as far as a schema can say it."""
    return explored(read)[0]


def explored(read: Callable[[Fields], T], where: str = "") -> tuple[JsonSchema, T]:
    """The schema of the object that `read` reads, and what it made of the first alternative."""
    paths: list[tuple[Any, ...]] = [()]
    seen: list[RecordingFields] = []
    results: list[T] = []
    while paths:
        fields = RecordingFields(where, paths.pop(0))
        results.append(read_all(fields, read))
        seen.append(fields)
        paths += fields.untried
    return any_of(_distinct(seen)), results[0]


def _distinct(seen: Sequence[RecordingFields]) -> list[JsonSchema]:
    """Their schemas; those that differ in nothing but the value of the discriminator are one."""
    merged: dict[str, JsonSchema] = {}
    for fields in seen:
        schema, tag = fields.schema(), next(iter(fields.discriminators), None)
        rest = {name: s for name, s in schema["properties"].items() if name != tag}
        before = merged.setdefault(json.dumps([rest, schema["required"]], sort_keys=True), schema)
        if before is not schema and tag is not None:
            values = before["properties"][tag]["enum"]
            values += [v for v in schema["properties"][tag]["enum"] if v not in values]
    return list(merged.values())


def any_of(schemas: Sequence[JsonSchema]) -> JsonSchema:
    """One of them; an anyOf among them is taken apart."""
    flat = [part for schema in schemas for part in (schema["anyOf"] if [*schema] == ["anyOf"] else [schema])]
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def or_null(schema: JsonSchema) -> JsonSchema:
    """The schema, or null."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], *([] if None in schema["enum"] else [None])]}
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*kinds, "null"]}
    return any_of([schema, {"type": "null"}]) if schema else schema


def example(schema: JsonSchema) -> Any:
    """A value that the schema allows."""
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if kind == "object":
        return {name: example(schema["properties"][name]) for name in schema.get("required", ())}
    return {"string": "x", "integer": schema.get("minimum", 0), "boolean": True, "array": []}[kind]

"""Estimates of a JSON Schema: how large its smallest instances are, and texts that match its
patterns.

Nothing here decides what is valid.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from abruzzi.engine.grammar.degrade import MAX_SCHEMA_CHARS
from abruzzi.engine.grammar.repair import MAX_DEPTH

_DATA = ("const", "enum", "default", "examples", "example")  # values, not schemas
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_MAX_EXAMPLE = 4096


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and every schema in it."""
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            yield part
            for key, value in part.items():
                if key in _MAPS and isinstance(value, dict):
                    stack += value.values()
                elif key not in _DATA and isinstance(value, (dict, list)):
                    stack.append(value)


def max_growth(schema: dict[str, Any]) -> int:
    """An estimate, in bytes: by how much one token can lengthen the shortest completion of a text.

    That is the longest of the smallest instances of its subschemas and properties: the token that
    begins one makes all of it due. Required integers a and b: 16, where the shortest
    `{"a":0,"b":0}` has 13."""
    root = schema
    budget = [20_000]  # visits; references can make a small schema large

    def size(part: Any, seen: tuple[str, ...]) -> int:
        budget[0] -= 1
        if not isinstance(part, dict) or budget[0] < 0:
            return 1
        ref = part.get("$ref")
        if isinstance(ref, str):
            known = ref in seen or len(seen) > MAX_DEPTH
            return 1 if known else size(_resolved(root, ref), (*seen, ref))
        if "const" in part:
            return len(json.dumps(part["const"]))
        if isinstance(part.get("enum"), list):
            return max((len(json.dumps(v)) for v in part["enum"]), default=1)
        total = 2 + _whole(part.get("minLength"))
        properties = part.get("properties")
        for name in _listed(part.get("required")):
            if isinstance(name, str):
                total += len(name) + 4 + size(properties.get(name) if isinstance(properties, dict) else None, seen)
        if isinstance(part.get("minItems"), int):
            total += _whole(part["minItems"]) * (1 + size(part.get("items"), seen))
        if isinstance(part.get("pattern"), str):
            total += len(example(part["pattern"]) or "")
        for word in ("allOf", "anyOf", "oneOf"):
            options = part.get(word)
            if isinstance(options, list) and options:
                sizes = [size(option, seen) for option in options]
                total += sum(sizes) if word == "allOf" else max(sizes)
        return total

    def largest(part: dict[str, Any]) -> int:
        properties = part.get("properties")
        named = properties.items() if isinstance(properties, dict) else ()
        return max([size(part, ()), *(len(str(name)) + 4 + size(value, ()) for name, value in named)])

    return min(max(map(largest, subschemas(schema))), MAX_SCHEMA_CHARS)


def patterns(schema: Any) -> tuple[str, ...]:
    """A matching text for each `pattern` of the schema, with which a string under it can be
    completed."""
    found = {p["pattern"] for p in subschemas(schema) if isinstance(p.get("pattern"), str)}
    return tuple(sorted(text for text in map(example, found) if text))


def example(pattern: str) -> str | None:
    """A short text in which a regular expression is found; None where we do not see one."""
    from re import _parser  # type: ignore[attr-defined]  # Python's own parser of patterns

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            text = _shortest(_parser.parse(pattern))
    except (re.error, RecursionError, OverflowError, ValueError):
        return None
    return text if len(text) < _MAX_EXAMPLE else None


def _shortest(parsed: Any) -> str:
    """At most _MAX_EXAMPLE characters: repeats of repeats multiply."""
    text = ""
    for op, value in parsed:
        if len(text) > _MAX_EXAMPLE:
            break
        name = str(op)
        if name == "LITERAL":
            text += chr(value)
        elif name == "ANY":
            text += "a"
        elif name == "NOT_LITERAL":
            text += "a" if value != ord("a") else "b"
        elif name == "IN":
            text += _member(value)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            text += _shortest(value[2])[: _MAX_EXAMPLE // max(1, value[0]) + 1] * min(value[0], _MAX_EXAMPLE)
        elif name == "SUBPATTERN":
            text += _shortest(value[-1])
        elif name == "ATOMIC_GROUP":
            text += _shortest(value)
        elif name == "BRANCH":
            text += min(map(_shortest, value[1]), key=len)
    return text


def _member(options: Any) -> str:
    """One character of a class."""
    if options and str(options[0][0]) == "NEGATE":
        return next((c for c in "a0A-_.:@/ \t" if not any(_has(option, c) for option in options[1:])), "a")
    op, value = options[0]
    if str(op) == "LITERAL":
        return chr(value)
    if str(op) == "RANGE":
        return chr(value[0])
    return {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_NOT_WORD": "-"}.get(str(value), "a")


def _has(option: Any, char: str) -> bool:
    """Whether a part of a class has a character."""
    op, value = option
    if str(op) == "LITERAL":
        return chr(value) == char
    if str(op) == "RANGE":
        return value[0] <= ord(char) <= value[1]
    kinds = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w", "NOT_WORD": r"\W"}
    return re.match(kinds.get(str(value).removeprefix("CATEGORY_"), "$"), char) is not None


def _listed(value: Any) -> list[Any]:
    """A list as it is; anything else as an empty one (the compiler complains about it)."""
    return value if isinstance(value, list) else []


def _resolved(root: dict[str, Any], ref: str) -> Any:
    part: Any = root
    for step in ref.removeprefix("#").strip("/").split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if step:
            part = part.get(step) if isinstance(part, dict) else None
    return part if ref.startswith("#") else None


def _whole(value: Any) -> int:
    return min(value, MAX_SCHEMA_CHARS) if isinstance(value, int) and value > 0 else 0

"""JSON Schema validation of answers, one or many at once, by the library `jsonschema`.

An answer that max_tokens cut cannot be valid, but it can already be wrong: it must be the beginning
of some JSON text. A schema that the server refuses with a 4xx is counted apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from abruzzi.verify.asks import PERSON
from abruzzi.verify.probe import Probe, Reply, Unsupported

QUICK_CASES = 12
# What is asked where no --schemas are given: one of each kind of keyword that people use.
BUILT_IN: list[Any] = [
    {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "string", "enum": ["red", "green", "blue"]},
    {"type": "object", "properties": {"x": {"type": ["number", "null"]}}, "required": ["x"]},
    {"anyOf": [{"type": "integer", "minimum": 3, "maximum": 5}, {"type": "boolean"}]},
    {
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/leaf"}, "right": {"$ref": "#/$defs/leaf"}},
        "required": ["left", "right"],
        "additionalProperties": False,
        "$defs": {"leaf": {"type": "object", "properties": {"v": {"type": "integer"}}, "required": ["v"]}},
    },
    {
        "type": "object",
        "properties": {'naïve "key"': {"type": "string", "maxLength": 8}, "鬒": {"type": "null"}},
        "required": ['naïve "key"', "鬒"],
        "additionalProperties": False,
    },
    PERSON,
]


def load(path: Path) -> list[tuple[str, Any]]:
    """(where, schema) of a .jsonl file (a schema a line), a .json file (a schema or a list of
    them), or of a directory of such files. Raises ValueError or OSError that name the place."""
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in (".json", ".jsonl"))
    elif path.suffix in (".json", ".jsonl"):
        files = [path]
    else:
        raise ValueError(f"--schemas {path} must be a .jsonl or .json file or a directory of them")
    found: list[tuple[str, Any]] = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        pieces = (
            [(n, s) for n, s in enumerate(text.splitlines(), 1) if s.strip()]
            if file.suffix == ".jsonl"
            else [(1, text)]
        )
        for number, piece in pieces:
            try:
                schema = json.loads(piece)
            except ValueError as error:
                raise ValueError(f"{file}:{number} is not JSON: {error}") from error
            many = schema if file.suffix == ".json" and isinstance(schema, list) else [schema]
            for one in many:
                if not isinstance(one, (dict, bool)):
                    raise ValueError(f"{file}:{number} is no JSON Schema: expected an object, got {piece[:60]!r}")
                found.append((f"{file.name}:{number}", one))
    if not found:
        raise ValueError(f"--schemas {path} holds no schema; hint: one JSON Schema a line in a .jsonl file")
    return found


class Unjudgeable(Exception):
    """A schema that jsonschema itself cannot apply."""


def complaint(instance: Any, schema: Any) -> str | None:
    """Why the instance does not satisfy the schema, by the jsonschema library; None when it does.
    Raises Unjudgeable for a schema that is none (a dangling $ref, a pattern that Python does not
    know)."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY  # a registry that fetches nothing
    from referencing.exceptions import Unresolvable

    validator = validator_for(schema)
    try:
        validator.check_schema(schema)
        for error in validator(schema, registry=REGISTRY).iter_errors(instance):
            return f"{error.json_path}: {error.message[:300]}"
    except (SchemaError, Unresolvable, re.error, RecursionError) as error:
        raise Unjudgeable(f"{type(error).__name__}: {error}") from error
    return None


def begins_json(text: str) -> bool:
    """Whether more text could make this a JSON value (a few impossible numbers pass as well)."""
    text = text.lstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :]
        if error.msg.startswith(("Unterminated string", "Invalid \\u")):
            return True
        # A word, number or escape that the cut went through; or the end itself.
        return not rest.strip() or bool(re.fullmatch(r'-|t(ru?)?|f(a(ls?)?)?|n(ul?)?|[.eE][-+\d]*|\\|"', rest))
    return True


def judge_json(p: Probe, reply: Reply, text: str, schema: Any, what: str) -> None:
    """Count one expectation: `text` is JSON by the schema (None: any object), or was cut by
    max_tokens."""
    try:
        instance = json.loads(text)
    except ValueError as error:
        if reply.finish == "length" and begins_json(text):
            p.skip("cut by max_tokens before it was complete")
        else:
            p.ok(False, f"{what} is not JSON ({error}): {text[:120]!r}", reply)
        return
    if schema is None:
        p.ok(isinstance(instance, dict), f"{what} is no JSON object: {text[:120]!r}", reply)
        return
    try:
        problem = complaint(instance, schema)
    except Unjudgeable as error:
        p.skip("the schema cannot be applied")
        p.note(f"{what}: {error}"[:300])
        return
    p.ok(problem is None, f"{what} breaks the schema: {problem}", reply)


def cases(p: Probe) -> list[tuple[str, Any]]:
    """The schemas of this run: all, or in a quick run some from all over the list."""
    every = list(p.session.schemas) or [(f"built in {i}", s) for i, s in enumerate(BUILT_IN)]
    return every[:: max(1, -(-len(every) // QUICK_CASES))] if p.quick else every


def judge_cases(p: Probe, bodies: Sequence[dict[str, Any]], expected: Sequence[tuple[str, Any, Any]]) -> None:
    """Send all, then judge each: (where, schema, texts of a reply that must satisfy it)."""
    with ThreadPoolExecutor(p.session.concurrency) as pool:
        exchanges = list(pool.map(p.raw, bodies))
    refused = []
    for exchange, (where, schema, texts) in zip(exchanges, expected):
        if exchange.refused:
            refused.append(f"{where} ({exchange.outcome()})")
            p.sample(exchange)
            p.skip("refused")
            continue
        if exchange.status != 200:
            p.ok(False, f"{where}: expected an answer or a 4xx, got {exchange.outcome()}", exchange)
            continue
        reply = p.read(exchange)
        for text in texts(reply):
            judge_json(p, reply, text, schema, where)
    if refused:
        p.note("refused: " + "; ".join(refused[:10]) + ("; ..." if len(refused) > 10 else ""))
    if len(refused) * 2 > len(exchanges):
        raise Unsupported(f"{len(refused)} of {len(exchanges)} schemas were refused, the first: {refused[0]}")

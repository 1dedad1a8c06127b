"""A finished turn, judged once by the library `jsonschema`: what was promised in full is either
kept or an error.

The grammar should make a miss impossible; whoever compiles it (llguidance) has been wrong before.
Judged are schemas that a caller wanted whole (strict), by what the caller wrote, not by what was
compiled of it. Left out of the judgement is what the library cannot judge: patterns that Python
does not read, and steps of decimals (0.29 is no multiple of 0.01 in binary numbers).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from abruzzi.engine.grammar.structure import Schema, Structure
from abruzzi.types import Message


class SchemaMissed(ValueError):
    """A finished answer or call does not satisfy the schema that was to be enforced."""


class Judge:
    """The judge of the turns under one structure. missed: told of every miss."""

    def __init__(self, structure: Structure, missed: Callable[[], None] = lambda: None) -> None:
        self._missed = missed
        self._calls = {name: schema for name, schema in structure.arguments.items() if not schema.lenient}
        answer = structure.answer
        self._answer = answer if answer is not None and not answer.lenient else None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to judge by."""
        return not self._calls and self._answer is None

    def require_kept(self, message: Message) -> None:
        """Raises SchemaMissed, which names the call or the answer and the place in it."""
        try:
            self._require_kept(message)
        except SchemaMissed:
            self._missed()
            raise

    def _require_kept(self, message: Message) -> None:
        for call in message.tool_calls:
            schema = self._calls.get(call.name)
            if schema is not None:
                _require(call.arguments, schema, f"the arguments of {call.name!r:.80}")
        if self._answer is not None and not message.tool_calls:
            _require(message.content or "", self._answer, "the answer")


def _require(text: str, schema: Schema, what: str) -> None:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SchemaMissed(f"{what} is no JSON, although {schema.name} was to be enforced: {error}") from None
    validator = _validator(schema.key[0])
    wrong = None
    try:
        wrong = None if validator is None else next(validator.iter_errors(value), None)
    except Exception as fault:  # a foreign schema that jsonschema cannot apply: nothing is known against the text
        if isinstance(fault, MemoryError):
            raise
    if wrong is not None:
        place = "".join(f"/{step}" for step in wrong.absolute_path)
        raise SchemaMissed(
            f"{what} misses {schema.name}, which was to be enforced, at {place or '/'}: {wrong.validator}"
        )


@lru_cache(64)
def _validator(schema: str) -> Any:
    """The validator of a schema (its JSON); None where it is none by its own dialect."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY  # its registry fetches nothing

    value = judgeable(json.loads(schema))
    dialect = validator_for(value, default=Draft202012Validator)
    try:
        dialect.check_schema(value)
    except SchemaError:
        return None
    return dialect(value, registry=REGISTRY)


def judgeable(schema: Any) -> Any:
    """The schema without what `jsonschema` cannot judge."""
    if isinstance(schema, list):
        return [judgeable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {}
    for key, value in schema.items():
        unread = key == "pattern" and isinstance(value, str) and not _python_reads(value)
        decimal = key == "multipleOf" and isinstance(value, float) and value != int(value)
        if key in ("const", "enum", "default", "examples", "example"):
            out[key] = value
        elif key in ("patternProperties", "properties", "$defs", "definitions") and isinstance(value, dict):
            if key == "patternProperties" and not all(map(_python_reads, value)):
                return {}  # what additionalProperties means depends on it
            out[key] = {name: judgeable(part) for name, part in value.items()}
        elif not unread and not decimal:
            out[key] = judgeable(value)
    return out


def _python_reads(pattern: str) -> bool:
    """Whether Python reads a pattern, and without repeats of repeats, on which its search may take
    for ever."""
    if re.search(r"[*+}?]\)+[*+{]", pattern):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True

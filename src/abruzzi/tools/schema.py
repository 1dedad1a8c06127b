"""JSON Schema: do a call's arguments satisfy a tool's schema? The judge is the library
`jsonschema`.

The schema may be anybody's (a tool of somebody else's server), so it is as little trusted as the
arguments: one that is no JSON Schema raises SchemaFault, which says where; a `$ref` is never
fetched; and a check that could take for ever (a pattern that backtracks, references that multiply)
runs in a process of its own for at most SECONDS. Errors name the place by JSON pointer (RFC 6901)
and what was expected there.

Not here: `format`, which JSON Schema itself leaves unchecked; patterns are Python's, not
ECMAScript's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SECONDS = 5.0
SHOWN = 160  # characters of a schema's or an argument's text in an error
# Up to here a check runs in this process: about so many steps of a pattern, references and levels
# of arguments.
MAX_STEPS, MAX_REFERENCES, MAX_DEPTH, MAX_SIZE = 1e6, 8, 5, 10_000
_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_COMBINING = {"allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"}
# What follows an atom of a pattern to repeat it; `)` in front means that a whole group is repeated.
_REPEAT = re.compile(r"[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")


class SchemaFault(ValueError):
    """The schema itself cannot be applied: it is no JSON Schema, refers to nowhere, or takes too
    long."""


def complaint(arguments: Mapping[str, Any], schema: Any) -> str | None:
    """What is wrong with the arguments, as one line; None where they satisfy the schema. Raises
    SchemaFault."""
    if isinstance(schema, Mapping):
        schema = dict(schema)
    if not isinstance(schema, dict | bool):
        raise SchemaFault(f"it must be an object, not {_shown(schema)}")
    try:
        apart = may_take_long(schema, arguments)
        return _judge_apart(arguments, schema) if apart else _judge(arguments, schema)
    except RecursionError:
        raise SchemaFault("it refers to itself without end, or it is nested too deeply") from None


def may_take_long(schema: object, arguments: object) -> bool:
    """Whether a check could take more than a moment. Errs towards yes, which costs a process, about
    0.3 s."""
    texts = [value for value in _nested(arguments) if isinstance(value, str)]
    longest = max(map(len, texts), default=0)
    references, combined, unique = 0, False, False
    for part in _nested(schema):
        if not isinstance(part, dict):
            continue
        combined = combined or not _COMBINING.isdisjoint(part)
        references += sum(key.endswith("Ref") or key == "$ref" for key in part if isinstance(key, str))
        unique = unique or "uniqueItems" in part
        keyed = part.get("patternProperties")
        for pattern in (part.get("pattern"), *(keyed if isinstance(keyed, dict) else ())):
            if isinstance(pattern, str) and _steps(pattern, longest) > MAX_STEPS:
                return True
    if unique and sum(1 for _ in _nested(arguments)) > MAX_SIZE // 10:
        return True  # compares every two
    return combined and (references > MAX_REFERENCES or (references > 0 and _depth(arguments) > MAX_DEPTH))


def _steps(pattern: str, length: int) -> float:
    """About how many steps a backtracking search of a text of this length may take."""
    if _REPEATED_GROUP.search(pattern) or len(pattern) > MAX_SIZE:
        return float("inf")
    repeats = len(_REPEAT.findall(pattern)) + (not pattern.startswith("^"))
    return float(max(length, 2)) ** min(repeats, 50)


def _nested(value: object) -> Iterator[object]:
    """The value and everything in it, keys included; without recursion, as it may be nested
    deeply."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict):
            waiting.extend(part)
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level := [
        inner
        for part in level
        if isinstance(part, dict | list)
        for inner in (part.values() if isinstance(part, dict) else part)
    ]:
        depth += 1
    return depth


def _judge(arguments: Any, schema: Any) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY  # its registry fetches nothing
    from referencing.exceptions import Unresolvable

    named = schema.get("$schema", "") if isinstance(schema, dict) else ""
    if not isinstance(named, str):
        raise SchemaFault(f"/$schema is {_shown(named)}, not the name of a dialect")
    dialect = validator_for(schema, default=Draft202012Validator)
    try:
        dialect.check_schema(schema)
        error = best_match(dialect(schema, registry=REGISTRY).iter_errors(arguments))
    except SchemaError as fault:
        raise SchemaFault(f"{_pointer(fault.absolute_path) or 'it'}: {_misfit(fault)}") from None
    except Unresolvable as fault:
        target = getattr(fault, "anchor", fault.ref)
        raise SchemaFault(f"$ref {_shown(target)} leads nowhere; nothing is fetched") from None
    except (re.error, OverflowError) as fault:
        raise SchemaFault(f"a pattern or number in it cannot be applied ({_cut(str(fault))})") from None
    except RecursionError:
        raise
    except Exception as fault:  # a foreign schema and a foreign library: whatever happens is the schema's fault
        raise SchemaFault(f"it cannot be applied ({type(fault).__name__}: {_cut(str(fault))})") from None
    return None if error is None else _explain(error)


def _judge_apart(arguments: object, schema: object) -> str | None:
    """`_judge` in a process that is ended after SECONDS: a regular expression cannot be interrupted
    in a thread."""
    try:
        question = json.dumps([arguments, schema]).encode()
    except (TypeError, ValueError) as fault:
        raise SchemaFault(f"it is not JSON ({_cut(str(fault))})") from None
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__], input=question, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        unit = "second" if SECONDS == 1 else "seconds"
        raise SchemaFault(f"checking the arguments by it takes longer than {SECONDS:g} {unit}") from None
    if done.returncode:
        raise SchemaFault(f"checking the arguments by it failed (exit {done.returncode})")
    fault, said = json.loads(done.stdout)
    if fault is not None:
        raise SchemaFault(fault)
    return said


def _misfit(fault: Any) -> str:
    """Why a part of the schema is no JSON Schema. fault: jsonschema's SchemaError."""
    if list(fault.absolute_path)[-1:] == ["type"] and fault.validator == "anyOf":
        return f"{_shown(fault.instance)} is no type; expected {', '.join(_TYPES)} or a list of these"
    return _cut(fault.message)


def _explain(error: Any) -> str:
    """One line: the place and what was expected there. error: jsonschema's ValidationError."""
    place, expected, given = _pointer(error.absolute_path), error.validator_value, error.instance
    if error.validator == "required":
        missing = next((name for name in expected if name not in given), "?")
        return f"argument {_pointer([*error.absolute_path, missing])} is missing"
    if error.validator == "additionalProperties" and isinstance(expected, bool):
        known, patterns = error.schema.get("properties", {}), error.schema.get("patternProperties", {})
        extra = (n for n in given if n not in known and not any(re.search(p, n) for p in patterns))
        return f"there is no argument {_pointer([*error.absolute_path, next(extra, '?')])[:80]}"
    what = f"argument {place}" if place else "the arguments"
    if "propertyNames" in error.absolute_schema_path and isinstance(given, str):
        what = f"the name {_shown(given)}"
    say = _WORDS.get(error.validator)
    return f"{what} {say(expected, given)}" if say is not None else f"{what}: {_cut(error.message)}"


_WORDS: dict[str, Callable[[Any, Any], str]] = {
    "type": lambda kinds, given: (
        f"must be of type {kinds if isinstance(kinds, str) else ' or '.join(map(str, kinds))}, not {_shown(given)}"
    ),
    "enum": lambda values, _: (
        f"must be one of {_cut(', '.join(v if isinstance(v, str) else _shown(v) for v in values))}"
    ),
    "anyOf": lambda rules, given: f"must fit one of {_shown(rules)}, not {_shown(given)}",
    "const": lambda value, _: f"must be {_shown(value)}",
    "minimum": lambda least, _: f"must be at least {least}",
    "maximum": lambda most, _: f"must be at most {most}",
    "exclusiveMinimum": lambda bound, _: f"must be more than {bound}",
    "exclusiveMaximum": lambda bound, _: f"must be less than {bound}",
    "multipleOf": lambda unit, _: f"must be a multiple of {unit}",
    "minLength": lambda least, given: f"has {len(given)} characters, fewer than {least}",
    "maxLength": lambda most, given: f"has {len(given)} characters, more than {most}",
    "minItems": lambda least, given: f"has {len(given)} items, fewer than {least}",
    "maxItems": lambda most, given: f"has {len(given)} items, more than {most}",
    "pattern": lambda pattern, _: f"must match the pattern {_shown(pattern)}",
}


def _pointer(path: Any) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _shown(value: object) -> str:
    """As JSON, which is what a model wrote and reads."""
    return _cut(json.dumps(value, ensure_ascii=False, default=repr))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def _answer() -> None:
    """The other process: [arguments, schema] on stdin, [fault, complaint] on stdout."""
    arguments, schema = json.load(sys.stdin.buffer)
    try:
        said: list[str | None] = [None, _judge(arguments, schema)]
    except SchemaFault as fault:
        said = [str(fault), None]
    except RecursionError:
        said = ["it refers to itself without end, or it is nested too deeply", None]
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    _answer()

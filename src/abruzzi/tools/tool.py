"""The shape of a tool, and the one border where a model's call meets it.

Whatever a model writes as arguments ends as a result that it can read: broken JSON, an unknown tool, a
wrong type, a tool that fails. No exception passes this border and no traceback reaches a model.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from abruzzi.types import ToolCall, ToolSpec

MAX_ARGUMENTS = 100_000  # characters
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class ToolOk:
    """message: what the model reads. brief: one line for a person."""

    message: str
    brief: str


@dataclass(frozen=True, slots=True)
class ToolError:
    """As ToolOk, for a call that failed; the message says what to do differently."""

    message: str
    brief: str


class Tool(Protocol):
    """Something a model may call. `run` gets arguments that fit the schema."""

    @property
    def spec(self) -> ToolSpec: ...

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError: ...


def error(message: str) -> ToolError:
    """An error whose first line is the brief."""
    return ToolError(f"Error: {message}", message.splitlines()[0][:100])


def call_tool(tools: Sequence[Tool], call: ToolCall) -> ToolOk | ToolError:
    """Run a call. Always returns a result; see the header."""
    by_name = {tool.spec.name: tool for tool in tools}
    tool = by_name.get(call.name)
    if tool is None:
        near = difflib.get_close_matches(call.name, by_name, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return error(f"there is no tool {call.name[:60]!r}{meant} Available: {', '.join(by_name) or 'none'}.")
    try:
        arguments = _parsed(call.arguments)
        _check(arguments, tool.spec.parameters)
    except ValueError as problem:
        return error(f"{problem}. Expected arguments: {_signature(tool.spec)}")
    try:
        return tool.run(arguments)
    except Exception as problem:  # the border: a tool's own bug must not end the conversation
        return error(f"the tool {call.name} failed ({type(problem).__name__}); try another way")


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"the arguments have {len(text)} characters, more than {MAX_ARGUMENTS}")
    try:
        given = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_int)
    except RecursionError:
        raise ValueError("the arguments are nested too deeply") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"the arguments are not valid JSON ({problem.msg} at character {problem.pos})") from None
    if not isinstance(given, dict):
        raise ValueError(f"the arguments must be a JSON object, not {type(given).__name__}")
    return given


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("the arguments name a key twice")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _int(text: str) -> int:
    # Python refuses, with an error of its own, to read integers of more than 4,300 digits.
    if len(text) > 400:
        raise ValueError(f"a number of {len(text)} digits is too long")
    return int(text)


def _check(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """The part of JSON Schema that tools here use: flat objects."""
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties") or {}
    for name in schema.get("required", ()):
        if name not in arguments:
            raise ValueError(f"argument {name!r} is missing")
    for name, value in arguments.items():
        rule = properties.get(name)
        if rule is None:
            if schema.get("additionalProperties", True):
                continue
            raise ValueError(f"there is no argument {name[:60]!r}")
        wanted = rule.get("type")
        if wanted is not None:
            fits = isinstance(value, _TYPES[wanted]) and not (
                isinstance(value, bool) and wanted in ("integer", "number")
            )
            if not fits:
                raise ValueError(f"argument {name!r} must be of type {wanted}")
        if "enum" in rule and value not in rule["enum"]:
            raise ValueError(f"argument {name!r} must be one of {', '.join(map(str, rule['enum']))}")
        if "minimum" in rule and value < rule["minimum"]:
            raise ValueError(f"argument {name!r} must be at least {rule['minimum']}")
        if "maximum" in rule and value > rule["maximum"]:
            raise ValueError(f"argument {name!r} must be at most {rule['maximum']}")
        if isinstance(value, str) and len(value) > rule.get("maxLength", MAX_ARGUMENTS):
            raise ValueError(f"argument {name!r} has {len(value)} characters, more than {rule['maxLength']}")


def _signature(spec: ToolSpec) -> str:
    required = set(spec.parameters.get("required", ()))
    parts = [
        f'"{name}": {rule.get("type", "any")}{"" if name in required else " (optional)"}'
        for name, rule in spec.parameters.get("properties", {}).items()
    ]
    return "{" + ", ".join(parts) + "}"

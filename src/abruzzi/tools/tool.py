"""The tool protocol, and `call_tool`: the one border where a model's call meets a tool.

Whatever a model writes as arguments, whatever a tool's schema says and whatever the tool does ends
as a result that the model can read: broken JSON, an unknown tool, a wrong type, a schema that is
none, a tool that fails. No exception but KeyboardInterrupt passes this border, and no traceback
reaches a model.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from abruzzi.tools.schema import SchemaFault, complaint
from abruzzi.types import ToolCall, ToolSpec

MAX_ARGUMENTS = 100_000  # characters


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
    message = _encodable(message)
    return ToolError(f"Error: {message}", (message.splitlines() or [""])[0][:100])


def call_tool(tools: Sequence[Tool], call: ToolCall) -> ToolOk | ToolError:
    """Run a call whose arguments satisfy the tool's schema. Always returns a result; see the
    header.

    A tool whose schema cannot be applied is not run: the error says what is wrong with the
    schema."""
    by_name = {tool.spec.name: tool for tool in tools}
    tool = by_name.get(call.name)
    if tool is None:
        near = difflib.get_close_matches(call.name[:60], by_name, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return error(f"there is no tool {call.name[:60]!r}{meant} Available: {', '.join(by_name) or 'none'}.")
    parameters = tool.spec.parameters
    try:
        arguments = _parsed(call.arguments)
        if (wrong := complaint(arguments, parameters)) is not None:
            raise ValueError(wrong)
    except SchemaFault as fault:
        return error(f"the schema of {call.name} is wrong: {fault}. The tool cannot be called")
    except ValueError as problem:
        return error(f"{problem}. Expected arguments: {_signature(parameters)}")
    try:
        return _checked(tool.run(arguments), call.name)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a tool's own bug, or its exit(), must not end the conversation
        return error(f"the tool {call.name} failed ({type(problem).__name__}); try another way")


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"the arguments have {len(text)} characters, more than {MAX_ARGUMENTS}")
    try:
        given = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_int, parse_float=_whole
        )
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


def _whole(text: str) -> float | int:
    """2.0 is 2, as JSON knows one kind of number; a tool that wants an integer gets one."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:30]} is too large")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _checked(result: object, name: str) -> ToolOk | ToolError:
    """The result, if it is one, with text that can be encoded (a lone surrogate cannot)."""
    if not (isinstance(result, ToolOk | ToolError) and isinstance(result.message, str)):
        return error(f"the tool {name} failed (it returned {type(result).__name__}, no result); try another way")
    return type(result)(_encodable(result.message), _encodable(str(result.brief)))


def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _signature(parameters: object) -> str:
    """The arguments on one line, as far as a schema tells them: {"text": string, "count": integer
    (optional)}."""
    schema = parameters if isinstance(parameters, Mapping) else {}
    properties, required = schema.get("properties"), schema.get("required")
    needed = required if isinstance(required, list | tuple) else ()
    parts = []
    for name, rule in properties.items() if isinstance(properties, Mapping) else ():
        kind = rule.get("type", "any") if isinstance(rule, Mapping) else "any"
        kind = " or ".join(map(str, kind)) if isinstance(kind, list) else kind
        parts.append(f'"{name}": {kind}{"" if name in needed else " (optional)"}')
    return "{" + ", ".join(parts) + "}"

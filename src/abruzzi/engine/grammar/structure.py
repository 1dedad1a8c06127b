"""The form that a turn must have: which tools may be called, with what arguments, and what the text
must be.

Whoever has a request to read makes a Structure of it (the server's dialects, the keywords of
`LLM.chat` through `structure_of`); `compiled.Grammars` makes a grammar of that. Nothing here knows
fields or status codes but by the names that a Schema brings along for errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from abruzzi.tokenizer.formats.format import ChatFormat
from abruzzi.tokenizer.formats.k2 import K2
from abruzzi.tokenizer.formats.render import tools_text
from abruzzi.types import SamplingParams, ToolSpec

Key = tuple[str, bool]


@dataclass(frozen=True)
class Schema:
    """A JSON Schema that somebody gave. name: of the field, for errors. lenient: leave out what
    cannot be enforced, and say so."""

    value: Any
    name: str
    lenient: bool = False

    @cached_property
    def key(self) -> Key:
        """What it is cached under. Property order counts: it is the order in which they are
        written.

        Raises Unenforceable for what is nested too deep."""
        try:
            return json.dumps(self.value, ensure_ascii=False), self.lenient
        except RecursionError:
            raise Unenforceable(f"{self.name} is nested too deep", self.name, "invalid_value") from None


@dataclass(frozen=True, slots=True)
class Structure:
    """The form that a turn must have.

    arguments: the schema of each tool that may be called, by its name; empty = none may. must_call:
    no text. max_calls: None = any number. answer: what the text must be; None = any. choice_field:
    who demanded calls."""

    arguments: Mapping[str, Schema] = field(default_factory=dict)
    must_call: bool = False
    max_calls: int | None = None
    answer: Schema | None = None
    choice_field: str = "tool_choice"

    @property
    def demanded(self) -> str | None:
        """The field that leaves no free text, if one does."""
        if self.must_call:
            return self.choice_field
        return None if self.answer is None else self.answer.name

    @property
    def schemas(self) -> list[Schema]:
        """All of them, the answer's last."""
        return [*self.arguments.values(), *([self.answer] if self.answer is not None else [])]

    def cut_by(self, params: SamplingParams) -> str | None:
        """Which of `stop` and `stop_token_ids` would cut what is demanded, if one would."""
        if self.demanded is None:
            return None
        if params.stop and not self.must_call:
            return "stop"
        return "stop_token_ids" if params.stop_token_ids else None


class SchemaWeakened(UserWarning):
    """Parts of a schema that nobody called strict are not enforced; the text names them by tool and
    JSON pointer."""


class Unenforceable(ValueError):
    """A form that no grammar here can hold a turn to. field: what asked for it; code:
    unsupported_schema, ..."""

    def __init__(self, message: str, field: str, code: str) -> None:
        super().__init__(message)
        self.field, self.code = field, code


def argument_schema(parameters: object, name: str, strict: bool = False) -> Schema:
    """What a tool's arguments must be: an object, whatever else its declaration says.

    strict: a part that cannot be enforced is an error; otherwise only that part is left out, for
    agents declare tools with keywords that no grammar has (propertyNames)."""
    schema = dict(parameters) if isinstance(parameters, Mapping) else {}
    return Schema(schema if "type" in schema else {"type": "object", **schema}, name, not strict)


def structure_of(
    tools: Sequence[ToolSpec | Mapping[str, Any]],
    tool_choice: str = "auto",
    parallel_tool_calls: bool = True,
    response_schema: Mapping[str, Any] | bool | None = None,
    form: ChatFormat = K2,
) -> Structure:
    """The form that the keywords of `LLM.chat` ask for; they are described there. Raises
    ValueError."""
    tools_text(tools, form)  # raises for what declares no function
    arguments: dict[str, Schema] = {}
    for number, tool in enumerate(tools):
        function = (tool.to_openai() if isinstance(tool, ToolSpec) else tool)["function"]
        name = function["name"]
        if name in arguments:
            raise ValueError(f"two tools have the name {name!r:.80}; expected different names")
        field = f"tools[{number}].function.parameters"
        arguments[name] = argument_schema(function.get("parameters"), field, function.get("strict") is True)
    answer = None if response_schema is None else Schema(response_schema, "response_schema")
    structure = Structure(arguments, max_calls=None if parallel_tool_calls else 1, answer=answer)
    if tool_choice == "auto":
        return structure
    if tool_choice == "none":
        return Structure(answer=answer)
    if tool_choice == "required" and arguments:
        return replace(structure, must_call=True)
    if tool_choice in arguments:
        return replace(structure, arguments={tool_choice: arguments[tool_choice]}, must_call=True, max_calls=1)
    known = ", ".join(list(arguments)[:8]) or "none"
    raise ValueError(f"tool_choice={tool_choice!r:.80}; expected auto, none, required or a tool; tools: {known}")

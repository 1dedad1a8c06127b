"""Structured outputs, read: tool choice and answer formats, as far as the dialects share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from abruzzi.server.dialects.common import ANY_OBJECT
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, wrong
from abruzzi.server.structure import Schema, Structure
from abruzzi.types import SamplingParams


def any_tool(schemas: Mapping[str, Schema], parallel: bool) -> Structure:
    """Calls of any of the tools, if the model wants."""
    return Structure(schemas, max_calls=None if parallel else 1)


def one_tool(structure: Structure, name: str, choice_field: str) -> Structure:
    """One call of this tool. Raises ApiError when it is not among the tools."""
    chosen = some_tools(structure, [name], choice_field)
    return replace(chosen, must_call=True, max_calls=1)


def some_tools(structure: Structure, names: Sequence[str], choice_field: str) -> Structure:
    """Only these tools. Raises ApiError for one that is not among the tools."""
    for name in names:
        if name not in structure.arguments:
            known = ", ".join(list(structure.arguments)[:8]) or "none"
            raise ApiError(
                400, f"{choice_field} names the tool {name!r:.80}; tools: {known}", choice_field, "invalid_value"
            )
    arguments = {n: s for n, s in structure.arguments.items() if n in names}
    return replace(structure, arguments=arguments, choice_field=choice_field)


def must_call(structure: Structure, choice_field: str) -> Structure:
    """At least one call. Raises ApiError when there is nothing to call."""
    if not structure.arguments:
        raise ApiError(400, f"{choice_field} demands a call but there are no tools", choice_field, "invalid_value")
    return replace(structure, must_call=True, choice_field=choice_field)


def openai_choice(structure: Structure, body: Fields, nested: bool) -> Structure | None:
    """tool_choice of OpenAI's two APIs; None = no calls.

    nested: the choice stands in an object named after its type, as in chat."""
    choice = body.parsed_or(
        "tool_choice",
        ("auto", "none", "required"),
        partial(_choice_object, structure, nested),
        "auto, none, required, or an object that names a function",
    )
    if isinstance(choice, Structure):
        return choice
    if choice == "none":
        return None
    return must_call(structure, "tool_choice") if choice == "required" else structure


def _choice_object(structure: Structure, nested: bool, fields: Fields) -> Structure:
    kind = fields.kind("type", "function", "allowed_tools", hint="function or allowed_tools")
    inner = fields.required_object(kind) if nested else fields
    if kind == "function":
        chosen = one_tool(structure, inner.required_text("name"), inner.name("name"))
    else:
        mode = inner.required_choice("mode", "auto", "required")
        names = inner.each("tools", partial(_tool_name, nested))
        chosen = some_tools(structure, names, inner.name("tools"))
        chosen = must_call(chosen, inner.name("mode")) if mode == "required" else chosen
    if nested:
        inner.end()
    return chosen


def _tool_name(nested: bool, entry: Fields) -> str:
    entry.only("type", "function", hint="only functions are tools here")
    inner = entry.required_object("function") if nested else entry
    name = inner.required_text("name")
    if nested:
        inner.end()
    return name


def answer_format(body: Fields, field: str, nested: bool, strict: bool = False) -> tuple[Schema | None, dict[str, Any]]:
    """response_format, text.format and their like: the schema of the answer, and what to repeat of
    the request.

    nested: the schema stands in an object json_schema of its own, as in chat. strict: what its
    absence means: where it is false, parts that cannot be enforced are left out and said."""
    return body.parsed(field, partial(_answer_format, nested, strict)) or (None, {"type": "text"})


def _answer_format(nested: bool, strict_by_default: bool, fields: Fields) -> tuple[Schema | None, dict[str, Any]]:
    kinds = ("text", "json_object", "json_schema")
    kind = fields.kind("type", *kinds, hint="text, json_object or json_schema")
    if kind == "text":
        return None, {"type": "text"}
    if kind == "json_object":
        return Schema(ANY_OBJECT, fields.name("type")), {"type": "json_object"}
    inner = fields.required_object("json_schema") if nested else fields
    schema = inner.raw("schema", {"type": ["object", "boolean"]}, need=True)
    if not isinstance(schema, (dict, bool)):
        raise wrong(inner.name("schema"), "a JSON Schema", schema)
    strict = inner.boolean("strict")
    labels = {name: inner.text(name) for name in ("name", "description")}
    if nested:
        inner.end()
    echo = {"type": "json_schema", **labels, "strict": strict, "schema": schema}
    return Schema(schema, inner.name("schema"), not (strict_by_default if strict is None else strict)), echo


def with_answer(structure: Structure, answer: Schema | None, params: SamplingParams, stop_field: str) -> Structure:
    """The structure with a form of its text. Raises ApiError for stops that would cut it."""
    whole = replace(structure, answer=answer)
    cut = whole.cut_by(params)
    if cut is not None:
        name = stop_field if cut == "stop" else cut
        raise ApiError(
            400,
            f"{name} would cut what {whole.demanded} demands; hint: leave one of them out",
            name,
            "contradiction",
        )
    return whole

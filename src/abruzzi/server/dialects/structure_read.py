"""The fields that demand a form of the answer, as far as the dialects share them: tool choice, strictness, formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from abruzzi.server.errors import ApiError, unsupported
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.structure import Schema, Structure
from abruzzi.types import SamplingParams

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def argument_schema(fields: Fields, parameters: object, name: str, strict: bool = False) -> Schema:
    """What a tool's arguments must be. Reads `strict`: where it is true, a part of the schema that cannot be
    enforced is an error, else only that part is left out: agents declare tools with keywords that no grammar has
    (propertyNames). strict: what its absence means in the dialect. name: the field that `parameters` came from."""
    schema = dict(parameters) if isinstance(parameters, dict) else ANY_OBJECT
    if "type" not in schema:
        schema = {"type": "object", **schema}
    said = fields.boolean("strict")
    return Schema(schema, fields.name(name), not (strict if said is None else said))


def any_tool(schemas: Mapping[str, Schema], parallel: bool) -> Structure:
    """Calls of any of the tools, if the model wants."""
    return Structure(schemas, max_calls=None if parallel else 1)


def one_tool(structure: Structure, name: object, choice_field: str) -> Structure:
    """One call of this tool. Raises ApiError when it is not among the tools."""
    chosen = some_tools(structure, [name], choice_field)
    return replace(chosen, must_call=True, max_calls=1)


def some_tools(structure: Structure, names: Sequence[object], choice_field: str) -> Structure:
    """Only these tools. Raises ApiError for one that is not among the tools."""
    for name in names:
        if not isinstance(name, str) or name not in structure.arguments:
            known = ", ".join(list(structure.arguments)[:8]) or "none"
            raise ApiError(
                400, f"{choice_field} names the tool {name!r:.80}; tools: {known}", choice_field, "invalid_value"
            )
    kept = {n: s for n, s in structure.arguments.items() if n in names}
    return replace(structure, arguments=kept, choice_field=choice_field)


def must_call(structure: Structure, choice_field: str) -> Structure:
    """At least one call. Raises ApiError when there is nothing to call."""
    if not structure.arguments:
        raise ApiError(400, f"{choice_field} demands a call but there are no tools", choice_field, "invalid_value")
    return replace(structure, must_call=True, choice_field=choice_field)


def openai_choice(structure: Structure, choice: object, nested: bool) -> Structure | None:
    """tool_choice of OpenAI's two APIs; None = no calls. nested: in an object named after the type, as in chat."""
    if choice is None or choice == "auto":
        return structure
    if choice == "none":
        return None
    if choice == "required":
        return must_call(structure, "tool_choice")
    if not isinstance(choice, dict):
        raise unsupported("tool_choice", choice, "auto, none, required, or an object that names a function")
    fields = Fields(choice, "tool_choice")
    kind = fields.any("type")
    if kind not in ("function", "allowed_tools"):
        raise unsupported("tool_choice.type", kind, "function or allowed_tools")
    inner = _inner(fields, kind) if nested else fields
    if kind == "function":
        chosen = one_tool(structure, inner.text("name"), inner.name("name"))
    else:
        chosen = _allowed_tools(structure, inner, nested)
    if nested:
        inner.end()
    fields.end()
    return chosen


def _allowed_tools(structure: Structure, fields: Fields, nested: bool) -> Structure:
    mode = fields.choice("mode", "auto", "required")
    if mode is None:
        raise required(fields.name("mode"))
    names = []
    for at, given in enumerate(fields.items("tools") or []):
        entry = Fields(given, f"{fields.name('tools')}[{at}]")
        entry.only("type", "function", hint="only functions are tools here")
        inner = _inner(entry, "function") if nested else entry
        names.append(inner.text("name"))
        for one in (inner, entry) if nested else (entry,):
            one.end()
    chosen = some_tools(structure, names, fields.name("tools"))
    return must_call(chosen, fields.name("mode")) if mode == "required" else chosen


def _inner(fields: Fields, name: str) -> Fields:
    inner = fields.object(name)
    if inner is None:
        raise required(fields.name(name))
    return inner


def answer_format(fields: Fields | None, nested: bool) -> tuple[Schema | None, dict[str, Any]]:
    """response_format, text.format and their like: the schema of the answer, and what to repeat of the request.

    nested: the schema stands in an object json_schema of its own, as in chat."""
    if fields is None:
        return None, {"type": "text"}
    kind = fields.any("type")
    if kind == "text":
        fields.end()
        return None, {"type": "text"}
    if kind == "json_object":
        fields.end()
        return Schema(ANY_OBJECT, fields.name("type")), {"type": "json_object"}
    if kind != "json_schema":
        raise unsupported(fields.name("type"), kind, "text, json_object or json_schema")
    inner = _inner(fields, "json_schema") if nested else fields
    schema = inner.any("schema")
    if not isinstance(schema, (dict, bool)):
        raise wrong(inner.name("schema"), "a JSON Schema", schema)
    strict = inner.boolean("strict")
    said = {name: inner.text(name) for name in ("name", "description")}
    echo = {"type": "json_schema", **said, "strict": strict, "schema": schema}
    if nested:
        inner.end()
    fields.end()
    return Schema(schema, inner.name("schema"), strict is False), echo


def with_answer(structure: Structure, answer: Schema | None, params: SamplingParams, stop_field: str) -> Structure:
    """The structure with a form of its text. Raises ApiError for ways to stop that would cut what is demanded."""
    whole = replace(structure, answer=answer)
    text_is_demanded = answer is not None and not structure.must_call
    name = stop_field if params.stop and text_is_demanded else "stop_token_ids" if params.stop_token_ids else None
    if name is not None and whole.demanded is not None:
        raise ApiError(
            400,
            f"{name} would cut what {whole.demanded} demands; hint: leave one of them out",
            name,
            "contradiction",
        )
    return whole

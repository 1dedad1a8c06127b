"""POST /v1/messages (and its count_tokens), read: Anthropic's messages, field by field.

Extensions that Anthropic's API does not have: seed, min_p, preserve_thinking.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

from abruzzi.server.dialects.common import (
    EFFORT_NAMES,
    MAX_STOP_CHARS,
    MAX_STOPS,
    NOT_HERE,
    by_name,
    joined_text,
    model_name,
    read_thinking_object,
    read_tool,
    sampling,
)
from abruzzi.server.dialects.messages_write import MessagesOutput
from abruzzi.server.dialects.structure_read import answer_format, any_tool, must_call, one_tool, with_answer
from abruzzi.server.errors import ApiError, unsupported
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.request import ChatRequest, Thinking
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.types import Message, ToolCall


def read_messages(service: Service, body: Fields, count_only: bool = False) -> tuple[ChatRequest, MessagesOutput]:
    """The request, and how to write its answer. count_only: for count_tokens, which needs no
    max_tokens.

    Raises ApiError that names what is wrong."""
    model = model_name(service, body)
    max_tokens = body.integer("max_tokens", 1, need=not count_only)
    thinking, answer = _thinking(body)
    history = _History()
    system = joined_text(body.text_or_each("system", _text_part, "text parts"))
    if system:
        history.add(Message("system", system))
    body.each("messages", history.read, need=True)
    if not any(m.role != "system" for m in history.messages):
        raise required("messages")
    if history.messages[-1].role == "assistant":
        raise unsupported("messages", "an assistant's message at the end", "the answer cannot be begun for the model")
    tools, may_call, structure = _tools(body)
    params = sampling(
        body,
        max_tokens,
        body.strings("stop_sequences", MAX_STOPS, MAX_STOP_CHARS),
        thinking.budget,
        service.settings.temperature,
        1.0,
    )
    request = ChatRequest(
        model=model,
        messages=tuple(history.messages),
        seals=history.seals,
        tools=tools,
        params=params,
        thinking=thinking.enabled,
        effort=thinking.effort,
        preserve_thinking=thinking.preserve,
        may_call=may_call,
        structure=with_answer(structure, answer, params, "stop_sequences"),
    )
    output = MessagesOutput(model, body.boolean("stream") or False)
    metadata = body.object("metadata")
    if metadata is not None:
        metadata.label("user_id", str)
        metadata.end()
    body.label("cache_control", dict)
    body.only("service_tier", "auto", "standard_only", hint="there is one tier")
    for name in ("container", "mcp_servers", "inference_geo", "speed"):
        body.only(name, hint=NOT_HERE)
    return request, output


def _thinking(body: Fields) -> tuple[Thinking, Schema | None]:
    """The thinking options and the form of the answer, which stand in one object."""
    out, answers = Thinking(), []
    thinking = body.object("thinking")
    if thinking is not None:
        read_thinking_object(thinking, out)
        thinking.only("display", "summarized", hint="a thought is shown as it is")
        thinking.end()
    config = body.object("output_config")
    if config is not None:
        out.merge_effort("output_config.effort", config.choice("effort", *EFFORT_NAMES))
        answers.append(answer_format(config, "format", nested=False, strict=True)[0])
        config.end()
    answers.append(answer_format(body, "output_format", nested=False, strict=True)[0])  # its name in the beta
    formats = [answer for answer in answers if answer is not None]
    if len(formats) > 1:
        name = formats[1].name
        raise ApiError(400, f"{name} and {formats[0].name} are both given; hint: send one", name, "contradiction")
    out.merge("preserve_thinking", preserve=body.boolean("preserve_thinking"))
    management = body.object("context_management")
    if management is not None:
        management.each("edits", partial(_edit, out))
        management.end()
    return out.check(), formats[0] if formats else None


def _edit(thinking: Thinking, edit: Fields) -> None:
    edit.required_choice("type", "clear_thinking_20251015")
    edit.only("keep", "all", {"type": "all"}, hint="thinking is kept, or dropped by preserve_thinking=false")
    thinking.merge(edit.name("keep"), preserve=True if edit.has("keep") else None)


def _tools(body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure]:
    """The tools, whether the model may call them, and how."""
    tools, schemas = by_name(body.each("tools", _tool))
    structure = any_tool(schemas, parallel=True)
    chosen = body.parsed("tool_choice", partial(_tool_choice, structure)) or structure
    return tools, bool(chosen.arguments), chosen


def _tool(entry: Fields) -> tuple[dict[str, Any], Schema]:
    entry.only("type", "custom", hint="only tools of your own are tools here")
    entry.only("defer_loading", False, hint=NOT_HERE)
    entry.only("eager_input_streaming", True, False, hint="arguments are always streamed")
    entry.label("cache_control", dict)
    return read_tool(entry, "input_schema")


def _tool_choice(structure: Structure, choice: Fields) -> Structure:
    kind = choice.kind("type", "auto", "any", "tool", "none")
    if choice.boolean("disable_parallel_tool_use"):
        structure = replace(structure, max_calls=1)
    if kind == "any":
        return must_call(structure, "tool_choice.type")
    if kind == "tool":
        return one_tool(structure, choice.required_text("name"), "tool_choice.name")
    return Structure() if kind == "none" else structure


class _History:
    """Anthropic's turns as messages. Results become messages; neighbours of one role are one
    turn."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seals: dict[int, str] = {}

    def add(self, message: Message, seal: str | None = None) -> None:
        if seal is not None:
            self.seals[len(self.messages)] = seal
        self.messages.append(message)

    def read(self, fields: Fields) -> None:
        role = fields.kind("role", "user", "assistant", "system")
        if role == "assistant":
            self._assistant(fields)
        else:
            self._user(fields, role)

    def _user(self, fields: Fields, role: str) -> None:
        texts: list[str] = []

        def read(block: Fields) -> None:
            kinds = ("text", "tool_result") if role == "user" else ("text",)
            if block.kind("type", *kinds, hint="this model reads text and tool results") == "text":
                texts.append(_block_text(block))
            else:
                self._flush(role, texts)
                self._result(block)
            block.label("cache_control", dict)

        content = fields.text_or_each("content", read, "blocks", need=True)
        self._flush(role, [content] if isinstance(content, str) else texts)

    def _flush(self, role: str, texts: list[str]) -> None:
        if texts:
            self.add(Message(role, "".join(texts)))
            texts.clear()

    def _result(self, block: Fields) -> None:
        call_id = block.required_text("tool_use_id", filled=True)
        content = joined_text(block.text_or_each("content", _text_part, "text parts")) or ""
        if block.boolean("is_error"):
            content = content if content.lower().startswith("error") else f"Error: {content}"
        self.add(Message("tool", content, tool_call_id=call_id))

    def _assistant(self, fields: Fields) -> None:
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[ToolCall] = []
        seals: list[str] = []

        def read(block: Fields) -> None:
            kind = block.kind("type", "thinking", "text", "tool_use", hint="expected thinking, text or tool_use")
            if kind == "thinking":
                thoughts.append(block.text("thinking") or "")
                seals.extend(filter(None, [block.text("signature")]))
            elif kind == "text":
                if calls:
                    raise unsupported(
                        block.name("type"), "text after tool_use", "this model's turns end with its calls"
                    )
                texts.append(_block_text(block))
            else:
                calls.append(_tool_use(block))
            block.label("cache_control", dict)

        content = fields.text_or_each("content", read, "blocks", need=True)
        if isinstance(content, str):
            texts.append(content)
        thought = "".join(thoughts) if thoughts else None
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant":
            raise ApiError(
                400,
                f"{fields.name('role')}: two assistant messages in a row; hint: put their blocks into one",
                fields.name("role"),
                "invalid_value",
            )
        self.add(Message("assistant", "".join(texts), thought, tuple(calls)), seals[-1] if seals else None)


def _block_text(block: Fields) -> str:
    block.only("citations", [], hint="nothing is cited here")
    return block.required_text("text")


def _text_part(part: Fields) -> str:
    """Of a list that can hold nothing but text, whose type may be left out."""
    part.only("type", "text", hint="this model reads text only")
    part.label("cache_control", dict)  # every prefix is cached anyway
    return _block_text(part)


def _tool_use(block: Fields) -> ToolCall:
    name, call_id = block.required_text("name", filled=True), block.required_text("id", filled=True)
    arguments = block.raw("input", {"type": "object"}, need=True)
    if not isinstance(arguments, dict):
        raise wrong(block.name("input"), "an object", arguments)
    caller = block.object("caller")
    if caller is not None:
        caller.only("type", "direct", hint=NOT_HERE)
        caller.end()
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), call_id)

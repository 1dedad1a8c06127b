"""What a POST to /v1/messages (and its count_tokens) may hold: Anthropic's messages, field by field.

Extensions that Anthropic's API does not have: seed, min_p, preserve_thinking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from abruzzi.server.dialects.chat_read import EFFORT_NAMES, NOT_HERE, text_of
from abruzzi.server.dialects.structure_read import (
    answer_format,
    any_tool,
    argument_schema,
    must_call,
    one_tool,
    with_answer,
)
from abruzzi.server.errors import ApiError, unsupported
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.request import (
    ChatRequest,
    Thinking,
    distinct,
    model_name,
    sampling,
    stop_strings,
    tool,
)
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.types import Message, ToolCall


@dataclass(frozen=True, slots=True)
class MessagesOutput:
    """How the client wants it."""

    model: str
    stream: bool = False


def read_message_request(
    service: Service, given: object, count_only: bool = False
) -> tuple[ChatRequest, MessagesOutput]:
    """The request, and how its answer is wanted. Raises ApiError that names what is wrong."""
    body = Fields(given)
    model = service.require_model(model_name(body))
    max_tokens = body.integer("max_tokens", 1)
    if max_tokens is None and not count_only:
        raise required("max_tokens")
    thinking, answer = _thinking(body)
    history = _History()
    system = _blocks_text(body.any("system"), "system")
    if system:
        history.add(Message("system", system))
    for at, message in enumerate(body.items("messages") or []):
        history.read(Fields(message, f"messages[{at}]"))
    if not any(m.role != "system" for m in history.messages):
        raise required("messages")
    if history.messages[-1].role == "assistant":
        raise unsupported("messages", "an assistant's message at the end", "the answer cannot be begun for the model")
    tools, may_call, structure = _tools(body)
    params = sampling(
        body, max_tokens, stop_strings(body, "stop_sequences"), thinking.budget, service.settings.temperature, 1.0
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
    body.end()
    return request, output


def _thinking(body: Fields) -> tuple[Thinking, Schema | None]:
    """What was said about thinking, and about the form of the answer, which stand in one object."""
    said, answers = Thinking(), []
    thinking = body.object("thinking")
    if thinking is not None:
        kind = thinking.choice("type", "enabled", "disabled", "adaptive")
        said.say("thinking.type", enabled=None if kind is None else kind != "disabled")
        said.say("thinking.budget_tokens", budget=thinking.integer("budget_tokens", 0))
        thinking.only("display", "summarized", hint="a thought is shown as it is")
        thinking.end()
    config = body.object("output_config")
    if config is not None:
        said.say_effort("output_config.effort", config.choice("effort", *EFFORT_NAMES))
        answers.append(answer_format(config.object("format"), nested=False)[0])
        config.end()
    answers.append(answer_format(body.object("output_format"), nested=False)[0])  # its name in the beta
    formats = [answer for answer in answers if answer is not None]
    if len(formats) > 1:
        name = formats[1].name
        raise ApiError(400, f"{name} and {formats[0].name} are both given; hint: send one", name, "contradiction")
    said.say("preserve_thinking", preserve=body.boolean("preserve_thinking"))
    management = body.object("context_management")
    if management is not None:
        for at, given in enumerate(management.items("edits") or []):
            edit = Fields(given, management.name(f"edits[{at}]"))
            if edit.choice("type", "clear_thinking_20251015") is None:
                raise required(edit.name("type"))
            edit.only("keep", "all", {"type": "all"}, hint="thinking is kept, or dropped by preserve_thinking=false")
            said.say(edit.name("keep"), preserve=True if edit.any("keep") is not None else None)
            edit.end()
        management.end()
    return said.check(), formats[0] if formats else None


def _tools(body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure]:
    tools, schemas = [], {}
    for at, given in enumerate(body.items("tools") or []):
        entry = Fields(given, f"tools[{at}]")
        entry.only("type", "custom", hint="only tools of your own are tools here")
        name, parameters = entry.any("name"), entry.any("input_schema")
        tools.append(tool(name, entry.any("description"), parameters, f"tools[{at}]"))
        schemas[name] = argument_schema(entry, parameters, "input_schema")
        entry.only("defer_loading", False, hint=NOT_HERE)
        entry.only("eager_input_streaming", True, False, hint="arguments are always streamed")
        entry.label("cache_control", dict)
        entry.end()
    offered = distinct(tools)
    structure = any_tool(schemas, parallel=True)
    choice = body.object("tool_choice")
    if choice is None:
        return offered, bool(offered), structure
    kind = choice.choice("type", "auto", "any", "tool", "none")
    if kind is None:
        raise required("tool_choice.type")
    if choice.boolean("disable_parallel_tool_use"):
        structure = replace(structure, max_calls=1)
    if kind == "any":
        structure = must_call(structure, "tool_choice.type")
    elif kind == "tool":
        structure = one_tool(structure, choice.text("name"), "tool_choice.name")
    choice.end()
    return offered, kind != "none" and bool(offered), structure if kind != "none" else Structure()


class _History:
    """Anthropic's turns as messages: results become messages of their own; neighbours of one role are one turn."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seals: dict[int, str] = {}

    def add(self, message: Message, seal: str | None = None) -> None:
        if seal is not None:
            self.seals[len(self.messages)] = seal
        self.messages.append(message)

    def read(self, fields: Fields) -> None:
        role = fields.choice("role", "user", "assistant", "system")
        if role is None:
            raise required(fields.name("role"))
        content = fields.any("content")
        fields.end()
        if content is None:
            raise required(fields.name("content"))
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise wrong(fields.name("content"), "text or a list of blocks", content)
        entries = [Fields(b, f"{fields.name('content')}[{n}]") for n, b in enumerate(blocks)]
        if role == "assistant":
            self._assistant(entries, fields)
        else:
            self._user(entries, role)

    def _user(self, blocks: list[Fields], role: str) -> None:
        texts: list[str] = []
        for block in blocks:
            kind = block.any("type")
            if kind == "text":
                texts.append(_block_text(block))
            elif kind == "tool_result" and role == "user":
                self._flush(role, texts)
                self._result(block)
            else:
                raise unsupported(block.name("type"), kind, "this model reads text and tool results")
            block.label("cache_control", dict)
            block.end()
        self._flush(role, texts)

    def _flush(self, role: str, texts: list[str]) -> None:
        if texts:
            self.add(Message(role, "".join(texts)))
            texts.clear()

    def _result(self, block: Fields) -> None:
        call_id = block.text("tool_use_id")
        if not call_id:
            raise required(block.name("tool_use_id"))
        content = _blocks_text(block.any("content"), block.name("content")) or ""
        if block.boolean("is_error"):
            content = content if content.lower().startswith("error") else f"Error: {content}"
        self.add(Message("tool", content, tool_call_id=call_id))

    def _assistant(self, blocks: list[Fields], fields: Fields) -> None:
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[ToolCall] = []
        seal: str | None = None
        for block in blocks:
            kind = block.any("type")
            if kind == "thinking":
                thoughts.append(block.text("thinking") or "")
                seal = block.text("signature") or seal
            elif kind == "text":
                if calls:
                    raise unsupported(
                        block.name("type"), "text after tool_use", "this model's turns end with its calls"
                    )
                texts.append(_block_text(block))
            elif kind == "tool_use":
                calls.append(_tool_use(block))
            else:
                raise unsupported(block.name("type"), kind, "expected thinking, text or tool_use")
            block.label("cache_control", dict)
            block.end()
        thought = "".join(thoughts) if thoughts else None
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant":
            raise ApiError(
                400,
                f"{fields.name('role')}: two assistant messages in a row; hint: put their blocks into one",
                fields.name("role"),
                "invalid_value",
            )
        self.add(Message("assistant", "".join(texts), thought, tuple(calls)), seal)


def _block_text(block: Fields) -> str:
    text = block.text("text")
    if text is None:
        raise required(block.name("text"))
    block.only("citations", [], hint="nothing is cited here")
    return text


def _tool_use(block: Fields) -> ToolCall:
    name, call_id, given = block.text("name"), block.text("id"), block.any("input")
    if not name or not call_id:
        raise required(block.name("name" if not name else "id"))
    if not isinstance(given, dict):
        raise wrong(block.name("input"), "an object", given)
    caller = block.object("caller")
    if caller is not None:
        caller.only("type", "direct", hint=NOT_HERE)
        caller.end()
    return ToolCall(name, json.dumps(given, ensure_ascii=False), call_id)


def _blocks_text(given: object, name: str) -> str | None:
    """Text, or text blocks put together."""
    if isinstance(given, list):
        texts = []
        for at, entry in enumerate(given):
            block = Fields(entry, f"{name}[{at}]")
            block.only("type", "text", hint="this model reads text only")
            texts.append(_block_text(block))
            block.label("cache_control", dict)
            block.end()
        return "".join(texts)
    return text_of(given, name)

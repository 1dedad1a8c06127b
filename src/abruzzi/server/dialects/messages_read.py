"""POST /v1/messages (and its count_tokens), read: Anthropic's messages, field by field.

Extensions that Anthropic's API does not have: seed, min_p, preserve_thinking.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from abruzzi.server.dialects.common import (
    EFFORT_NAMES,
    MAX_STOP_CHARS,
    MAX_STOPS,
    by_name,
    joined_text,
    model_name,
    own_tool,
    read_thinking_object,
    read_tool,
    sampling,
)
from abruzzi.server.dialects.foreign_parts import result_part
from abruzzi.server.dialects.messages_write import MessagesOutput
from abruzzi.server.dialects.neutral import read_neutral
from abruzzi.server.dialects.prefill import split_prefill
from abruzzi.server.dialects.structure_read import answer_format, any_tool, must_call, one_tool, with_answer
from abruzzi.server.errors import ApiError, unsupported
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.request import ChatRequest, Thinking
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.tokenizer.formats.render import tools_text
from abruzzi.types import Message, ToolCall

BILLING = "x-anthropic-billing-header"  # Claude Code's line in front of its system prompt: new in every session
# Types of tools whose code Anthropic runs, or knows: how Claude Code stops sending them.
SWITCHES = {
    "web_search": 'in Claude Code deny it: claude --disallowedTools WebSearch, or permissions.deny ["WebSearch"]',
    "web_fetch": 'in Claude Code deny it: claude --disallowedTools WebFetch, or permissions.deny ["WebFetch"]',
    "tool_search": "in Claude Code set ENABLE_TOOL_SEARCH=false",
    "advisor": "in Claude Code set CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS=1",
}
# Of the assistant's own blocks, those that only their vendor can read: skipped, as nothing is lost.
OPAQUE = ("redacted_thinking", "container_upload", "compaction", "fallback")
# Calls of hosted tools and their results, from a conversation with another server: left out and
# counted.
HOSTED = (
    *("server_tool_use", "mcp_tool_use", "mcp_tool_result", "web_search_tool_result", "web_fetch_tool_result"),
    *("code_execution_tool_result", "bash_code_execution_tool_result", "tool_search_tool_result"),
    *("text_editor_code_execution_tool_result", "advisor_tool_result"),
)


def read_messages(service: Service, body: Fields, count_only: bool = False) -> tuple[ChatRequest, MessagesOutput]:
    """The request, and how to write its answer. count_only: for count_tokens, which needs no
    max_tokens.

    Raises ApiError that names what is wrong."""
    model = model_name(service, body)
    max_tokens = body.integer("max_tokens", 1, need=not count_only)
    thinking, answer, omit_thought = _thinking(body)
    offered = _Offered([tool for tool in body.each("tools", partial(_tool, service)) if tool is not None])
    history = _History(service, offered)
    system = _without_billing(body.text_or_each("system", _text_part, "text parts"))
    if system:
        history.add(Message("system", system))
    body.each("messages", history.read, need=True)
    if not any(m.role != "system" for m in history.messages):
        raise required("messages")
    messages, prefill = split_prefill(history.messages, thinking, "messages")
    tools, may_call, structure = _choice(body, offered)
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
        messages=messages,
        seals=history.seals,
        tools=tools,
        params=params,
        thinking=thinking.enabled,
        effort=thinking.effort,
        preserve_thinking=thinking.preserve,
        may_call=may_call,
        structure=with_answer(structure, answer, params, "stop_sequences"),
        prefill=prefill,
    )
    output = MessagesOutput(model, body.boolean("stream") or False, omit_thought)
    metadata = body.object("metadata")
    if metadata is not None:
        metadata.label("user_id", str)
        metadata.ignore_rest()
        metadata.end()
    if body.raw("safeguards", {}) is not None:
        body.drop("safeguards", "field")  # checks that Anthropic makes beside the answer: nobody makes them here
    read_neutral(body)
    return request, output


def _without_billing(system: str | list[str] | None) -> str:
    parts = [system] if isinstance(system, str) else list(system or ())
    if parts and parts[0].lstrip().lower().startswith(BILLING):
        parts[0] = parts[0].lstrip().partition("\n")[2].lstrip("\n")
    return "".join(parts)


def _thinking(body: Fields) -> tuple[Thinking, Schema | None, bool]:
    """The thinking options, the form of the answer, which stands in one object with them, and
    whether thoughts are not to be shown."""
    out, answers, display = Thinking(), [], None
    thinking = body.object("thinking")
    if thinking is not None:
        read_thinking_object(thinking, out)
        # A thought is shown as it is: that is more than its summary, or news of it.
        display = thinking.choice("display", "summarized", "updates", "full", "omitted")
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
    return out.check(), formats[0] if formats else None, display == "omitted"


def _edit(thinking: Thinking, edit: Fields) -> None:
    edit.required_choice("type", "clear_thinking_20251015")
    edit.only("keep", "all", {"type": "all"}, hint="thinking is kept, or dropped by preserve_thinking=false")
    thinking.merge(edit.name("keep"), preserve=True if edit.has("keep") else None)


@dataclass(frozen=True, slots=True)
class _Tool:
    """A declared tool. deferred: it stays out of the prompt until a tool_reference declares it."""

    declaration: dict[str, Any]
    schema: Schema
    deferred: bool

    @property
    def name(self) -> str:
        return self.declaration["function"]["name"]


class _Offered:
    """The tools of a request. loaded: the deferred ones that the history has declared so far."""

    def __init__(self, tools: Sequence[_Tool]) -> None:
        by_name([(tool.declaration, tool.schema) for tool in tools])
        self._tools = {tool.name: tool for tool in tools}
        self._loaded: set[str] = set()

    def load(self, name: str) -> dict[str, Any] | None:
        """The declaration that is due where a tool_reference names this tool; None where it is
        declared already, or gone."""
        tool = self._tools.get(name)
        if tool is None or not tool.deferred or name in self._loaded:
            return None
        self._loaded.add(name)
        return tool.declaration

    def in_prompt(self) -> tuple[dict[str, Any], ...]:
        """What is declared in front of the conversation."""
        return tuple(tool.declaration for tool in self._tools.values() if not tool.deferred)

    def callable(self) -> dict[str, Schema]:
        """Those that the model has seen."""
        return {n: t.schema for n, t in self._tools.items() if not t.deferred or n in self._loaded}


def _choice(body: Fields, offered: _Offered) -> tuple[tuple[dict[str, Any], ...], bool, Structure]:
    """The tools in front, whether the model may call any, and how."""
    structure = any_tool(offered.callable(), parallel=True)
    read, hint = partial(_tool_choice, structure), "an object with a type"
    chosen = body.parsed_or("tool_choice", ("auto", "none"), read, hint)  # OpenAI's words for two of its types
    if not isinstance(chosen, Structure):
        chosen = Structure() if chosen == "none" else structure
    return offered.in_prompt(), bool(chosen.arguments), chosen


def _tool(service: Service, entry: Fields) -> _Tool | None:
    if not own_tool(service, entry, "custom", switches=SWITCHES):
        return None
    deferred = entry.boolean("defer_loading") or False
    callers = entry.peek("allowed_callers")
    if isinstance(callers, list) and callers and "direct" not in callers:
        raise unsupported(entry.name("allowed_callers"), callers, 'only the model calls here: "direct"')
    return _Tool(*read_tool(entry, "input_schema"), deferred)


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

    def __init__(self, service: Service, offered: _Offered) -> None:
        self.messages: list[Message] = []
        self.seals: dict[int, str] = {}
        self._form, self._offered = service.tok.format, offered

    def add(self, message: Message, seal: str | None = None) -> None:
        """The next message; it joins the last one of its role."""
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == message.role and message.role in ("user", "assistant"):
            self.messages.pop()
            message = _joined(last, message)
            seal = self.seals.get(len(self.messages), seal)  # a seal is that of the first thought
        if seal is not None:
            self.seals[len(self.messages)] = seal
        self.messages.append(message)

    def read(self, fields: Fields) -> None:
        fields.ignore_rest()
        role = fields.kind("role", "user", "assistant", "system")
        if role == "assistant":
            self._assistant(fields)
        else:
            self._user(fields, role)

    def _user(self, fields: Fields, role: str) -> None:
        texts: list[str] = []

        def read(block: Fields) -> None:
            block.ignore_rest()
            kinds = ("text", "tool_result") if role == "user" else ("text",)
            if block.kind("type", *kinds, hint="this model reads text and tool results") == "text":
                texts.append(block.required_text("text"))
            else:
                self._flush(role, texts)
                self._result(block)

        content = fields.text_or_each("content", read, "blocks", need=True)
        self._flush(role, [content] if isinstance(content, str) else texts)

    def _flush(self, role: str, texts: list[str]) -> None:
        if texts:
            self.add(Message(role, "".join(texts)))
            texts.clear()

    def _result(self, block: Fields) -> None:
        call_id = block.required_text("tool_use_id", filled=True)
        referenced: list[str] = []
        content = joined_text(block.text_or_each("content", partial(_result_part, referenced), "parts")) or ""
        if block.boolean("is_error"):
            content = content if content.lower().startswith("error") else f"Error: {content}"
        self.add(Message("tool", content, tool_call_id=call_id))
        declared = [tool for name in referenced if (tool := self._offered.load(name)) is not None]
        if declared:  # the model's own form of a declaration, at this place
            self.add(Message("system", tools_text(declared, self._form), name=self._form.tools_name))

    def _assistant(self, fields: Fields) -> None:
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[ToolCall] = []
        seals: list[str] = []

        def read(block: Fields) -> None:
            block.ignore_rest()
            known = ("thinking", "text", "tool_use")
            kind = block.kind("type", *known, *OPAQUE, *HOSTED, hint=f"expected {', '.join(known)}")
            if kind == "thinking":
                thoughts.append(block.text("thinking") or "")
                seals.extend(filter(None, [block.text("signature")]))
            elif kind == "text":
                if calls:
                    raise unsupported(
                        block.name("type"), "text after tool_use", "this model's turns end with its calls"
                    )
                texts.append(block.required_text("text"))
            elif kind == "tool_use":
                calls.append(_tool_use(block))
            elif kind in HOSTED:
                block.drop("type", "hosted_block", kind)

        content = fields.text_or_each("content", read, "blocks", need=True)
        if isinstance(content, str):
            texts.append(content)
        # display: "omitted" leaves the signature with an empty thought: as if the client had
        # dropped it.
        thought = "".join(thoughts) or None
        self.add(Message("assistant", "".join(texts), thought, tuple(calls)), seals[-1] if seals else None)


def _joined(first: Message, second: Message) -> Message:
    """Two neighbours of one role as one turn: their blocks one behind the other."""
    thoughts = [m.reasoning_content for m in (first, second) if m.reasoning_content is not None]
    return replace(
        first,
        content=(first.content or "") + (second.content or ""),
        reasoning_content="".join(thoughts) if thoughts else None,
        tool_calls=(*first.tool_calls, *second.tool_calls),
    )


def _text_part(part: Fields) -> str:
    """Of a list that can hold nothing but text, whose type may be left out."""
    part.ignore_rest()
    part.only("type", "text", hint="this model reads text only")
    return part.required_text("text")


def _result_part(referenced: list[str], part: Fields) -> str:
    """Text, or a tool_reference: the name of a deferred tool that is loaded here."""
    if part.peek("type") != "tool_reference":
        return result_part(part, "text")
    part.ignore_rest()
    name = part.required_text("tool_name", filled=True)
    referenced.append(name)
    return f"Tool loaded: {name}\n"


def _tool_use(block: Fields) -> ToolCall:
    name, call_id = block.required_text("name", filled=True), block.required_text("id", filled=True)
    arguments = block.raw("input", {"type": "object"}, need=True)
    if not isinstance(arguments, dict):
        raise wrong(block.name("input"), "an object", arguments)
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), call_id)

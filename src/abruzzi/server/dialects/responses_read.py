"""POST /v1/responses, read: OpenAI's Responses, field by field.

Nothing is stored: the items are the history. Extensions that OpenAI's API does not have: seed,
top_k, min_p, stop, thinking_token_budget, preserve_thinking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    read_tool,
    sampling,
)
from abruzzi.server.dialects.responses_write import ResponseOutput
from abruzzi.server.dialects.structure_read import answer_format, any_tool, openai_choice, with_answer
from abruzzi.server.errors import unsupported
from abruzzi.server.fields import Fields
from abruzzi.server.request import ChatRequest, Thinking
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.types import Message, ToolCall

ENCRYPTED = "reasoning.encrypted_content"


def read_response(service: Service, body: Fields) -> tuple[ChatRequest, ResponseOutput]:
    """The request, and how to write its answer. Raises ApiError that names what is wrong."""
    model = model_name(service, body)
    thinking, reasoning_echo, summary = _reasoning(body)
    history = _History()
    instructions = body.text("instructions")
    if instructions:
        history.messages.append(Message("system", instructions))
    history.read(body)
    tools, may_call, structure, tools_echo = _tools(body)
    answer, format_echo = _text_format(body)
    params = sampling(
        body,
        body.integer("max_output_tokens", 1),
        body.strings("stop", MAX_STOPS, MAX_STOP_CHARS),
        thinking.budget,
        service.settings.temperature,
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
        structure=with_answer(structure, answer, params, "stop"),
    )
    encrypted = ENCRYPTED in body.words("include", ENCRYPTED)
    echo = {
        "instructions": instructions,
        "max_output_tokens": params.max_tokens,
        "metadata": body.mapping("metadata") or {},
        "parallel_tool_calls": body.boolean("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": reasoning_echo,
        "store": False,
        "temperature": params.temperature,
        "text": {"format": format_echo},
        "tool_choice": body.raw("tool_choice", {}) or "auto",
        "tools": tools_echo,
        "top_p": params.top_p,
        "truncation": "disabled",
    }
    output = ResponseOutput(model, body.boolean("stream") or False, encrypted, summary, echo)
    _no_effect(body)
    return request, output


def _reasoning(body: Fields) -> tuple[Thinking, dict[str, Any], bool]:
    """The thinking options, their echo, and whether the thought is asked for as its summary."""
    out, summary = Thinking(), None
    reasoning = body.object("reasoning")
    echo: dict[str, Any] = {"effort": None, "summary": None}
    if reasoning is not None:
        effort = reasoning.choice("effort", *EFFORT_NAMES)
        out.merge_effort("reasoning.effort", effort)
        summary = reasoning.choice("summary", "auto", "detailed")
        reasoning.only("generate_summary", hint="use summary")
        reasoning.end()
        echo = {"effort": effort, "summary": summary}
    out.merge("thinking_token_budget", budget=body.integer("thinking_token_budget", 0))
    out.merge("preserve_thinking", preserve=body.boolean("preserve_thinking"))
    return out.check(), echo, summary is not None


def _tools(body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure, list[dict[str, Any]]]:
    """The tools, whether the model may call them, how, and their echo."""
    tools, schemas = by_name(body.each("tools", _tool))
    structure = any_tool(schemas, body.boolean("parallel_tool_calls") is not False)
    chosen = openai_choice(structure, body, nested=False)
    echo = [
        {"type": "function", "strict": not schema.lenient, **tool["function"]}
        for tool, schema in zip(tools, schemas.values())
    ]
    return tools, chosen is not None and bool(chosen.arguments), chosen or Structure(), echo


def _tool(entry: Fields) -> tuple[dict[str, Any], Schema]:
    entry.kind("type", "function", hint="only functions are tools here")
    return read_tool(entry, "parameters")


def _text_format(body: Fields) -> tuple[Schema | None, dict[str, Any]]:
    """text.format: the schema of the answer, and its echo."""
    text = body.object("text")
    if text is None:
        return None, {"type": "text"}
    answer = answer_format(text, "format", nested=False)
    text.only("verbosity", "medium", hint=NOT_HERE)
    text.end()
    return answer


def _no_effect(body: Fields) -> None:
    """Fields that may only say what happens anyway, and labels that change no answer."""
    body.only("store", False, hint="nothing is stored; send the items back as input")
    body.only("background", False, hint=NOT_HERE)
    body.only("truncation", "disabled", hint="nothing is ever cut off")
    body.only("service_tier", "auto", "default", hint="there is one tier")
    body.only("top_logprobs", 0, hint="log-probabilities come with /v1/chat/completions and /v1/completions")
    for name in ("previous_response_id", "conversation", "prompt", "max_tool_calls", "context_management"):
        body.only(name, hint="nothing is stored; send the items back as input" if name[:1] in "pc" else NOT_HERE)
    options = body.object("stream_options")
    if options is not None:
        options.only("include_obfuscation", False, hint="nothing is padded here")
        options.end()
    for name in ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"):
        body.label(name, str)
    body.label("client_metadata", dict)  # Codex says which session and turn this is


@dataclass(slots=True)
class _Turn:
    """Neighbouring items of the assistant: one message."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    seal: str | None = None
    began: bool = False


class _History:
    """Items as messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seals: dict[int, str] = {}
        self._turn = _Turn()

    def read(self, body: Fields) -> None:
        """input: a text, or items. Raises ApiError when it is empty or ends with the assistant."""
        items = body.text_or_each("input", self._item, "items", need=True, least=1)
        if isinstance(items, str):
            self.messages.append(Message("user", items))
        if self._turn.began:
            raise unsupported("input", "an assistant's item at the end", "the answer cannot be begun for the model")

    def _item(self, item: Fields) -> None:
        kinds = ("message", "reasoning", "function_call", "function_call_output")
        kind = item.kind("type", *kinds, hint=f"expected {', '.join(kinds)}", default="message")
        for name in ("id", "status", "phase"):
            item.raw(name, {})  # bookkeeping that comes back with our own items
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "function_call":
            self._turn.began = True
            name, call_id = item.required_text("name", filled=True), item.required_text("call_id", filled=True)
            self._turn.calls.append(ToolCall(name, item.required_text("arguments"), call_id))
        else:
            self._flush()
            call_id = item.required_text("call_id", filled=True)
            self.messages.append(Message("tool", _required_text(item, "output"), tool_call_id=call_id))

    def _message(self, item: Fields) -> None:
        role = item.required_choice("role", "user", "assistant", "system", "developer")
        text = _required_text(item, "content")
        if role != "assistant":
            self._flush()
            self.messages.append(Message(role, text))
            return
        if self._turn.calls or self._turn.texts:
            self._flush()
        self._turn.began = True
        self._turn.texts.append(text)

    def _reasoning(self, item: Fields) -> None:
        if self._turn.calls or self._turn.texts:
            self._flush()
        turn = self._turn
        turn.began = True
        content = joined_text(item.text_or_each("content", partial(_part, ("reasoning_text", "text")), "parts"))
        summary = joined_text(item.text_or_each("summary", partial(_part, ("summary_text",)), "parts"))
        turn.thoughts.append(content or summary or "")
        turn.seal = item.text("encrypted_content") or turn.seal

    def _flush(self) -> None:
        turn, self._turn = self._turn, _Turn()
        if not turn.began:
            return
        if turn.seal is not None:
            self.seals[len(self.messages)] = turn.seal
        thought = "".join(turn.thoughts) or None
        self.messages.append(Message("assistant", "".join(turn.texts), thought, tuple(turn.calls)))


def _required_text(item: Fields, field: str) -> str:
    """Text, or parts put together."""
    text = item.text_or_each(field, partial(_part, ("input_text", "output_text", "text")), "parts", need=True)
    return joined_text(text) or ""


def _part(kinds: tuple[str, ...], part: Fields) -> str:
    part.kind("type", *kinds, hint=f"expected {' or '.join(kinds)}")
    part.only("annotations", [], hint="text only")
    part.only("logprobs", [], hint="they are not read")
    return part.required_text("text")

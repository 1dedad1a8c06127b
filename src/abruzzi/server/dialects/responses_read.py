"""What a POST to /v1/responses may hold: OpenAI's Responses, field by field. Nothing is stored: items are the history.

Extensions that OpenAI's API does not have: seed, top_k, min_p, stop, thinking_token_budget, preserve_thinking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from abruzzi.server.dialects.chat_read import EFFORT_NAMES, NOT_HERE
from abruzzi.server.dialects.structure_read import answer_format, any_tool, argument_schema, openai_choice, with_answer
from abruzzi.server.errors import unsupported
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

ENCRYPTED = "reasoning.encrypted_content"


@dataclass(frozen=True, slots=True)
class ResponseOutput:
    """How the client wants it, and what the response repeats of the request (echo)."""

    model: str
    stream: bool = False
    encrypted: bool = False
    summary: bool = False
    echo: dict[str, Any] = field(default_factory=dict)


def read_response_request(service: Service, given: object) -> tuple[ChatRequest, ResponseOutput]:
    """The request, and how its answer is wanted. Raises ApiError that names what is wrong."""
    body = Fields(given)
    model = service.require_model(model_name(body))
    thinking, reasoning_echo, summary = _reasoning(body)
    history = _History()
    instructions = body.text("instructions")
    if instructions:
        history.messages.append(Message("system", instructions))
    history.read(body.any("input"))
    tools, may_call, structure, tools_echo = _tools(body)
    answer, format_echo = _text_format(body)
    params = sampling(
        body,
        body.integer("max_output_tokens", 1),
        stop_strings(body, "stop"),
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
    include = body.items("include") or []
    for value in include:
        if value != ENCRYPTED:
            raise unsupported("include", value, f"only {ENCRYPTED}")
    body.label("metadata", dict)
    echo = {
        "instructions": instructions,
        "max_output_tokens": params.max_tokens,
        "metadata": body.any("metadata") or {},
        "parallel_tool_calls": body.any("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": reasoning_echo,
        "store": False,
        "temperature": params.temperature,
        "text": {"format": format_echo},
        "tool_choice": body.any("tool_choice") or "auto",
        "tools": tools_echo,
        "top_p": params.top_p,
        "truncation": "disabled",
    }
    output = ResponseOutput(model, body.boolean("stream") or False, bool(include), summary, echo)
    _no_effect(body)
    body.end()
    return request, output


def _reasoning(body: Fields) -> tuple[Thinking, dict[str, Any], bool]:
    """What was said about thinking, as it is repeated, and whether the thought is wanted as its summary."""
    said, summary = Thinking(), None
    reasoning = body.object("reasoning")
    echo: dict[str, Any] = {"effort": None, "summary": None}
    if reasoning is not None:
        effort = reasoning.choice("effort", *EFFORT_NAMES)
        said.say_effort("reasoning.effort", effort)
        summary = reasoning.choice("summary", "auto", "detailed")
        reasoning.only("generate_summary", hint="use summary")
        reasoning.end()
        echo = {"effort": effort, "summary": summary}
    said.say("thinking_token_budget", budget=body.integer("thinking_token_budget", 0))
    said.say("preserve_thinking", preserve=body.boolean("preserve_thinking"))
    return said.check(), echo, summary is not None


def _tools(body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure, list[dict[str, Any]]]:
    """The tools, whether the model may call them, how, and what the response repeats of them."""
    tools, schemas, echo = [], {}, []
    for at, given in enumerate(body.items("tools") or []):
        entry = Fields(given, f"tools[{at}]")
        kind = entry.any("type")
        if kind != "function":
            raise unsupported(entry.name("type"), kind, "only functions are tools here")
        name, parameters = entry.any("name"), entry.any("parameters")
        tools.append(tool(name, entry.any("description"), parameters, f"tools[{at}]"))
        schemas[name] = argument_schema(entry, parameters, "parameters", strict=True)
        echo.append({"type": "function", "strict": not schemas[name].lenient, **tools[-1]["function"]})
        entry.end()
    offered = distinct(tools)
    structure = any_tool(schemas, body.boolean("parallel_tool_calls") is not False)
    chosen = openai_choice(structure, body.any("tool_choice"), nested=False)
    return offered, chosen is not None and bool(chosen.arguments), chosen or Structure(), echo


def _text_format(body: Fields) -> tuple[Schema | None, dict[str, Any]]:
    """text.format: the schema of the answer, and its echo."""
    text = body.object("text")
    if text is None:
        return answer_format(None, nested=False)
    answer = answer_format(text.object("format"), nested=False)
    text.only("verbosity", "medium", hint=NOT_HERE)
    text.end()
    return answer


def _no_effect(body: Fields) -> None:
    """Fields whose only supported value is what happens anyway, and labels that change no answer."""
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

    def read(self, given: object) -> None:
        if given is None or given == []:
            raise required("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(items, list):
            raise wrong("input", "text or a list of items", given)
        for at, item in enumerate(items):
            self._item(Fields(item, f"input[{at}]"))
        if self._turn.began:
            raise unsupported("input", "an assistant's item at the end", "the answer cannot be begun for the model")

    def _item(self, item: Fields) -> None:
        kind = item.any("type") or "message"
        for name in ("id", "status", "phase"):
            item.any(name)  # bookkeeping that comes back with our own items
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "function_call":
            self._turn.began = True
            name, call_id, arguments = item.text("name"), item.text("call_id"), item.text("arguments")
            if not name or not call_id or arguments is None:
                raise required(item.name("name, call_id and arguments"))
            self._turn.calls.append(ToolCall(name, arguments, call_id))
        elif kind == "function_call_output":
            self._flush()
            call_id = item.text("call_id")
            if not call_id:
                raise required(item.name("call_id"))
            text = _text(item.any("output"), item.name("output"), ("input_text", "output_text", "text"))
            self.messages.append(Message("tool", text, tool_call_id=call_id))
        else:
            raise unsupported(item.name("type"), kind, "expected message, reasoning, function_call(_output)")
        item.end()

    def _message(self, item: Fields) -> None:
        role = item.choice("role", "user", "assistant", "system", "developer")
        if role is None:
            raise required(item.name("role"))
        text = _text(item.any("content"), item.name("content"), ("input_text", "output_text", "text"))
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
        content = _text(item.any("content") or [], item.name("content"), ("reasoning_text", "text"))
        summary = _text(item.any("summary") or [], item.name("summary"), ("summary_text",))
        turn.thoughts.append(content or summary)
        turn.seal = item.text("encrypted_content") or turn.seal

    def _flush(self) -> None:
        turn, self._turn = self._turn, _Turn()
        if not turn.began:
            return
        if turn.seal is not None:
            self.seals[len(self.messages)] = turn.seal
        thought = "".join(turn.thoughts) or None
        self.messages.append(Message("assistant", "".join(turn.texts), thought, tuple(turn.calls)))


def _text(given: object, name: str, kinds: tuple[str, ...]) -> str:
    """Text, or parts of these types put together."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise wrong(name, "text or a list of parts", given)
    texts = []
    for at, entry in enumerate(given):
        part = Fields(entry, f"{name}[{at}]")
        kind = part.any("type")
        if kind not in kinds:
            raise unsupported(part.name("type"), kind, f"expected {' or '.join(kinds)}")
        text = part.text("text")
        if text is None:
            raise required(part.name("text"))
        part.only("annotations", [], hint="text only")
        part.only("logprobs", [], hint="they are not read")
        part.end()
        texts.append(text)
    return "".join(texts)

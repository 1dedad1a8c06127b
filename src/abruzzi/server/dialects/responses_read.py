"""POST /v1/responses, read: OpenAI's Responses, field by field.

Nothing is stored: the items are the history. Extensions that OpenAI's API does not have: seed,
top_k, min_p, stop, thinking_token_budget, preserve_thinking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
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
    read_tool,
    sampling,
)
from abruzzi.server.dialects.foreign_parts import result_part
from abruzzi.server.dialects.neutral import NOT_HERE, read_neutral
from abruzzi.server.dialects.prefill import split_prefill
from abruzzi.server.dialects.responses_write import ResponseOutput, joined_name
from abruzzi.server.dialects.structure_read import answer_format, any_tool, openai_choice, with_answer
from abruzzi.server.fields import Fields
from abruzzi.server.request import ChatRequest, Thinking
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.types import Message, ToolCall

ENCRYPTED = "reasoning.encrypted_content"
# What else may be included belongs to items that this server never makes.
NEVER_MADE = (
    *("web_search_call.action.sources", "web_search_call.results", "file_search_call.results"),
    *("code_interpreter_call.outputs", "computer_call_output.output.image_url", "message.input_image.image_url"),
)
# Types of tools that OpenAI runs: how Codex (0.171) stops sending them.
_OWN_NAME = "Codex sends it to models whose name it knows: serve under another (--served-model-name)"
SWITCHES = {
    "web_search": 'in Codex: codex -c web_search="disabled"',
    "image_generation": "in Codex: codex --disable image_generation",
    "tool_search": f"declare the tools themselves; {_OWN_NAME}",
    "custom": f"declare it as a function; {_OWN_NAME}",
}
# Items of hosted tools, from a conversation with another server: left out and counted.
HOSTED = (
    *("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_list_tools"),
    *("mcp_call", "mcp_approval_request", "mcp_approval_response", "tool_search_call", "tool_search_output"),
    "compaction",
)
# What another model called in this history, by tools of types that this one is not offered. A session that was begun
# with it goes on: such a call is one by name. Each has its output: TYPE_output.
FOREIGN_CALLS = ("custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "computer_call")
FOREIGN_OUTPUTS = tuple(f"{kind}_output" for kind in FOREIGN_CALLS)


def read_response(service: Service, body: Fields) -> tuple[ChatRequest, ResponseOutput]:
    """The request, and how to write its answer. Raises ApiError that names what is wrong."""
    model = model_name(service, body)
    thinking, reasoning_echo, summary = _reasoning(body)
    history = _History()
    instructions = body.text("instructions")
    if instructions:
        history.messages.append(Message("system", instructions))
    history.read(body)
    messages, prefill = split_prefill(history.messages, thinking, "input")
    tools, may_call, structure, tools_echo, namespaces = _tools(service, body)
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
        messages=messages,
        seals=history.seals,
        tools=tools,
        params=params,
        thinking=thinking.enabled,
        effort=thinking.effort,
        preserve_thinking=thinking.preserve,
        may_call=may_call,
        structure=with_answer(structure, answer, params, "stop"),
        prefill=prefill,
    )
    encrypted = ENCRYPTED in body.words("include", ENCRYPTED, *NEVER_MADE)
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
    output = ResponseOutput(model, body.boolean("stream") or False, encrypted, summary, echo, namespaces)
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
        summary = reasoning.choice("summary", "auto", "detailed", "concise", "none")
        if summary == "concise":  # the thought is sent whole
            reasoning.drop("summary", "value", summary)
            summary = "detailed"
        summary = None if summary == "none" else summary
        reasoning.only("generate_summary", hint="use summary")
        reasoning.end()
        echo = {"effort": effort, "summary": summary}
    out.merge("thinking_token_budget", budget=body.integer("thinking_token_budget", 0))
    out.merge("preserve_thinking", preserve=body.boolean("preserve_thinking"))
    return out.check(), echo, summary is not None


@dataclass(frozen=True, slots=True)
class _Declared:
    """One entry of `tools`: a function, or a namespace of them. echo: as the response repeats
    it."""

    tools: list[tuple[dict[str, Any], Schema]]
    echo: dict[str, Any]
    namespace: str = ""


Tools = tuple[tuple[dict[str, Any], ...], bool, Structure, list[dict[str, Any]], dict[str, str]]


def _tools(service: Service, body: Fields) -> Tools:
    """The tools, whether the model may call them, how, their echo, and of those in a namespace
    which one it is."""
    declared = [entry for entry in body.each("tools", partial(_tool, service)) if entry is not None]
    tools, schemas = by_name([tool for entry in declared for tool in entry.tools])
    structure = any_tool(schemas, body.boolean("parallel_tool_calls") is not False)
    chosen = openai_choice(structure, body, nested=False)
    namespaces = {t["function"]["name"]: e.namespace for e in declared if e.namespace for t, _ in e.tools}
    echo = [entry.echo for entry in declared]
    return tools, chosen is not None and bool(chosen.arguments), chosen or Structure(), echo, namespaces


def _tool(service: Service, entry: Fields) -> _Declared | None:
    kind = own_tool(service, entry, "function", "namespace", switches=SWITCHES, named=True)
    if kind == "namespace":
        return _namespace(service, entry)
    return _function(entry) if kind else None


def _function(entry: Fields) -> _Declared:
    tool, schema = read_tool(entry, "parameters")
    return _Declared([(tool, schema)], {"type": "function", "strict": not schema.lenient, **tool["function"]})


def _namespace(service: Service, entry: Fields) -> _Declared:
    """Codex's group of functions: to the model each is `namespace.name`, on the wire both stand
    apart."""
    entry.ignore_rest()
    name, about = entry.required_text("name", filled=True), entry.text("description")
    inner = [tool for tool in entry.each("tools", partial(_inner_tool, service)) if tool is not None]
    tools = []
    for tool, schema in (each for one in inner for each in one.tools):
        function = {**tool["function"], "name": joined_name(name, tool["function"]["name"])}
        if about:
            function["description"] = f"{about}\n{function.get('description', '')}".rstrip()
        tools.append(({**tool, "function": function}, schema))
    echo = {"type": "namespace", "name": name, "description": about, "tools": [one.echo for one in inner]}
    return _Declared(tools, echo, name)


def _inner_tool(service: Service, entry: Fields) -> _Declared | None:
    return _function(entry) if own_tool(service, entry, "function", switches=SWITCHES) else None


def _text_format(body: Fields) -> tuple[Schema | None, dict[str, Any]]:
    """text.format: the schema of the answer, and its echo."""
    text = body.object("text")
    if text is None:
        return None, {"type": "text"}
    answer = answer_format(text, "format", nested=False)
    verbosity = text.choice("verbosity", "low", "medium", "high")
    if verbosity not in (None, "medium"):  # a wish that this model was not trained to follow
        text.drop("verbosity", "value", verbosity)
    text.end()
    return answer


def _no_effect(body: Fields) -> None:
    """Fields that may only say what happens anyway, and labels that change no answer."""
    if body.boolean("store"):  # this API's default, which costs the answer nothing: `store` in it says false
        body.drop("store", "value", True)
    body.only("top_logprobs", 0, hint="log-probabilities come with /v1/chat/completions and /v1/completions")
    body.only("context_management", [], hint=NOT_HERE)
    for name in ("previous_response_id", "conversation", "prompt", "max_tool_calls"):
        body.only(name, hint="nothing is stored; send the items back as input" if name[:1] in "pc" else NOT_HERE)
    options = body.object("stream_options")
    if options is not None:
        options.only("include_obfuscation", False, hint="nothing is padded here")
        options.end()
    for name in ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"):
        body.label(name, str)
    body.label("client_metadata", dict)  # Codex says which session and turn this is
    read_neutral(body)


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
        """input: a text, or items. Raises ApiError when it is empty."""
        items = body.text_or_each("input", self._item, "items", need=True, least=1)
        if isinstance(items, str):
            self.messages.append(Message("user", items))
        self._flush()

    def _item(self, item: Fields) -> None:
        item.ignore_rest()  # bookkeeping comes back with our own items: id, status, phase
        kinds = ("message", "reasoning", "function_call", "function_call_output")
        kind = item.kind(
            "type",
            *kinds,
            *FOREIGN_CALLS,
            *FOREIGN_OUTPUTS,
            *HOSTED,
            hint=f"expected {', '.join(kinds)}",
            default="message",
        )
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "function_call":
            self._turn.began = True
            name, call_id = item.required_text("name", filled=True), item.required_text("call_id", filled=True)
            name = joined_name(item.text("namespace") or "", name)
            self._turn.calls.append(ToolCall(name, item.required_text("arguments"), call_id))
        elif kind in FOREIGN_CALLS:
            self._turn.began = True
            given = next((v for v in map(item.peek, ("input", "action", "operation")) if v is not None), "")
            arguments = json.dumps(given if isinstance(given, dict) else {"input": given}, ensure_ascii=False)
            name = item.text("name") or kind.removesuffix("_call")
            self._turn.calls.append(ToolCall(name, arguments, _call_id(item)))
        elif kind in FOREIGN_OUTPUTS:
            self._flush()
            output = item.peek("output")
            told = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            self.messages.append(Message("tool", told, tool_call_id=_call_id(item)))
        elif kind == "function_call_output":
            self._flush()
            call_id = item.required_text("call_id", filled=True)
            output = joined_text(item.text_or_each("output", _result_part, "parts", need=True)) or ""
            self.messages.append(Message("tool", output, tool_call_id=call_id))
        else:
            item.drop("type", "hosted_item", kind)

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


def _call_id(item: Fields) -> str:
    """Of a foreign call or its output; a local shell's output has it as its id."""
    return item.text("call_id") or item.required_text("id", filled=True)


def _required_text(item: Fields, field: str) -> str:
    """Text, or parts put together."""
    text = item.text_or_each(field, partial(_part, ("input_text", "output_text", "text")), "parts", need=True)
    return joined_text(text) or ""


def _result_part(part: Fields) -> str:
    return result_part(part, "input_text", "output_text", "text")


def _part(kinds: tuple[str, ...], part: Fields) -> str:
    part.ignore_rest()
    part.kind("type", *kinds, hint=f"expected {' or '.join(kinds)}")
    return part.required_text("text")

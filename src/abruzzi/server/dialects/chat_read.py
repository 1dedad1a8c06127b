"""POST /v1/chat/completions, read: OpenAI's chat, field by field. Nothing is ignored."""

from __future__ import annotations

from typing import Any

from abruzzi.server.dialects.chat_write import ChatOutput
from abruzzi.server.dialects.common import (
    EFFORT_NAMES,
    MAX_N,
    MAX_STOP_CHARS,
    MAX_STOPS,
    NOT_HERE,
    by_name,
    fingerprint,
    include_usage,
    joined_text,
    model_name,
    no_penalties,
    read_thinking_object,
    read_tool,
    sampling,
)
from abruzzi.server.dialects.structure_read import answer_format, any_tool, openai_choice, with_answer
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, required
from abruzzi.server.request import ChatRequest, Thinking
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.tokenizer.formats.format import Marker
from abruzzi.tokenizer.formats.k2 import K2
from abruzzi.types import Message, ToolCall

MAX_TOP_LOGPROBS = 20  # OpenAI's
# A thought that a client keeps inside the text of its history.
THOUGHT_OPEN, THOUGHT_CLOSE = (K2.markers[m][0] for m in (Marker.THINK_OPEN, Marker.THINK_CLOSE))
PROMPT = "messages (or prompt_token_ids, not both)"
FUNCTION = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "minLength": 1}, "arguments": {"type": ["string", "object"]}},
}


def read_chat(service: Service, body: Fields, from_ids: bool = True) -> tuple[ChatRequest, ChatOutput]:
    """The request, and how to write its answer. from_ids: whether prompt_token_ids may stand for
    messages.

    Raises ApiError that names what is wrong."""
    model = model_name(service, body)
    exact = from_ids and body.given("prompt_token_ids")
    if not from_ids:
        body.only("prompt_token_ids", hint="these are ids already")
    thinking = read_thinking(body)
    prompt_ids, messages = _prompt(service, body, exact)
    tools, may_call, structure = _tools(body)
    if exact:
        may_call = may_call or not body.has("tool_choice")
        for name in ("tools", "reasoning_effort", "chat_template_kwargs", "thinking"):
            body.only(name, hint="prompt_token_ids are used as they are")
    logprobs, top_logprobs = body.boolean("logprobs") or False, body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS) or 0
    if top_logprobs and not logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", "top_logprobs", "invalid_value")
    params = sampling(
        body,
        _max_tokens(body),
        body.strings("stop", MAX_STOPS, MAX_STOP_CHARS),
        thinking.budget,
        service.settings.temperature,
        top_logprobs=top_logprobs,
    )
    answer, _ = answer_format(body, "response_format", nested=True)
    request = ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        params=params,
        thinking=thinking.enabled,
        effort=thinking.effort,
        preserve_thinking=thinking.preserve,
        may_call=may_call,
        structure=with_answer(structure, answer, params, "stop"),
        n=body.integer("n", 1, MAX_N) or 1,
        prompt_ids=prompt_ids,
    )
    stream = body.boolean("stream") or False
    output = ChatOutput(
        model=model,
        stream=stream,
        include_usage=include_usage(body, stream),
        logprobs=logprobs,
        token_ids=body.boolean("return_token_ids") or False,
        reasoning_field=service.settings.reasoning_field,
        fingerprint=fingerprint(service.settings.isa),
    )
    _no_effect(body)
    return request, output


def read_control(body: Fields) -> str:
    """POST /v1/chat/completions/control ("answer now"): the id of the request to hurry."""
    generation_id = body.required_text("id")
    body.required_choice("action", "reasoning_end")
    return generation_id


def read_thinking(body: Fields) -> Thinking:
    """reasoning_effort, reasoning, thinking, chat_template_kwargs, thinking_token_budget."""
    out = Thinking()
    out.merge_effort("reasoning_effort", body.choice("reasoning_effort", *EFFORT_NAMES))
    out.merge("thinking_token_budget", budget=body.integer("thinking_token_budget", 0))
    reasoning = body.object("reasoning")
    if reasoning is not None:
        out.merge_effort("reasoning.effort", reasoning.choice("effort", *EFFORT_NAMES))
        out.merge("reasoning.max_tokens", budget=reasoning.integer("max_tokens", 0))
        out.merge("reasoning.enabled", enabled=reasoning.boolean("enabled"))
        reasoning.only("exclude", False, hint="leave the field reasoning_content unread instead")
        reasoning.end()
    thinking = body.object("thinking")
    if thinking is not None:
        read_thinking_object(thinking, out)
        out.merge("thinking.keep", preserve=True if thinking.choice("keep", "all") else None)
        thinking.end()
    template = body.object("chat_template_kwargs")
    if template is not None:
        for name in ("thinking", "enable_thinking"):
            out.merge(f"chat_template_kwargs.{name}", enabled=template.boolean(name))
        out.merge("chat_template_kwargs.preserve_thinking", preserve=template.boolean("preserve_thinking"))
        template.end()
    return out.check()


def _prompt(service: Service, body: Fields, exact: bool) -> tuple[tuple[int, ...] | None, tuple[Message, ...]]:
    """Exact prompt ids, or messages."""
    if not exact:
        return None, tuple(body.each("messages", _message, need=True, missing=PROMPT))
    ids = body.token_ids("prompt_token_ids", service.tok.vocab_size, need=True)
    if body.raw("messages", {"enum": [[]]}):
        raise required(PROMPT)
    return ids, ()


def _tools(body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure]:
    """The tools, whether the model may call them, and how."""
    tools, schemas = by_name(body.each("tools", _tool))
    structure = any_tool(schemas, body.boolean("parallel_tool_calls") is not False)
    chosen = openai_choice(structure, body, nested=True)
    return tools, chosen is not None and bool(chosen.arguments), chosen or Structure()


def _tool(entry: Fields) -> tuple[dict[str, Any], Schema]:
    entry.only("type", "function", hint="only functions are tools here")
    function = entry.required_object("function")
    out = read_tool(function, "parameters")
    function.end()
    return out


def _message(fields: Fields) -> Message:
    role = fields.kind("role", "system", "developer", "user", "assistant", "tool")
    content = joined_text(fields.text_or_each("content", _text_part, "text parts"))
    name = fields.text("name")
    fields.only("refusal", hint="this model has no refusals")
    fields.only("audio", hint="text only")
    fields.only("function_call", hint="use tool_calls")
    fields.only("annotations", [], hint="text only")
    fields.label("provider_specific_fields", dict)  # LiteLLM's copy of our fields
    calls, thought = (), None
    if role == "assistant":
        calls = tuple(fields.each("tool_calls", _call))
        thought, content = _thought(fields, content)
    call_id = fields.text("tool_call_id") if role == "tool" else None
    return Message(role, content, thought, calls, call_id, name)


def _text_part(part: Fields) -> str:
    part.only("type", "text", hint="this model reads text only")
    part.label("cache_control", dict)  # every prefix is cached anyway
    return part.required_text("text")


def _call(fields: Fields) -> ToolCall:
    fields.raw("index", {})  # clients send back what the stream gave them; the order says the same
    fields.only("type", "function", hint="only functions are tools here")
    call_id, function = fields.text("id"), fields.raw("function", FUNCTION, need=True)
    try:
        return ToolCall.from_openai({"id": call_id, "type": "function", "function": function})
    except ValueError as error:
        where = fields.name("")[:-1]
        raise ApiError(400, f"{where}: {error}", where, "invalid_value") from None


def _thought(fields: Fields, content: str | None) -> tuple[str | None, str | None]:
    """The thought, under any of its names or in think tags in front of the content; the content."""
    names: dict[str, str | None] = {n: fields.text(n) for n in ("reasoning_content", "reasoning", "thinking")}
    names["reasoning_details"] = "".join(fields.each("reasoning_details", _detail))
    thoughts = {name: text for name, text in names.items() if text}
    if len(set(thoughts.values())) > 1:
        raise ApiError(
            400,
            f"{' and '.join(map(fields.name, thoughts))} differ; hint: send the thought under one name",
            fields.name(next(iter(thoughts))),
            "contradiction",
        )
    if thoughts:
        return next(iter(thoughts.values())), content
    head, opened, rest = (content or "").partition(THOUGHT_OPEN)
    if opened and not head.strip() and THOUGHT_CLOSE in rest:
        thought, _, content = rest.partition(THOUGHT_CLOSE)
        return thought, content
    return None, content


def _detail(detail: Fields) -> str:
    kind = detail.kind("type", "reasoning.text", "reasoning.summary", hint="expected reasoning.text")
    for name in ("id", "format", "index", "signature"):
        detail.raw(name, {})  # other servers' bookkeeping
    return detail.text("text" if kind == "reasoning.text" else "summary") or ""


def _max_tokens(body: Fields) -> int | None:
    limits = [n for n in (body.integer("max_completion_tokens", 1), body.integer("max_tokens", 1)) if n is not None]
    if len(set(limits)) > 1:
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ; hint: send one", "max_completion_tokens", "contradiction"
        )
    return limits[0] if limits else None


def _no_effect(body: Fields) -> None:
    """Fields that may only say what happens anyway, and labels that change no answer."""
    no_penalties(body)
    body.only("repetition_penalty", 1, hint=NOT_HERE)
    body.only("modalities", ["text"], hint="text only")
    body.only("store", False, hint="nothing is stored for you")
    body.only("service_tier", "auto", "default", hint="there is one tier")
    body.only("verbosity", "medium", hint=NOT_HERE)
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        body.label(name, str)
    body.label("metadata", dict)
    for name in ("audio", "prediction", "web_search_options", "functions", "function_call"):
        body.only(name, hint=NOT_HERE)

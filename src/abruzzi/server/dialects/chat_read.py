"""POST /v1/chat/completions, read: OpenAI's chat, field by field."""

from __future__ import annotations

from functools import partial
from typing import Any

from abruzzi.server.dialects.chat_write import ChatOutput
from abruzzi.server.dialects.common import (
    EFFORT_NAMES,
    MAX_N,
    MAX_STOP_CHARS,
    MAX_STOPS,
    by_name,
    fingerprint,
    include_usage,
    joined_text,
    model_name,
    own_tool,
    read_thinking_object,
    read_tool,
    sampling,
)
from abruzzi.server.dialects.foreign_parts import result_part
from abruzzi.server.dialects.neutral import read_neutral
from abruzzi.server.dialects.prefill import split_prefill
from abruzzi.server.dialects.structure_read import answer_format, any_tool, openai_choice, with_answer
from abruzzi.server.errors import ApiError, unsupported
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
    "properties": {"name": {"type": "string", "minLength": 1}, "arguments": {"type": ["string", "object", "null"]}},
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
    prompt_ids, messages, prefill = _prompt(service, body, exact, thinking)
    tools, may_call, structure = _tools(service, body)
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
        prefill=prefill,
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


def _prompt(
    service: Service, body: Fields, exact: bool, thinking: Thinking
) -> tuple[tuple[int, ...] | None, tuple[Message, ...], Message | None]:
    """Exact prompt ids; or messages, and the beginning of the answer where the last one is that."""
    if not exact:
        messages = body.each("messages", _message, need=True, missing=PROMPT)
        marked = any(begins for _, begins in messages[:-1])
        if marked:
            raise ApiError(400, "only the last message can begin the answer", "messages", "invalid_value")
        before, last = tuple(message for message, _ in messages), messages[-1][1]
        return (None, *split_prefill(before, thinking, "messages")) if _continues(body, last) else (None, before, None)
    for name in ("continue_final_message", "add_generation_prompt"):
        body.only(name, name[0] == "a", hint="prompt_token_ids are used as they are")
    ids = body.token_ids("prompt_token_ids", service.tok.vocab_size, need=True)
    if body.raw("messages", {"enum": [[]]}):
        raise required(PROMPT)
    return ids, (), None


def _continues(body: Fields, marked: bool | None) -> bool:
    """Whether a last message of the assistant is continued: yes, unless vLLM's two fields ask for a
    turn of its own.

    marked: what that message says itself (`prefix`, `partial`); None where the last one is not the
    assistant's."""
    goes_on, new_turn = body.boolean("continue_final_message"), body.boolean("add_generation_prompt")
    if (goes_on and new_turn) or (marked and goes_on is False):
        raise ApiError(
            400,
            "the last message cannot be continued and a new turn begun; hint: leave add_generation_prompt out",
            "add_generation_prompt" if new_turn else "continue_final_message",
            "contradiction",
        )
    if marked is None and (goes_on or new_turn is False):
        name = "continue_final_message" if goes_on else "add_generation_prompt"
        raise unsupported(name, bool(goes_on), "only a last message of the assistant can be continued")
    return bool(marked or goes_on or (goes_on is None and not new_turn))


def _tools(service: Service, body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure]:
    """The tools, whether the model may call them, and how."""
    read = body.each("tools", partial(_tool, service))
    tools, schemas = by_name([tool for tool in read if tool is not None])
    structure = any_tool(schemas, body.boolean("parallel_tool_calls") is not False)
    chosen = openai_choice(structure, body, nested=True)
    return tools, chosen is not None and bool(chosen.arguments), chosen or Structure()


def _tool(service: Service, entry: Fields) -> tuple[dict[str, Any], Schema] | None:
    if not own_tool(service, entry, "function", switches={}):
        return None
    entry.ignore_rest()
    function = entry.required_object("function")
    out = read_tool(function, "parameters")
    function.end()
    return out


def _message(fields: Fields) -> tuple[Message, bool | None]:
    """The message; of an assistant's, whether it says itself that it begins the answer, else
    None."""
    fields.ignore_rest()  # clients keep their books in a history: ids, LiteLLM's and OpenRouter's fields
    role = fields.kind("role", "system", "developer", "user", "assistant", "tool")
    read_part = {"assistant": _assistant_part, "tool": _result_part}.get(role, _text_part)
    content = joined_text(fields.text_or_each("content", read_part, "text parts"))
    name = fields.text("name")
    fields.only("refusal", "", hint="this model has no refusals")
    fields.only("audio", hint="text only")
    fields.only("images", [], hint="text only")
    fields.only("function_call", hint="use tool_calls")
    calls, thought, begins = (), None, None
    if role == "assistant":
        calls = tuple(fields.each("tool_calls", _call))
        thought, content = _thought(fields, content)
        # DeepSeek's and Mistral's name of a prefill, and Moonshot's.
        begins = any([fields.boolean("prefix"), fields.boolean("partial")])
    else:
        fields.only("tool_calls", [], hint="only the assistant calls")
    call_id = fields.text("tool_call_id") if role == "tool" else None
    return Message(role, content, thought, calls, call_id, name), begins


def _text_part(part: Fields) -> str:
    part.ignore_rest()
    part.only("type", "text", hint="this model reads text only")
    return part.required_text("text")


def _result_part(part: Fields) -> str:
    return result_part(part, "text")


def _assistant_part(part: Fields) -> str:
    """Text or a refusal; a thought kept as a part is skipped, as it comes under a name of its own
    as well."""
    part.ignore_rest()
    kinds = ("text", "refusal", "thinking", "redacted_thinking", "reasoning")
    kind = part.kind("type", *kinds, hint="this model reads text only", default="text")
    return part.required_text(kind) if kind in ("text", "refusal") else ""


def _call(fields: Fields) -> ToolCall:
    fields.ignore_rest()
    fields.only("type", "function", hint="only functions are tools here")
    call_id, function = fields.text("id"), fields.raw("function", FUNCTION, need=True)
    if isinstance(function, dict) and function.get("arguments") is None:
        function = {**function, "arguments": ""}
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
    blocks = "".join(fields.each("thinking_blocks", _thinking_block))  # LiteLLM's copy of it
    if blocks:
        return blocks, content
    head, opened, rest = (content or "").partition(THOUGHT_OPEN)
    if opened and not head.strip() and THOUGHT_CLOSE in rest:
        thought, _, content = rest.partition(THOUGHT_CLOSE)
        return thought, content
    return None, content


def _detail(detail: Fields) -> str:
    """Of OpenRouter's list; encrypted thoughts and what else there is hold no text."""
    detail.ignore_rest()
    return detail.text("text") or detail.text("summary") or ""


def _thinking_block(block: Fields) -> str:
    block.ignore_rest()
    return block.text("thinking") or ""


def _max_tokens(body: Fields) -> int | None:
    limits = [n for n in (body.integer("max_completion_tokens", 1), body.integer("max_tokens", 1)) if n is not None]
    if len(set(limits)) > 1:
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ; hint: send one", "max_completion_tokens", "contradiction"
        )
    return limits[0] if limits else None


def _no_effect(body: Fields) -> None:
    """Fields that may only say what happens anyway, and labels that change no answer."""
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        body.label(name, str)
    body.label("metadata", dict)
    read_neutral(body)

"""What a POST to /v1/chat/completions may hold, field by field. Nothing is accepted and ignored."""

from __future__ import annotations

from typing import Any

from abruzzi.server.budget import EFFORTS
from abruzzi.server.dialects.chat_write import ChatOutput, fingerprint
from abruzzi.server.dialects.structure_read import answer_format, any_tool, argument_schema, openai_choice, with_answer
from abruzzi.server.errors import ApiError, unsupported
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.request import (
    MAX_N,
    ChatRequest,
    Thinking,
    distinct,
    model_name,
    sampling,
    stop_strings,
    tool,
)
from abruzzi.server.service import Service
from abruzzi.server.structure import Structure
from abruzzi.types import Message, ToolCall, brief

EFFORT_NAMES = ("none", *EFFORTS)
NOT_HERE = "this server does not have it"
MAX_TOP_LOGPROBS = 20  # OpenAI's


def read_chat(service: Service, given: object) -> tuple[ChatRequest, ChatOutput]:
    """The request, and how its answer is wanted. Raises ApiError that names what is wrong."""
    body = Fields(given)
    model = service.require_model(model_name(body))
    thinking = read_thinking(body)
    prompt_ids = body.token_ids("prompt_token_ids", service.tok.vocab_size)
    messages = read_messages(body.items("messages"))
    if (prompt_ids is None) == (not messages):
        raise required("messages (or prompt_token_ids, not both)")
    tools, may_call, structure = read_tools(body)
    if prompt_ids is not None:
        may_call = True if not body.has("tool_choice") else may_call
        for name in ("tools", "reasoning_effort", "chat_template_kwargs", "thinking"):
            if body.has(name):
                raise unsupported(name, body.any(name), "prompt_token_ids are used as they are")
    logprobs, top_logprobs = body.boolean("logprobs") or False, body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS) or 0
    if top_logprobs and not logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", "top_logprobs", "invalid_value")
    params = sampling(
        body,
        _max_tokens(body),
        stop_strings(body, "stop"),
        thinking.budget,
        service.settings.temperature,
        top_logprobs=top_logprobs,
    )
    answer, _ = answer_format(body.object("response_format"), nested=True)
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
    body.end()
    return request, output


def read_thinking(body: Fields) -> Thinking:
    """reasoning_effort, reasoning, thinking, chat_template_kwargs, thinking_token_budget."""
    said = Thinking()
    said.say_effort("reasoning_effort", body.choice("reasoning_effort", *EFFORT_NAMES))
    said.say("thinking_token_budget", budget=body.integer("thinking_token_budget", 0))
    reasoning = body.object("reasoning")
    if reasoning is not None:
        said.say_effort("reasoning.effort", reasoning.choice("effort", *EFFORT_NAMES))
        said.say("reasoning.max_tokens", budget=reasoning.integer("max_tokens", 0))
        said.say("reasoning.enabled", enabled=reasoning.boolean("enabled"))
        reasoning.only("exclude", False, hint="leave the field reasoning_content unread instead")
        reasoning.end()
    thinking = body.object("thinking")
    if thinking is not None:
        kind = thinking.choice("type", "enabled", "disabled", "adaptive")
        said.say("thinking.type", enabled=None if kind is None else kind != "disabled")
        said.say("thinking.budget_tokens", budget=thinking.integer("budget_tokens", 0))
        said.say("thinking.keep", preserve=True if thinking.choice("keep", "all") else None)
        thinking.end()
    template = body.object("chat_template_kwargs")
    if template is not None:
        for name in ("thinking", "enable_thinking"):
            said.say(f"chat_template_kwargs.{name}", enabled=template.boolean(name))
        said.say("chat_template_kwargs.preserve_thinking", preserve=template.boolean("preserve_thinking"))
        template.end()
    return said.check()


def read_tools(body: Fields) -> tuple[tuple[dict[str, Any], ...], bool, Structure]:
    """The tools, whether the model may call them, and how."""
    tools, schemas = [], {}
    for at, given in enumerate(body.items("tools") or []):
        entry = Fields(given, f"tools[{at}]")
        entry.only("type", "function", hint="only functions are tools here")
        function = entry.object("function")
        if function is None:
            raise required(entry.name("function"))
        name, parameters = function.any("name"), function.any("parameters")
        tools.append(tool(name, function.any("description"), parameters, entry.name("function")))
        schemas[name] = argument_schema(function, parameters, "parameters")
        function.end()
        entry.end()
    offered = distinct(tools)
    structure = any_tool(schemas, body.boolean("parallel_tool_calls") is not False)
    chosen = openai_choice(structure, body.any("tool_choice"), nested=True)
    return offered, chosen is not None and bool(chosen.arguments), chosen or Structure()


def include_usage(body: Fields, stream: bool) -> bool:
    """stream_options.include_usage."""
    options = body.object("stream_options")
    if options is None:
        return False
    if not stream:
        raise ApiError(400, "stream_options is only allowed with stream=true", "stream_options", "invalid_value")
    wanted = options.boolean("include_usage") or False
    options.only("include_obfuscation", False, hint="nothing is padded here")
    options.end()
    return wanted


def read_messages(given: list[Any] | None) -> tuple[Message, ...]:
    """OpenAI's messages. Raises ApiError that says which message is wrong."""
    return tuple(_message(Fields(m, f"messages[{at}]")) for at, m in enumerate(given or []))


def _message(fields: Fields) -> Message:
    role = fields.choice("role", "system", "developer", "user", "assistant", "tool")
    if role is None:
        raise required(fields.name("role"))
    content = text_of(fields.any("content"), fields.name("content"))
    name = fields.text("name")
    fields.only("refusal", hint="this model has no refusals")
    fields.only("audio", hint="text only")
    fields.only("function_call", hint="use tool_calls")
    fields.only("annotations", [], hint="text only")
    fields.label("provider_specific_fields", dict)  # LiteLLM's copy of our fields that it has no name for
    calls, thought = (), None
    if role == "assistant":
        calls = tuple(
            _call(c, f"{fields.name('tool_calls')}[{n}]") for n, c in enumerate(fields.items("tool_calls") or [])
        )
        thought, content = _thought(fields, content)
    call_id = fields.text("tool_call_id") if role == "tool" else None
    fields.end()
    return Message(role, content, thought, calls, call_id, name)


def text_of(content: object, name: str) -> str | None:
    """Text, or text parts put together."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(name, "text or a list of text parts", content)
    texts = []
    for at, given in enumerate(content):
        part = Fields(given, f"{name}[{at}]")
        part.only("type", "text", hint="this model reads text only")
        text = part.text("text")
        if text is None:
            raise required(part.name("text"))
        part.label("cache_control", dict)  # every prefix is cached anyway
        part.end()
        texts.append(text)
    return "".join(texts)


def _call(given: object, where: str) -> ToolCall:
    fields = Fields(given, where)
    fields.any("index")  # clients send back what the stream gave them; the order says the same
    try:
        call = ToolCall.from_openai(given if isinstance(given, dict) else {})
    except ValueError as error:
        raise ApiError(400, f"{where}: {error}", where, "invalid_value") from None
    for name in ("id", "type", "function"):
        fields.any(name)
    fields.end()
    return call


def _thought(fields: Fields, content: str | None) -> tuple[str | None, str | None]:
    """The thought under any of its names, or in think tags in front of the content; and the content."""
    said = {name: fields.text(name) for name in ("reasoning_content", "reasoning", "thinking")}
    details = fields.items("reasoning_details")
    if details is not None:
        said["reasoning_details"] = "".join(
            _detail(d, f"{fields.name('reasoning_details')}[{n}]") for n, d in enumerate(details)
        )
    given = {name: text for name, text in said.items() if text}
    if len(set(given.values())) > 1:
        raise ApiError(
            400,
            f"{' and '.join(map(fields.name, given))} differ; hint: send the thought under one name",
            fields.name(next(iter(given))),
            "contradiction",
        )
    if given:
        return next(iter(given.values())), content
    head, opened, rest = (content or "").partition("<think>")
    if opened and not head.strip() and "</think>" in rest:
        thought, _, content = rest.partition("</think>")
        return thought, content
    return None, content


def _detail(given: object, where: str) -> str:
    detail = Fields(given, where)
    kind = detail.any("type")
    if kind not in ("reasoning.text", "reasoning.summary"):
        raise unsupported(detail.name("type"), kind, "expected reasoning.text")
    text = detail.text("text" if kind == "reasoning.text" else "summary") or ""
    for name in ("id", "format", "index", "signature"):
        detail.any(name)  # other servers' bookkeeping
    detail.end()
    return text


def _max_tokens(body: Fields) -> int | None:
    given = [n for n in (body.integer("max_completion_tokens", 1), body.integer("max_tokens", 1)) if n is not None]
    if len(set(given)) > 1:
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ; hint: send one", "max_completion_tokens", "contradiction"
        )
    return given[0] if given else None


def _no_effect(body: Fields) -> None:
    """Fields whose only supported value is what happens anyway, and labels that change no answer."""
    for name in ("frequency_penalty", "presence_penalty"):
        body.only(name, 0, 0.0, hint=NOT_HERE)
    body.only("repetition_penalty", 1, 1.0, hint=NOT_HERE)
    body.only("logit_bias", {}, hint=NOT_HERE)
    body.only("modalities", ["text"], hint="text only")
    body.only("store", False, hint="nothing is stored for you")
    body.only("service_tier", "auto", "default", hint="there is one tier")
    body.only("verbosity", "medium", hint=NOT_HERE)
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        body.label(name, str)
    body.label("metadata", dict)
    for name in ("audio", "prediction", "web_search_options", "functions", "function_call"):
        if body.has(name):
            raise unsupported(name, brief(body.any(name)), NOT_HERE)
        body.any(name)

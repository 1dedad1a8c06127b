"""The API as an OpenAPI 3.1 document, GET /openapi.json: for people, for tools, and for the fuzzer in our tests.

It is written by hand and held to what the server does: schemathesis sends what it allows and what it forbids, and
checks both the refusals and the answers against it. Every field that is read stands here; null counts as absent.
What depends on more than one field (a result without its call, a budget for a thought that is off) is a 400 that says
so, and not in here. A stream is text/event-stream; what its events hold is each dialect's own documentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from abruzzi import __version__
from abruzzi.server.dialects.chat_read import EFFORT_NAMES, MAX_TOP_LOGPROBS
from abruzzi.server.dialects.completions import MAX_PROMPTS
from abruzzi.server.request import MAX_N, MAX_STOPS

Schema = dict[str, Any]


def document(names: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """The whole document. names, vocab_size: of the model that is served."""
    model: Schema = {"enum": [*names, None]}
    ids: Schema = {"type": ["array", "null"], "items": {"type": "integer", "minimum": 0, "maximum": vocab_size - 1}}
    posts = {
        "/v1/chat/completions": ("A chat of OpenAI's dialect", {"anyOf": [*_chat(model, ids)]}, _CHAT_ANSWER, True),
        "/v1/chat/completions/control": ("End the thought of a running request", _CONTROL, _CONTROL_ANSWER, False),
        "/v1/completions": ("Continue bare prompts", _completion(model, ids), _COMPLETION_ANSWER, True),
        "/v1/messages": ("A chat of Anthropic's dialect", _messages(model, ["max_tokens"]), _MESSAGES_ANSWER, True),
        "/v1/messages/count_tokens": ("Count its prompt", _messages(model, []), _object(input_tokens=_COUNT), False),
        "/v1/responses": ("A chat of OpenAI's newer dialect", _responses(model), _RESPONSE_ANSWER, True),
        "/tokenize": ("Ids of a text, or of the prompt of a chat", _tokenize(model, ids), _TOKENIZE_ANSWER, False),
        "/detokenize": ("The text of ids", _body(["tokens"], model=model, tokens=ids), _TEXTS_ANSWER, False),
    }
    gets = {
        "/v1/models": ("What is served", "application/json", _object(object=_STRING, data=_LIST)),
        "/v1/models/{model}": ("One of them", "application/json", _object(id=_STRING, object=_STRING)),
        "/health": ("Whether it works, and what it does", "application/json", _object(status=_STRING)),
        "/ready": ("The same", "application/json", _object(status=_STRING)),
        "/version": ("Which server this is", "application/json", _object(version=_STRING, system_fingerprint=_STRING)),
        "/metrics": ("Counters, for Prometheus", "text/plain", _STRING),
        "/openapi.json": ("This document", "application/json", _object(openapi=_STRING, paths={"type": "object"})),
    }
    paths: dict[str, Any] = {path: {"post": _post(path, *what)} for path, what in posts.items()}
    paths |= {path: {"get": _get(path, *what)} for path, what in gets.items()}
    named = {"name": "model", "in": "path", "required": True, "schema": {"enum": [*names]}}
    paths["/v1/models/{model}"]["get"]["parameters"] = [named]
    return {
        "openapi": "3.1.0",
        "info": {"title": "abruzzi", "version": __version__, "description": "The server of `abruzzi serve`."},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        },
    }


# words


_STRING: Schema = {"type": "string"}
_TEXT: Schema = {"type": ["string", "null"]}
_FLAG: Schema = {"type": ["boolean", "null"]}
_LIST: Schema = {"type": "array"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_LABEL: Schema = {"type": ["object", "null"]}
_EFFORT: Schema = {"enum": [*EFFORT_NAMES, None]}
_ANY: Schema = {}


def _number(low: float, high: float) -> Schema:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def _integer(low: int, high: int = 2**63 - 1) -> Schema:
    return {"type": ["integer", "null"], "minimum": low, "maximum": high}


def _only(*values: Any) -> Schema:
    """A field that may only say what is so anyway."""
    return {"enum": [*values, None]}


def _list(items: Schema) -> Schema:
    return {"type": ["array", "null"], "items": items}


def _body(required: list[str], **properties: Schema) -> Schema:
    """An object of known fields."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _optional(**properties: Schema) -> Schema:
    return {**_body([], **properties), "type": ["object", "null"]}


def _object(**properties: Schema) -> Schema:
    """An object of an answer: these are there, others may be."""
    return {"type": "object", "required": list(properties), "properties": properties}


# requests


_STOPS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
        {"type": "null"},
    ]
}
_TEXT_PART = _body(["text"], type=_only("text"), text=_STRING, cache_control=_LABEL)
_CONTENT: Schema = {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": _TEXT_PART}]}
_SAMPLING = {
    "temperature": _number(0, 2),
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "top_k": _integer(-1),
    "min_p": _number(0, 1),
    "seed": _integer(-(2**63)),
    "stop_token_ids": {**_list(_COUNT), "maxItems": MAX_STOPS},
    "stream": _FLAG,
    "user": _TEXT,
}
_STREAM_OPTIONS = _optional(include_usage=_FLAG, include_obfuscation=_only(False))
_THINKING = {"type": {"enum": ["enabled", "disabled", "adaptive", None]}, "budget_tokens": _integer(0)}
_TOOL = _body(["name"], name={"type": "string", "minLength": 1}, description=_TEXT, parameters=_LABEL, strict=_FLAG)


def _chat(model: Schema, ids: Schema) -> tuple[Schema, Schema]:
    """With messages, and with exact prompt ids in their place."""
    call = {"type": "object", "properties": {"function": {"type": "object"}}}
    message = _body(
        ["role"],
        role={"enum": ["system", "developer", "user", "assistant", "tool"]},
        content=_CONTENT,
        name=_TEXT,
        tool_calls=_list(call),
        tool_call_id=_TEXT,
        reasoning_content=_TEXT,
        reasoning=_TEXT,
        thinking=_TEXT,
        reasoning_details=_list({"type": "object"}),
        refusal=_only(),
        audio=_only(),
        function_call=_only(),
        annotations=_only([]),
        provider_specific_fields=_LABEL,
    )
    template = _optional(thinking=_FLAG, enable_thinking=_FLAG, preserve_thinking=_FLAG)
    reasoning = _optional(effort=_EFFORT, max_tokens=_integer(0), enabled=_FLAG, exclude=_only(False))
    both = dict(
        model=model,
        **_SAMPLING,
        return_token_ids=_FLAG,
        max_tokens=_integer(1),
        max_completion_tokens=_integer(1),
        n=_integer(1, MAX_N),
        stop=_STOPS,
        logprobs=_FLAG,
        top_logprobs=_integer(0, MAX_TOP_LOGPROBS),
        stream_options=_STREAM_OPTIONS,
        parallel_tool_calls=_FLAG,
        response_format=_LABEL,
        thinking_token_budget=_integer(0),
        frequency_penalty=_only(0),
        presence_penalty=_only(0),
        repetition_penalty=_only(1),
        logit_bias=_only({}),
        modalities=_only(["text"]),
        store=_only(False),
        service_tier=_only("auto", "default"),
        verbosity=_only("medium"),
        safety_identifier=_TEXT,
        prompt_cache_key=_TEXT,
        metadata=_LABEL,
        **dict.fromkeys(("audio", "prediction", "web_search_options", "functions", "function_call"), _only()),
    )
    chat = _body(
        ["messages"],
        messages={"type": "array", "minItems": 1, "items": message},
        prompt_token_ids=_only(),
        tools=_list(_body(["function"], type=_only("function"), function=_TOOL)),
        tool_choice=_ANY,
        reasoning_effort=_EFFORT,
        reasoning=reasoning,
        thinking=_optional(**_THINKING, keep=_only("all")),
        chat_template_kwargs=template,
        **both,
    )
    exact = _body(["prompt_token_ids"], prompt_token_ids={**ids, "type": "array"}, messages=_only([]), **both)
    return chat, exact


def _completion(model: Schema, ids: Schema) -> Schema:
    some = {**ids, "type": "array"}
    several = {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"anyOf": [_STRING, some]}}
    return _body(
        ["prompt"],
        model=model,
        **_SAMPLING,
        prompt={"anyOf": [_STRING, some, several]},
        max_tokens=_integer(1),
        n=_integer(1, MAX_N),
        best_of=_integer(1, MAX_N),
        echo=_FLAG,
        logprobs=_integer(0, 5),
        stop=_STOPS,
        stream_options=_STREAM_OPTIONS,
        return_token_ids=_FLAG,
        suffix=_only(""),
        frequency_penalty=_only(0),
        presence_penalty=_only(0),
        logit_bias=_only({}),
    )


def _messages(model: Schema, required: list[str]) -> Schema:
    text = _body(["type", "text"], type={"const": "text"}, text=_STRING, citations=_only([]), cache_control=_LABEL)
    # Where there can be nothing but text, its type may be left out.
    plain = _body(["text"], type=_only("text"), text=_STRING, citations=_only([]), cache_control=_LABEL)
    use = _body(
        ["type", "id", "name", "input"],
        type={"const": "tool_use"},
        id={"type": "string", "minLength": 1},
        name={"type": "string", "minLength": 1},
        input={"type": "object"},
        caller=_optional(type=_only("direct")),
        cache_control=_LABEL,
    )
    result = _body(
        ["type", "tool_use_id"],
        type={"const": "tool_result"},
        tool_use_id={"type": "string", "minLength": 1},
        content={"anyOf": [_TEXT, {"type": "array", "items": plain}]},
        is_error=_FLAG,
        cache_control=_LABEL,
    )
    thought = _body(["type"], type={"const": "thinking"}, thinking=_TEXT, signature=_TEXT, cache_control=_LABEL)

    def turn(role: str, *blocks: Schema) -> Schema:
        content = {"anyOf": [_STRING, {"type": "array", "items": {"anyOf": [*blocks]}}]}
        return _body(["role", "content"], role={"const": role}, content=content)

    message = {"anyOf": [turn("user", text, result), turn("assistant", thought, text, use), turn("system", text)]}
    edit = _body(["type"], type={"const": "clear_thinking_20251015"}, keep=_only("all", {"type": "all"}))
    tool = _body(
        ["name"],
        type=_only("custom"),
        name={"type": "string", "minLength": 1},
        description=_TEXT,
        input_schema=_LABEL,
        strict=_FLAG,
        defer_loading=_only(False),
        eager_input_streaming=_FLAG,
        cache_control=_LABEL,
    )
    fields = {name: schema for name, schema in _SAMPLING.items() if name != "user"}
    return _body(
        ["messages", *required],
        model=model,
        **{**fields, "temperature": _number(0, 1)},
        messages={"type": "array", "minItems": 1, "items": message},
        max_tokens={**_integer(1), "type": "integer"} if required else _integer(1),
        system={"anyOf": [_TEXT, {"type": "array", "items": plain}]},
        stop_sequences=_STOPS,
        tools=_list(tool),
        tool_choice=_LABEL,
        thinking=_optional(**_THINKING, display=_only("summarized")),
        output_config=_LABEL,
        output_format=_LABEL,
        preserve_thinking=_FLAG,
        context_management=_optional(edits=_list(edit)),
        metadata=_optional(user_id=_TEXT),
        cache_control=_LABEL,
        service_tier=_only("auto", "standard_only"),
        **dict.fromkeys(("container", "mcp_servers", "inference_geo", "speed"), _only()),
    )


def _responses(model: Schema) -> Schema:
    def parts(*kinds: str) -> Schema:
        part = _body(["type", "text"], type={"enum": [*kinds]}, text=_STRING, annotations=_only([]), logprobs=_only([]))
        return {"anyOf": [_STRING, {"type": "array", "items": part}]}

    def item(kind: str | None, required: list[str], **properties: Schema) -> Schema:
        kept = dict.fromkeys(("id", "status", "phase"), _ANY)
        named = {"type": {"const": kind} if kind else _only("message")}
        return _body([*(["type"] if kind else []), *required], **named, **kept, **properties)

    spoken, call_id = parts("input_text", "output_text", "text"), {"type": "string", "minLength": 1}
    roles = {"enum": ["user", "assistant", "system", "developer"]}
    call = {"name": call_id, "call_id": call_id, "arguments": _STRING}
    thought = {"content": parts("reasoning_text", "text"), "summary": parts("summary_text"), "encrypted_content": _TEXT}
    kinds = [
        item(None, ["role", "content"], role=roles, content=spoken),
        item("reasoning", [], **thought),
        item("function_call", [*call], **call),
        item("function_call_output", ["call_id", "output"], call_id=call_id, output=spoken),
    ]
    items = {"type": "array", "minItems": 1, "items": {"anyOf": kinds}}
    reasoning = _optional(effort=_EFFORT, summary=_only("auto", "detailed"), generate_summary=_only())
    return _body(
        ["input"],
        model=model,
        **_SAMPLING,
        input={"anyOf": [_STRING, items]},
        instructions=_TEXT,
        max_output_tokens=_integer(1),
        stop=_STOPS,
        tools=_list({"type": "object", "required": ["type", "name"]}),
        tool_choice=_ANY,
        parallel_tool_calls=_FLAG,
        text=_LABEL,
        reasoning=reasoning,
        thinking_token_budget=_integer(0),
        preserve_thinking=_FLAG,
        include=_list({"const": "reasoning.encrypted_content"}),
        metadata=_LABEL,
        store=_only(False),
        background=_only(False),
        truncation=_only("disabled"),
        service_tier=_only("auto", "default"),
        top_logprobs=_only(0),
        stream_options=_optional(include_obfuscation=_only(False)),
        safety_identifier=_TEXT,
        prompt_cache_key=_TEXT,
        prompt_cache_retention=_TEXT,
        **dict.fromkeys(
            ("previous_response_id", "conversation", "prompt", "max_tool_calls", "context_management"), _only()
        ),
    )


def _tokenize(model: Schema, ids: Schema) -> Schema:
    text = _body(
        [],
        model=model,
        prompt=_TEXT,
        content=_TEXT,
        parse_special=_FLAG,
        add_special_tokens=_only(False),
        add_special=_only(False),
    )
    return {"anyOf": [text, _chat(model, ids)[0]]}


_CONTROL = _body(["id", "action"], id=_STRING, action={"const": "reasoning_end"})


# answers


_EVENT: Schema = {**_object(data=_STRING), "properties": {"data": _STRING, "event": _STRING}}
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_FINISH = {"enum": ["stop", "length", "tool_calls"]}
_CHAT_ANSWER = _object(
    id=_STRING,
    object={"const": "chat.completion"},
    created=_COUNT,
    model=_STRING,
    choices={
        "type": "array",
        "minItems": 1,
        "items": _object(
            index=_COUNT, message=_object(role={"const": "assistant"}, content=_TEXT), finish_reason=_FINISH
        ),
    },
    usage=_USAGE,
)
_COMPLETION_ANSWER = _object(
    id=_STRING,
    object={"const": "text_completion"},
    choices={
        "type": "array",
        "minItems": 1,
        "items": _object(index=_COUNT, text=_STRING, finish_reason={"enum": ["stop", "length"]}),
    },
    usage=_USAGE,
)
_MESSAGES_ANSWER = _object(
    id=_STRING,
    type={"const": "message"},
    role={"const": "assistant"},
    content={"type": "array", "items": _object(type={"enum": ["thinking", "text", "tool_use"]})},
    stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
    usage=_object(input_tokens=_COUNT, output_tokens=_COUNT),
)
_RESPONSE_ANSWER = _object(
    id=_STRING,
    object={"const": "response"},
    status={"enum": ["completed", "incomplete"]},
    output={"type": "array", "items": _object(type={"enum": ["reasoning", "message", "function_call"]})},
    usage=_object(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT),
)
_CONTROL_ANSWER = _object(id=_STRING, action=_STRING, applied={"type": "boolean"})
_TOKENIZE_ANSWER = _object(tokens={"type": "array", "items": _COUNT}, count=_COUNT, max_model_len=_COUNT)
_TEXTS_ANSWER = _object(prompt=_STRING, content=_STRING)
_DETAIL = _object(message={"type": "string", "minLength": 1}, type=_STRING, param=_TEXT, code=_TEXT)


def _post(path: str, summary: str, body: Schema, answer: Schema, streams: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": _EVENT}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer", "content": content}, **_refusals(path)},
    }


def _get(path: str, summary: str, kind: str, answer: Schema) -> dict[str, Any]:
    return {
        "operationId": "get_" + path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "summary": summary,
        "responses": {"200": {"description": "The answer", "content": {kind: {"schema": answer}}}, **_refusals(path)},
    }


def _refusals(path: str) -> Mapping[str, Any]:
    """4XX: what the client did wrong. 503: it shuts down, or the engine cannot take it."""
    anthropic = path.startswith("/v1/messages")
    error = _object(type={"const": "error"}, error=_DETAIL) if anthropic else _object(error=_DETAIL)
    says = {"content": {"application/json": {"schema": error}}}
    health = {"description": "Shutting down"} if path in ("/health", "/ready") else {**says, "description": "Not now"}
    return {"4XX": {**says, "description": "Refused; the message says why"}, "503": health}

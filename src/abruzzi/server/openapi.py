"""GET /openapi.json: the OpenAPI 3.1 document, for people, tools, and the fuzzer in our tests.

The requests are derived from the readers (request_schema.py); paths and answers are written here.
schemathesis sends what the document allows and what it forbids, and checks refusals and answers
against it. null counts as absent. What depends on more than one field (a result without its call, a
budget for a thought that is off) is a 400 that says so, and not in here. A stream is
text/event-stream; what its events hold is each dialect's own documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from abruzzi import __version__
from abruzzi.server.dialects.chat_read import read_chat, read_control
from abruzzi.server.dialects.completions import read_completion
from abruzzi.server.dialects.messages_read import read_messages
from abruzzi.server.dialects.responses_read import read_response
from abruzzi.server.dialects.tokens import read_ids, read_text
from abruzzi.server.fields import Fields, JsonSchema
from abruzzi.server.request_schema import any_of, schema_of
from abruzzi.server.service import Service

Reader = Callable[[Fields], Any]


def readers(service: Service) -> dict[str, tuple[Reader, ...]]:
    """What reads the body of a POST, by its path; one of several, where there are several."""
    return {
        "/v1/chat/completions": (partial(read_chat, service),),
        "/v1/chat/completions/control": (read_control,),
        "/v1/completions": (partial(read_completion, service),),
        "/v1/messages": (partial(read_messages, service),),
        "/v1/messages/count_tokens": (partial(read_messages, service, count_only=True),),
        "/v1/responses": (partial(read_response, service),),
        "/tokenize": (partial(read_text, service), partial(read_chat, service, from_ids=False)),
        "/detokenize": (partial(read_ids, service),),
    }


def document(service: Service) -> dict[str, Any]:
    """The whole document, for the model that is served."""
    bodies = {path: any_of([schema_of(read) for read in some]) for path, some in readers(service).items()}
    paths: dict[str, Any] = {path: {"post": _post(path, body, *_POSTS[path])} for path, body in bodies.items()}
    paths |= {path: {"get": _get(path, *what)} for path, what in _GETS.items()}
    named = {"name": "model", "in": "path", "required": True, "schema": {"enum": [*service.settings.names]}}
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


# answers


def _object(**properties: JsonSchema) -> JsonSchema:
    """An object of an answer: these are there, others may be."""
    return {"type": "object", "required": list(properties), "properties": properties}


_STRING: JsonSchema = {"type": "string"}
_TEXT: JsonSchema = {"type": ["string", "null"]}
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
_EVENT: JsonSchema = {**_object(data=_STRING), "properties": {"data": _STRING, "event": _STRING}}
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


# path: summary, answer, whether it can be streamed
_POSTS: dict[str, tuple[str, JsonSchema, bool]] = {
    "/v1/chat/completions": ("A chat of OpenAI's dialect", _CHAT_ANSWER, True),
    "/v1/chat/completions/control": ("End the thought of a running request", _CONTROL_ANSWER, False),
    "/v1/completions": ("Continue bare prompts", _COMPLETION_ANSWER, True),
    "/v1/messages": ("A chat of Anthropic's dialect", _MESSAGES_ANSWER, True),
    "/v1/messages/count_tokens": ("Count its prompt", _object(input_tokens=_COUNT), False),
    "/v1/responses": ("A chat of OpenAI's newer dialect", _RESPONSE_ANSWER, True),
    "/tokenize": ("Ids of a text, or of the prompt of a chat", _TOKENIZE_ANSWER, False),
    "/detokenize": ("The text of ids", _TEXTS_ANSWER, False),
}
# path: summary, content type, answer
_GETS: dict[str, tuple[str, str, JsonSchema]] = {
    "/v1/models": ("What is served", "application/json", _object(object=_STRING, data={"type": "array"})),
    "/v1/models/{model}": ("One of them", "application/json", _object(id=_STRING, object=_STRING)),
    "/health": ("Whether it works, and what it does", "application/json", _object(status=_STRING)),
    "/ready": ("The same", "application/json", _object(status=_STRING)),
    "/version": ("Which server this is", "application/json", _object(version=_STRING, system_fingerprint=_STRING)),
    "/metrics": ("Counters, for Prometheus", "text/plain", _STRING),
    "/openapi.json": ("This document", "application/json", _object(openapi=_STRING, paths={"type": "object"})),
}


def _post(path: str, body: JsonSchema, summary: str, answer: JsonSchema, streams: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": _EVENT}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer", "content": content}, **_refusals(path)},
    }


def _get(path: str, summary: str, kind: str, answer: JsonSchema) -> dict[str, Any]:
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

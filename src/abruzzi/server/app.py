"""The ASGI application: routes that read a body, ask the service and answer in their dialect.

`make_app` needs a Service whose engine thread runs; `cli/serve.py` puts them together. The page at
`/` is one more route; what answers must look like is compiled in structure.py before a generation
starts.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from abruzzi import __version__
from abruzzi.server.body import read_fields, scope_of
from abruzzi.server.dialects.chat_read import read_chat, read_control
from abruzzi.server.dialects.chat_write import ChatEncoder
from abruzzi.server.dialects.common import fingerprint
from abruzzi.server.dialects.completions import CompletionEncoder, read_completion, score_prompts
from abruzzi.server.dialects.messages_read import read_messages
from abruzzi.server.dialects.messages_write import MessagesEncoder
from abruzzi.server.dialects.responses_read import read_response
from abruzzi.server.dialects.responses_write import ResponsesEncoder
from abruzzi.server.dialects.tokens import ids_json, read_ids, read_text
from abruzzi.server.errors import ApiError, error_body
from abruzzi.server.fields import Dropped, Fields
from abruzzi.server.generation import Generation
from abruzzi.server.guard import Guard
from abruzzi.server.path_hint import path_hint
from abruzzi.server.request import ChatRequest
from abruzzi.server.service import Service
from abruzzi.server.sse import Encoder, EventStream, encoded, to_json, unless_gone

T = TypeVar("T")
LOG = logging.getLogger("abruzzi.server")
DROPPED_HEADER = "X-Abruzzi-Dropped"  # fields and items that were taken without effect
CLIENT_GONE = 499  # nobody reads it; it is for the log
Handler = Callable[[Service, Request], Awaitable[Response]]


def make_app(
    service: Service,
    host: str = "127.0.0.1",
    api_key: str | None = None,
    hosts: Iterable[str] = (),
    routes: Iterable[BaseRoute] = (),
    open_paths: Iterable[str] = (),
) -> ASGIApp:
    """The ASGI application behind its guard. host: where it is bound; hosts: further names for it.

    routes: more of them (the page); those whose path is in open_paths are served without the
    key."""
    posts: dict[str, Handler] = {
        "/v1/chat/completions": _chat,
        "/v1/chat/completions/control": _control,
        "/v1/completions": _completions,
        "/v1/messages": _messages,
        "/v1/messages/count_tokens": _count_tokens,
        "/v1/responses": _responses,
        "/tokenize": _tokenize,
        "/detokenize": _detokenize,
    }
    gets: dict[str, Handler] = {
        "/v1/models": _models,
        "/v1/models/{model:path}": _models,
        "/health": _health,
        "/ready": _health,
        "/version": _version,
        "/metrics": _metrics,
        "/openapi.json": _openapi,
    }
    own = [
        Route(path, _border(service, path, handler), methods=[method])
        for method, table in (("POST", posts), ("GET", gets))
        for path, handler in table.items()
    ]
    methods = {path: method for method, table in (("POST", posts), ("GET", gets)) for path in table}
    handlers = {HTTPException: partial(_http_exception, methods), ApiError: _api_error}
    app = Starlette(routes=[*own, *routes], exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, host, api_key, hosts, open_paths)


def _border(service: Service, path: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Error boundary: every failure becomes an answer in the dialect of the path."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await handler(service, request)
        except ApiError as error:
            response = _error(request, error)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        except Exception:
            LOG.exception("%s failed", path)
            response = _error(request, ApiError(500, "internal error; hint: the server's log says more"))
        dropped: Dropped | None = getattr(request.state, "dropped", None)
        if dropped is not None and dropped.names:
            response.headers[DROPPED_HEADER] = dropped.header()
            service.metrics.dropped.update(dropped.counts)
        service.metrics.answered(path, response.status_code)
        return response

    return endpoint


# generations


async def _chat(service: Service, request: Request) -> Response:
    chat, output = await _read(service, request, partial(read_chat, service))
    generation = await service.start(scope_of(service, request), chat, "chatcmpl-")
    return await _answer(service, request, generation, ChatEncoder(service.tok, generation, output), output.stream)


async def _completions(service: Service, request: Request) -> Response:
    asked = await _read(service, request, partial(read_completion, service))
    scored = await score_prompts(service, asked)
    generation = service.start_raw(scope_of(service, request), asked.prompts, asked.params, asked.n)
    return await _answer(
        service, request, generation, CompletionEncoder(service.tok, generation, asked, scored), asked.stream
    )


async def _messages(service: Service, request: Request) -> Response:
    chat, output = await _read(service, request, partial(read_messages, service))
    generation = await service.start(scope_of(service, request), chat, "msg_", "toolu_")
    return await _answer(service, request, generation, MessagesEncoder(generation, output), output.stream)


async def _count_tokens(service: Service, request: Request) -> Response:
    chat, _ = await _read(service, request, partial(read_messages, service, count_only=True))
    return _json({"input_tokens": len((await service.counted(scope_of(service, request), chat)).ids)})


async def _responses(service: Service, request: Request) -> Response:
    chat, output = await _read(service, request, partial(read_response, service))
    generation = await service.start(scope_of(service, request), chat, "resp_")
    return await _answer(service, request, generation, ResponsesEncoder(generation, output), output.stream)


async def _answer(
    service: Service, request: Request, generation: Generation, encoder: Encoder, stream: bool
) -> Response:
    if stream:
        pieces = encoded(encoder, generation)
        return EventStream(pieces, generation.close, generation.headers, service.settings.ping_seconds)
    ends = await unless_gone(request.receive, generation.ends(), generation.close)
    if ends is None:
        return Response(status_code=CLIENT_GONE)
    return _json(encoder.body(ends), headers=generation.headers)


async def _control(service: Service, request: Request) -> Response:
    """ "Answer now": closes the thought of a running request, for the client that made it."""
    generation_id = await _read(service, request, read_control)
    scope, generation = service.running.get(generation_id, (b"", None))
    if generation is None or scope != scope_of(service, request):
        raise ApiError(404, f"no request {generation_id!r:.80} is running", "id", "not_running")
    applied = [choice.answer_now() for choice in generation.choices]
    return _json({"id": generation_id, "action": "reasoning_end", "applied": any(applied)})


# tokens


async def _tokenize(service: Service, request: Request) -> Response:
    """The ids of a text, or of the prompt that a chat request would be rendered to."""

    def read(body: Fields) -> ChatRequest | list[int]:
        return read_chat(service, body, from_ids=False)[0] if body.has("messages") else read_text(service, body)

    asked = await _read(service, request, read)
    ids = asked if isinstance(asked, list) else (await service.counted(scope_of(service, request), asked)).ids
    text = await service.offload.run(len(ids), ids_json, ids)
    return Response(
        b'{"tokens":%b,"count":%d,"max_model_len":%d}' % (text, len(ids), service.llm.max_context),
        media_type="application/json",
    )


async def _detokenize(service: Service, request: Request) -> Response:
    text = await _read(service, request, partial(read_ids, service))
    return _json({"prompt": text, "content": text})


# models, health, metrics


async def _models(service: Service, request: Request) -> Response:
    """OpenAI's list with Anthropic's fields beside it, or one model."""
    name = request.path_params.get("model")
    if name == "":
        raise ApiError(404, "a model without a name; hint: GET /v1/models lists them", None, "wrong_route")
    cards = [_model_card(service, served) for served in service.settings.names]
    if name is not None:
        service.require_model(name)
        return _json(next(c for c in cards if c["id"] == name))
    ends = {"has_more": False, "first_id": cards[0]["id"], "last_id": cards[-1]["id"]}
    return _json({"object": "list", "data": cards, **ends})


def _model_card(service: Service, name: str) -> dict[str, Any]:
    from datetime import UTC, datetime

    started = service.settings.started
    return {
        "id": name,
        "object": "model",
        "created": started,
        "owned_by": "abruzzi",
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(started, UTC).isoformat().replace("+00:00", "Z"),
        "max_model_len": service.llm.max_context,
        "capabilities": ["completion", "thinking", "tools"],
    }


async def _health(service: Service, request: Request) -> Response:
    closing = service.engine.closing
    out: dict[str, Any] = {"status": "shutting_down" if closing else "ok"}
    if request.state.authorized:
        load = service.engine.occupancy()
        out |= {
            "model": service.settings.names[0],
            "isa": service.settings.isa,
            "context": service.llm.max_context,
            "queue": {
                "open": service.engine.open,
                "limit": service.engine.max_sequences,
                "running": load.running,
                "waiting": load.waiting,
            },
            "cache_blocks": {"held": load.blocks_held, "total": load.blocks},
            "engine_failures": service.engine.failures,
            "store_failures": service.store.failures,
            "version": __version__,
        }
    return _json(out, 503 if closing else 200)


async def _version(service: Service, request: Request) -> Response:
    return _json({"version": __version__, "system_fingerprint": fingerprint(service.settings.isa)})


async def _metrics(service: Service, request: Request) -> Response:
    engine, store = service.engine, service.store
    text = service.metrics.text(engine.occupancy(), engine.open, engine.failures, store.count(), store.failures)
    return Response(text, media_type="text/plain; version=0.0.4")


async def _openapi(service: Service, request: Request) -> Response:
    from abruzzi.server.openapi import document  # only who asks pays for it

    return _json(document(service))


# parts


async def _read(service: Service, request: Request, read: Callable[[Fields], T]) -> T:
    """What a dialect's reader makes of the body. Raises ApiError."""
    return await read_fields(service, request, read)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, "application/json")


def _error(request: Request, error: ApiError) -> Response:
    return _json(error_body(request.url.path, error), error.status, error.headers())


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(request, error)


def _http_exception(paths: Mapping[str, str], request: Request, error: Exception) -> Response:
    """What the router says: no such path, or not with this method. paths: of our routes, with their
    methods."""
    assert isinstance(error, HTTPException)
    path, hint = request.url.path, "GET /openapi.json lists what there is"
    if error.status_code == 405:
        what = f"{request.method} is not possible at"
        allowed = (error.headers or {}).get("Allow", "")
        hint = f"use {allowed}" if allowed else hint
    elif error.status_code == 404:
        what, hint = "there is nothing at", path_hint(path, paths) or hint
    else:
        what = error.detail
    message = f"{what} {path!r:.100}; hint: {hint}"
    failed = ApiError(error.status_code, message, None, "wrong_route", extra_headers=error.headers)
    return _error(request, failed)

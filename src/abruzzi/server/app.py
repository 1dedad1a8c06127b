"""The routes: read a body, ask the service, write the answer in the dialect of the path.

`make_app` needs a Service whose engine thread runs; `cli/serve.py` puts them together. The page at `/`
is one more route; what answers must look like is compiled in structure.py before a generation starts.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from abruzzi import __version__
from abruzzi.server.body import read_body, scope_of
from abruzzi.server.dialects.chat_read import read_chat
from abruzzi.server.dialects.chat_write import ChatEncoder, fingerprint
from abruzzi.server.dialects.completions import CompletionEncoder, read_completion, score_prompts
from abruzzi.server.dialects.messages_read import read_message_request
from abruzzi.server.dialects.messages_write import MessagesEncoder
from abruzzi.server.dialects.responses_read import read_response_request
from abruzzi.server.dialects.responses_write import ResponsesEncoder
from abruzzi.server.errors import ApiError, error_body
from abruzzi.server.fields import Fields, required
from abruzzi.server.generation import Generation
from abruzzi.server.guard import Guard
from abruzzi.server.service import Service
from abruzzi.server.sse import Encoder, EventStream, encoded, to_json, unless_gone

LOG = logging.getLogger("abruzzi.server")
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

    routes: more of them (the page); those whose path is in open_paths are served without the key."""
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
    handlers = {HTTPException: _http_exception, ApiError: _api_error}
    app = Starlette(routes=[*own, *routes], exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, host, api_key, hosts, open_paths)


def _border(service: Service, path: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Every failure becomes an answer in the dialect of the path."""

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
        service.metrics.answered(path, response.status_code)
        return response

    return endpoint


# generations


async def _chat(service: Service, request: Request) -> Response:
    chat, output = read_chat(service, await read_body(service, request))
    generation = await service.start(scope_of(service, request), chat, "chatcmpl-")
    return await _answer(service, request, generation, ChatEncoder(service.tok, generation, output), output.stream)


async def _completions(service: Service, request: Request) -> Response:
    wanted = read_completion(service, await read_body(service, request))
    scored = await score_prompts(service, wanted)
    generation = service.start_raw(scope_of(service, request), wanted.prompts, wanted.params, wanted.n)
    return await _answer(
        service, request, generation, CompletionEncoder(service.tok, generation, wanted, scored), wanted.stream
    )


async def _messages(service: Service, request: Request) -> Response:
    wanted, output = read_message_request(service, await read_body(service, request))
    generation = await service.start(scope_of(service, request), wanted, "msg_", "toolu_")
    return await _answer(service, request, generation, MessagesEncoder(generation, output), output.stream)


async def _count_tokens(service: Service, request: Request) -> Response:
    wanted, _ = read_message_request(service, await read_body(service, request), count_only=True)
    ids = service.render(wanted, service.history(scope_of(service, request), wanted))
    return _json({"input_tokens": len(ids)})


async def _responses(service: Service, request: Request) -> Response:
    wanted, output = read_response_request(service, await read_body(service, request))
    generation = await service.start(scope_of(service, request), wanted, "resp_")
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
    body = Fields(await read_body(service, request))
    generation_id = body.text("id")
    if generation_id is None:
        raise required("id")
    if body.choice("action", "reasoning_end") is None:
        raise required("action")
    body.end()
    scope, generation = service.running.get(generation_id, (b"", None))
    if generation is None or scope != scope_of(service, request):
        raise ApiError(404, f"no request {generation_id!r:.80} is running", "id", "not_running")
    applied = [choice.answer_now() for choice in generation.choices]
    return _json({"id": generation_id, "action": "reasoning_end", "applied": any(applied)})


# tokens


async def _tokenize(service: Service, request: Request) -> Response:
    """The ids of a text, or of the prompt that a chat request would be rendered to."""
    given = await read_body(service, request)
    body = Fields(given)
    if body.has("messages"):
        chat, _ = read_chat(service, given)
        ids = list(service.render(chat, service.history(scope_of(service, request), chat)))
    else:
        service.require_model(body.text("model"))
        texts = [t for t in (body.text("prompt"), body.text("content")) if t is not None]
        if len(texts) != 1:
            raise required("prompt (or content, or messages)")
        special = body.boolean("parse_special") or False
        body.only("add_special_tokens", False, hint="text is encoded as it is; use messages for a chat's prompt")
        body.only("add_special", False, hint="text is encoded as it is; use messages for a chat's prompt")
        body.end()
        ids = encode(service, texts[0], "prompt", special)
    return _json({"tokens": ids, "count": len(ids), "max_model_len": service.llm.max_context})


async def _detokenize(service: Service, request: Request) -> Response:
    body = Fields(await read_body(service, request))
    service.require_model(body.text("model"))
    ids = body.token_ids("tokens", service.tok.vocab_size)
    if ids is None:
        raise required("tokens")
    body.end()
    try:
        text = service.tok.decode(ids)
    except ValueError as error:  # a hole in the vocabulary
        raise ApiError(400, str(error), "tokens", "invalid_value") from None
    return _json({"prompt": text, "content": text})


def encode(service: Service, text: str, field: str, special: bool = False) -> list[int]:
    """Ids of a text. Raises ApiError for text that is no Unicode."""
    try:
        return service.tok.encode(text, allow_special=special)
    except ValueError as error:
        raise ApiError(400, str(error), field, "invalid_value") from None


# what this server is


async def _models(service: Service, request: Request) -> Response:
    """OpenAI's list with Anthropic's fields beside it, or one model."""
    wanted = request.path_params.get("model")
    cards = [_model_card(service, name) for name in service.settings.names]
    if wanted is not None:
        service.require_model(wanted)
        return _json(next(c for c in cards if c["id"] == wanted))
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
        load = service.engine.load()
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
    text = service.metrics.text(engine.load(), engine.open, engine.failures, store.count(), store.failures)
    return Response(text, media_type="text/plain; version=0.0.4")


async def _openapi(service: Service, request: Request) -> Response:
    from abruzzi.server.openapi import document  # only who asks pays for it

    return _json(document(service.settings.names, service.tok.vocab_size))


# parts


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, "application/json")


def _error(request: Request, error: ApiError) -> Response:
    return _json(error_body(request.url.path, error), error.status, error.headers())


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(request, error)


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "there is nothing at", 405: f"{request.method} is not possible at"}.get(
        error.status_code, error.detail
    )
    return _error(request, ApiError(error.status_code, f"{what} {request.url.path!r:.100}", None, "wrong_route"))

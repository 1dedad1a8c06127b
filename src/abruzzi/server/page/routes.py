"""The page at `/`, and the routes behind it: a turn with tools, "answer now", stop, the raw prompt.

A turn (turn.py) reaches the browser as server-sent events, one JSON object each: start, then the
turn's. The history stays in the browser; sampled ids are restored here as for any client.

Not here: conversations on the server, accounts, uploads.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from abruzzi.server.body import read_body, read_fields, scope_of
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.page.turn import Controls, ServedModel, Turn, chat_request, run_turn
from abruzzi.server.request import ChatRequest
from abruzzi.server.service import Service
from abruzzi.server.sse import EventStream, event, to_json
from abruzzi.tools import Tool
from abruzzi.types import Message, SamplingParams

ASSETS = {
    **{name: "text/javascript" for name in ("page.js", "view.js", "stream.js", "store.js", "markdown.js")},
    "page.css": "text/css",
}
# Nothing from elsewhere, nothing inline, nobody may frame it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
EFFORTS = ("none", "low", "medium", "high")


@dataclass(frozen=True, slots=True)
class PageSettings:
    """examples, note: what an empty page shows. max_steps: generations in a turn.

    usd_per_hour: what the machine costs; None = turns are not priced."""

    examples: tuple[str, ...] = ()
    note: str = ""
    max_steps: int = 100
    usd_per_hour: float | None = None

    def __post_init__(self) -> None:
        if self.usd_per_hour is not None and not 0 <= self.usd_per_hour < math.inf:
            raise ValueError(
                f"usd_per_hour={self.usd_per_hour}; expected dollars for an hour of this machine, 0 or more"
            )


class Page:
    """The page's routes and the turns under way. tools: what the model may call.

    `app.make_app(..., routes=page.routes(), open_paths=page.open_paths())` serves it."""

    def __init__(self, service: Service, tools: Sequence[Tool] = (), settings: PageSettings = PageSettings()) -> None:
        self.service, self.tools, self.settings = service, tuple(tools), settings
        self.turns: dict[str, Turn] = {}

    def routes(self) -> list[Route]:
        gets = {"/": self.index, "/page/model": self.model, "/page/{name}": self.asset}
        posts = {
            "/page/turn": self.turn,
            "/page/stop": self.stop,
            "/page/answer_now": self.answer_now,
            "/page/prompt": self.prompt,
        }
        return [
            Route(path, handler, methods=[method])
            for method, handlers in (("GET", gets), ("POST", posts))
            for path, handler in handlers.items()
        ]

    def open_paths(self) -> frozenset[str]:
        """What a browser fetches before anybody could type a key: files that say nothing."""
        return frozenset({"/", *(f"/page/{name}" for name in ASSETS)})

    async def index(self, request: Request) -> Response:
        return _file("index.html", "text/html")

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise ApiError(404, f"there is no page file {name[:60]!r}", code="wrong_route")
        return _file(name, ASSETS[name])

    async def model(self, request: Request) -> Response:
        return _json(
            {
                "name": self.service.settings.names[0],
                "context": self.service.llm.max_context,
                "tools": [t.spec.name for t in self.tools],
                "examples": list(self.settings.examples),
                "note": self.settings.note,
            }
        )

    async def turn(self, request: Request) -> Response:
        """Run a turn; server-sent events until its end."""
        messages, controls = await read_fields(self.service, request, read_turn)
        scope, tools = scope_of(self.service, request), self._tools(controls)
        self.service.engine.require_room(1)
        # What cannot be rendered or does not fit is a 400 before the stream begins.
        ids = (await self.service.counted(scope, self._request(messages, tools, controls))).ids
        if len(ids) >= self.service.llm.max_context:
            raise ApiError(
                400,
                f"the conversation has {len(ids)} tokens but the context holds {self.service.llm.max_context}; "
                "hint: begin a new conversation",
                "messages",
                "context_length_exceeded",
            )
        turn = Turn(f"turn_{secrets.token_hex(16)}", scope, ServedModel(self.service, scope, controls), tools)
        self.turns[turn.id] = turn
        events = self._events(turn, messages, controls.params)
        return EventStream(events, turn.model.stop, {}, self.service.settings.ping_seconds)

    async def stop(self, request: Request) -> Response:
        """End a turn where it is; its stream says what was said so far."""
        (await self._named(request)).model.stop()
        return _json({"stopped": True})

    async def answer_now(self, request: Request) -> Response:
        return _json({"closed": (await self._named(request)).model.answer_now()})

    async def prompt(self, request: Request) -> Response:
        """The token ids that the next answer would start from."""
        messages, controls = await read_fields(self.service, request, read_turn)
        asked = self._request(messages, self._tools(controls), controls)
        prompt = await self.service.counted(scope_of(self.service, request), asked)
        tok = self.service.tok
        names = {token_id: name for name, token_id in tok.control.items()}
        shown = [
            {
                "id": token_id,
                "text": names.get(token_id) or tok.token_bytes(token_id).decode("utf-8", "replace"),
                "sampled": was_sampled,
                "control": token_id in names,
            }
            for token_id, was_sampled in zip(prompt.ids, prompt.sampled)
        ]
        return _json({"tokens": shown})

    # parts

    async def _events(self, turn: Turn, messages: list[Message], params: SamplingParams) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()

        def tell(news: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(turn.news.put_nowait, news)

        limits = (self.settings.max_steps, self.settings.usd_per_hour)
        work = loop.run_in_executor(None, run_turn, turn, messages, params, *limits, tell)
        try:
            yield event({"type": "start", "id": turn.id})
            while (news := await turn.news.get()) is not None:
                yield event(news)
        finally:
            self.turns.pop(turn.id, None)
            turn.model.stop()
            await asyncio.shield(work)

    async def _named(self, request: Request) -> Turn:
        fields = await self._fields(request)
        turn = self.turns.get(fields.text("id") or "")
        fields.end()
        if turn is None or turn.scope != scope_of(self.service, request):
            raise ApiError(404, "no such turn is under way; hint: it has ended", "id", "not_running")
        return turn

    def _tools(self, controls: Controls) -> tuple[Tool, ...]:
        return self.tools if controls.with_tools else ()

    def _request(self, messages: list[Message], tools: Sequence[Tool], controls: Controls) -> ChatRequest:
        return chat_request(messages, [t.spec.to_openai() for t in tools], controls)

    async def _fields(self, request: Request) -> Fields:
        return Fields(await read_body(self.service, request))


def read_turn(fields: Fields) -> tuple[list[Message], Controls]:
    """The history and the controls. Raises ApiError that names the field."""
    history = fields.raw("messages", {"type": "array", "minItems": 1})
    if not history:
        raise required("messages")
    if not isinstance(history, list):
        raise wrong("messages", "a list", history)
    try:
        messages = [Message.from_openai(m) for m in history]
    except ValueError as error:
        raise ApiError(400, str(error), "messages", "invalid_value") from None
    effort = fields.choice("reasoning_effort", *EFFORTS) or "high"
    budget = fields.integer("thinking_token_budget", 0)
    temperature = fields.number("temperature", 0, 2)
    with_tools = fields.boolean("tools")
    fields.end()
    thinks = effort != "none"
    params = SamplingParams(temperature=temperature or 0.0, thinking_budget=budget if thinks else None)
    return messages, Controls(params, effort if thinks else None, with_tools is not False)


def _file(name: str, media_type: str) -> Response:
    data = (files("abruzzi.server") / "static" / name).read_bytes()
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(data, media_type=media_type, headers=headers)


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")

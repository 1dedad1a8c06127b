"""The page at `/`, and the routes behind it: a turn with tools, "answer now", stop, the raw prompt.

A turn runs through the agent's own loop (agent/loop.py) in a worker thread; `LoopModel` makes the server's
generations a ChatModel for it, so the page, the command line and the evals share one loop. Its events reach
the browser as server-sent events, one JSON object each: start, step, reasoning, content, tool_call, tool_result,
error, end. The history stays in the browser; sampled ids are restored here as for any client.

Not here: conversations on the server, accounts, uploads.
"""

from __future__ import annotations

import asyncio
import math
import queue
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from abruzzi.agent.loop import Finish, Limits, StepStart, ToolResult, run
from abruzzi.server.body import read_body, scope_of
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, required
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.request import ChatRequest
from abruzzi.server.service import Service
from abruzzi.server.sse import EventStream, event, to_json
from abruzzi.server.structure import Schema, Structure
from abruzzi.tools import Tool, ToolOk
from abruzzi.types import ContentDelta, Event, Message, MessageEnd, ReasoningDelta, SamplingParams, ToolSpec

ASSETS = {
    **{name: "text/javascript" for name in ("page.js", "view.js", "stream.js", "store.js", "markdown.js")},
    "page.css": "text/css",
}
# Nothing from elsewhere, nothing inline, nobody may frame it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
EFFORTS = ("none", "low", "medium", "high")


@dataclass(frozen=True, slots=True)
class PageSettings:
    """tools: what the model may call. examples, note: what an empty page shows. max_steps: generations in a turn.

    usd_per_hour: what the machine costs; None = turns are not priced."""

    tools: tuple[Tool, ...] = ()
    examples: tuple[str, ...] = ()
    note: str = ""
    max_steps: int = 100
    usd_per_hour: float | None = None

    def __post_init__(self) -> None:
        if self.usd_per_hour is not None and not 0 <= self.usd_per_hour < math.inf:
            raise ValueError(
                f"usd_per_hour={self.usd_per_hour}; expected dollars for an hour of this machine, 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Dials:
    """What the page's controls say. effort None = no thinking."""

    params: SamplingParams
    effort: str | None
    with_tools: bool


@dataclass(slots=True, eq=False)
class Turn:
    """One turn under way. Used by the event loop, but for `model`, which its worker thread drives."""

    id: str
    scope: bytes
    model: LoopModel
    tools: tuple[Tool, ...]
    news: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)


class LoopModel:
    """The server's generations as a ChatModel, for a loop in another thread.

    stop: ends the generation that is under way where it is; the loop then ends as for any cut generation."""

    def __init__(self, service: Service, scope: bytes, dials: Dials) -> None:
        self.stopped = False
        self.generation: Generation | None = None
        self._service, self._scope, self._dials = service, scope, dials
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[Batch | End | Exception] = queue.SimpleQueue()
        self._pump: Future[None] | None = None

    def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), params: SamplingParams | None = None
    ) -> Iterator[Event]:
        """Called by the loop, in its thread. Raises ApiError."""
        request = chat_request(
            messages, [t.to_openai() for t in tools], replace(self._dials, params=params or self._dials.params)
        )
        if self.stopped:
            raise Stopped
        pump = self._pump = asyncio.run_coroutine_threadsafe(self._generate(request), self._loop)
        try:
            while True:
                item = self._items.get()
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, End):
                    yield MessageEnd(
                        item.message,
                        item.finish_reason,
                        item.usage,
                        item.prefill_tok_s,
                        item.decode_tok_s,
                        item.ttft_s,
                    )
                    return
                yield from item.events
        finally:
            pump.cancel()  # leaving the generation closes it; nothing happens when it is over

    async def _generate(self, request: ChatRequest) -> None:
        try:
            self.generation = await self._service.start(self._scope, request, "page-")
            async for _, item in self.generation.items():  # noqa: PERF102 - no dict
                self._items.put(item)
        except Exception as error:  # handed to the loop's thread
            self._items.put(error)

    def stop(self) -> None:
        """On the event loop: end what runs, and let nothing follow. Any number of times."""
        self.stopped = True
        end = self.generation.choices[0].cut() if self.generation is not None else None
        self._items.put(end or Stopped())
        if self._pump is not None:
            self._pump.cancel()  # it waits for tokens that will not come

    def answer_now(self) -> bool:
        return self.generation is not None and any(c.answer_now() for c in self.generation.choices)


class Stopped(Exception):
    """The reader stopped the turn between two generations."""


class Page:
    """The routes of the page; `app.make_app(..., routes=page.routes(), open_paths=page.open_paths())`."""

    def __init__(self, service: Service, settings: PageSettings) -> None:
        self.service, self.settings = service, settings
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
                "tools": [t.spec.name for t in self.settings.tools],
                "examples": list(self.settings.examples),
                "note": self.settings.note,
            }
        )

    async def turn(self, request: Request) -> Response:
        """Run a turn; server-sent events until its end."""
        messages, dials = _asked(await self._fields(request))
        scope, tools = scope_of(self.service, request), self._tools(dials)
        self.service.engine.require_room(1)
        # What cannot be rendered or does not fit is a 400 before the stream begins.
        ids, _ = self._rendered(scope, messages, tools, dials)
        if len(ids) >= self.service.llm.max_context:
            raise ApiError(
                400,
                f"the conversation has {len(ids)} tokens but the context holds {self.service.llm.max_context}; "
                "hint: begin a new conversation",
                "messages",
                "context_length_exceeded",
            )
        turn = Turn(f"turn_{secrets.token_hex(16)}", scope, LoopModel(self.service, scope, dials), tools)
        self.turns[turn.id] = turn
        return EventStream(self._events(turn, messages, dials), turn.model.stop, {}, self.service.settings.ping_seconds)

    async def stop(self, request: Request) -> Response:
        """End a turn where it is; its stream says what was said so far."""
        (await self._named(request)).model.stop()
        return _json({"stopped": True})

    async def answer_now(self, request: Request) -> Response:
        return _json({"closed": (await self._named(request)).model.answer_now()})

    async def prompt(self, request: Request) -> Response:
        """The token ids that the next answer would start from."""
        messages, dials = _asked(await self._fields(request))
        ids, sampled = self._rendered(scope_of(self.service, request), messages, self._tools(dials), dials)
        tok = self.service.tok
        names = {token_id: name for name, token_id in tok.control.items()}
        shown = [
            {
                "id": token_id,
                "text": names.get(token_id) or tok.token_bytes(token_id).decode("utf-8", "replace"),
                "sampled": was_sampled,
                "control": token_id in names,
            }
            for token_id, was_sampled in zip(ids, sampled)
        ]
        return _json({"tokens": shown})

    # parts

    async def _events(self, turn: Turn, messages: list[Message], dials: Dials) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()

        def tell(news: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(turn.news.put_nowait, news)

        work = loop.run_in_executor(None, _work, turn, messages, dials.params, self.settings, tell)
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

    def _tools(self, dials: Dials) -> tuple[Tool, ...]:
        return self.settings.tools if dials.with_tools else ()

    def _rendered(
        self, scope: bytes, messages: list[Message], tools: Sequence[Tool], dials: Dials
    ) -> tuple[list[int], list[bool]]:
        request = chat_request(messages, [t.spec.to_openai() for t in tools], dials)
        return self.service.render_marked(request, self.service.history(scope, request))

    async def _fields(self, request: Request) -> Fields:
        return Fields(await read_body(self.service, request))


def chat_request(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], dials: Dials) -> ChatRequest:
    return ChatRequest(
        model=None,
        messages=tuple(messages),
        tools=tuple(dict(t) for t in tools),
        structure=Structure({f["name"]: Schema(f["parameters"], "tools") for f in (t["function"] for t in tools)}),
        params=dials.params,
        thinking=dials.effort is not None,
        effort=dials.effort,
        preserve_thinking=True,
    )


def _work(turn: Turn, messages: list[Message], params: SamplingParams, settings: PageSettings, tell: Any) -> None:
    """The turn itself, in a worker thread: the agent's loop, its events told one by one."""
    said: list[Message] = []
    last: MessageEnd | None = None
    first: MessageEnd | None = None
    reason = "error"
    usage: dict[str, int] = {}
    started = time.perf_counter()
    try:
        for event in run(turn.model, messages, turn.tools, params, Limits(settings.max_steps)):
            if isinstance(event, MessageEnd):
                last, first = event, first or event
                said.append(event.message)
                for call in event.message.tool_calls:
                    tell({"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments})
            elif isinstance(event, ToolResult):
                said.append(Message("tool", event.result.message, tool_call_id=event.call.id))
                tell(_result(event))
            elif isinstance(event, Finish):
                reason = event.stop_reason
                usage = {
                    f: getattr(event.usage, f)
                    for f in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
                }
            elif isinstance(event, StepStart):
                tell({"type": "step", "number": event.number})
            elif isinstance(event, ReasoningDelta | ContentDelta):
                kind = "reasoning" if isinstance(event, ReasoningDelta) else "content"
                tell({"type": kind, "text": event.text, "tokens": 1})
    except Stopped:
        reason = "stopped"
    except ApiError as error:
        tell({"type": "error", "message": error.message})
    finally:
        if turn.model.stopped:
            reason = "stopped"
        tell(
            {
                "type": "end",
                "stop_reason": reason,
                "messages": [m.to_openai() for m in said],
                "usage": usage,
                "context_tokens": last.usage.prompt_tokens + last.usage.completion_tokens if last else 0,
                "decode_tok_s": last.decode_tok_s if last else None,
                "ttft_s": first.ttft_s if first else None,
                **_cost(time.perf_counter() - started, settings.usd_per_hour),
            }
        )
        tell(None)


def _cost(seconds: float, usd_per_hour: float | None) -> dict[str, Any]:
    """The machine's time, all of it, also where other requests shared it. Not priced is null, never 0."""
    if usd_per_hour is None:
        return {"cost_usd": None, "cost_basis": None}
    return {"cost_usd": seconds / 3600 * usd_per_hour, "cost_basis": f"{seconds:.1f} s at ${usd_per_hour:g} an hour"}


def _result(seen: ToolResult) -> dict[str, Any]:
    return {
        "type": "tool_result",
        "id": seen.call.id,
        "ok": isinstance(seen.result, ToolOk),
        "result": seen.result.message,
        "seconds": seen.seconds,
    }


def _asked(fields: Fields) -> tuple[list[Message], Dials]:
    """The history and the controls. Raises ApiError that names the field."""
    given = fields.items("messages")
    if not given:
        raise required("messages")
    try:
        messages = [Message.from_openai(m) for m in given]
    except ValueError as error:
        raise ApiError(400, str(error), "messages", "invalid_value") from None
    effort = fields.choice("reasoning_effort", *EFFORTS) or "high"
    budget = fields.integer("thinking_token_budget", 0)
    temperature = fields.number("temperature", 0, 2)
    with_tools = fields.boolean("tools")
    fields.end()
    thinks = effort != "none"
    params = SamplingParams(temperature=temperature or 0.0, thinking_budget=budget if thinks else None)
    return messages, Dials(params, effort if thinks else None, with_tools is not False)


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

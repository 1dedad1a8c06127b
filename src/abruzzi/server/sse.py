"""Server-sent events, and plain answers, whose work is cancelled when the client leaves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from abruzzi.server.errors import ApiError
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.types import ContentDelta, ParserEvent, ReasoningDelta, ToolCallDelta

Answer = TypeVar("Answer")
# JSON escapes VT, FF, FS, GS and RS anyway; these three it does not.
_SEPARATORS = re.compile("[\u0085\u2028\u2029]")
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Encoder(Protocol):
    """A dialect's writer of a generation. index: of the choice. Each method gives the bytes to
    send, or none."""

    def start(self) -> bytes: ...

    def batch(self, index: int, batch: Batch) -> bytes: ...

    def end(self, index: int, end: End) -> bytes: ...

    def close(self) -> bytes:
        """Every choice has ended."""
        ...

    def error(self, error: ApiError) -> bytes: ...

    def body(self, ends: list[End]) -> dict[str, Any]:
        """The same without streaming."""
        ...


async def encoded(encoder: Encoder, generation: Generation) -> AsyncIterator[bytes]:
    """A generation in a dialect, piece by piece; the end of a choice goes with what follows it."""
    tail, left = b"", len(generation.choices)
    try:
        yield encoder.start()
        async with aclosing(generation.items()) as items:
            async for index, item in items:
                if isinstance(item, End):
                    left -= 1
                    tail += encoder.end(index, item)
                else:
                    tail += encoder.batch(index, replace(item, events=joined(item.events)))
                # A piece more is a system call more, so what follows at once goes along.
                more_follows = left == 0 if isinstance(item, End) else item.last
                if tail and not more_follows:
                    yield tail
                    tail = b""
        yield tail + encoder.close()
    except ApiError as error:
        yield tail + encoder.error(error)


def joined(events: tuple[ParserEvent, ...]) -> tuple[ParserEvent, ...]:
    """The same events, neighbouring pieces of one text put together."""
    if len(events) < 2:
        return events
    out: list[ParserEvent] = []
    for item in events:
        last = out[-1] if out else None
        if isinstance(item, ToolCallDelta) and isinstance(last, ToolCallDelta) and item.position == last.position:
            out[-1] = ToolCallDelta(item.position, last.text + item.text)
        elif isinstance(item, ReasoningDelta) and isinstance(last, ReasoningDelta):
            out[-1] = ReasoningDelta(last.text + item.text)
        elif isinstance(item, ContentDelta) and isinstance(last, ContentDelta):
            out[-1] = ContentDelta(last.text + item.text)
        else:
            out.append(item)
    return tuple(out)


class EventStream(Response):
    """A response of server-sent events: pieces as they come. When the client leaves, `close` is
    called at once.

    When nothing came for `ping_seconds` it sends a comment (keep-alive), so that a long prefill is
    told from a dead server."""

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        close: Callable[[], None],
        headers: Mapping[str, str],
        ping_seconds: float = 15.0,
    ) -> None:
        self._pieces, self._close, self._ping_seconds = pieces, close, ping_seconds
        self._last = time.monotonic()
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = [asyncio.create_task(self._write(send)), asyncio.create_task(client_gone(receive))]
        pings = asyncio.create_task(self._ping(send))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            self._close()
            for task in (*tasks, pings):
                task.cancel()
            await asyncio.gather(*tasks, pings, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in self._pieces:
            self._last = time.monotonic()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        self._last = float("inf")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        while True:
            idle = time.monotonic() - self._last
            await asyncio.sleep(max(0.01, self._ping_seconds - idle))
            if time.monotonic() - self._last >= self._ping_seconds:
                self._last = time.monotonic()
                await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Answer], close: Callable[[], None]) -> Answer | None:
    """The work's result; None when the client left first, and then `close` was called."""
    task, watcher = asyncio.create_task(work), asyncio.create_task(client_gone(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        close()
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def client_gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def to_json(value: Any) -> bytes:
    """Compact UTF-8. A lone surrogate, which UTF-8 cannot hold, is written as JSON's escape; so are
    the characters at which many readers of event streams (all that use `splitlines`) wrongly end a
    line."""
    text = _JSON.encode(value)
    return (text if text.isascii() else _SEPARATORS.sub(_escaped, text)).encode("utf-8", "backslashreplace")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + to_json(value) + b"\n\n"

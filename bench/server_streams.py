"""Many streams at once, in four dialects: each says what it says alone, to the last id; how long
the first token takes.

    python bench/server_streams.py [--streams 256] [--tokens 64] [--model nano] [--threads N] [--out FILE]

A real `abruzzi serve`. First all requests at the same moment, on a connection each, nothing cached;
then the same requests one after the other. The engine draws by (seed, position), so the answers
must be equal: ids where the dialect has them, and every piece of text, joined by kind. Exit code 1
when one was lost or mixed.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from machine import describe, emit, output_option
from soak import CHAT, COMPLETIONS, ENDS, MESSAGES, RESPONSES, Wrong, body_of, request, returned, start

FIRST = {CHAT: b'"token_ids"', COMPLETIONS: b'"token_ids"', MESSAGES: b"content_block_delta", RESPONSES: b'.delta"'}


@dataclass(slots=True)
class Stream:
    """What one stream gave. said: joined text by kind, and the ids where there are some; first,
    all: seconds."""

    said: dict[str, Any] = field(default_factory=dict)
    events: int = 0
    first: float = 0.0
    all: float = 0.0


async def stream(port: int, path: str, body: dict[str, Any]) -> Stream:
    """One request on a connection of its own, read to its end."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()
    out = Stream()
    try:
        writer.write(request(path, json.dumps(body).encode()))
        while piece := await reader.read(65536):
            got += piece
            if not out.first and FIRST[path] in got:
                out.first = time.perf_counter() - started
    finally:
        writer.close()
    out.all = time.perf_counter() - started
    head, _, rest = bytes(got).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise Wrong(f"{path}: {head[:60]!r} {rest[:200]!r}")
    text = unchunked(rest).decode()
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    out.events = len(data)
    out.said = said(path, data)
    if ENDS[path] not in text and "response.incomplete" not in text:
        raise Wrong(f"{path}: the stream has no end: {text[-200:]!r}")
    return out


def unchunked(data: bytes) -> bytes:
    out, at = [], 0
    while at < len(data):
        line = data.index(b"\r\n", at)
        size = int(data[at:line], 16)
        out.append(data[line + 2 : line + 2 + size])
        at = line + 4 + size
    return b"".join(out)


def said(path: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Joined text by kind, ids, and how it ended."""
    out: dict[str, Any] = {}

    def add(kind: str, piece: Any) -> None:
        if piece:
            out[kind] = out[kind] + piece if kind in out else piece

    for event in events:
        for choice in event.get("choices", ()):
            add("ids", choice.get("token_ids"))
            add("text", choice.get("text"))
            delta = choice.get("delta", {})
            add("text", delta.get("content"))
            add("thought", delta.get("reasoning_content"))
            for call in delta.get("tool_calls", ()):
                add("call", json.dumps(call.get("function")))
            add("end", choice.get("finish_reason"))
        if path == MESSAGES and isinstance(event.get("delta"), dict):
            for kind in ("thinking", "text", "partial_json", "stop_reason"):
                add(kind, event["delta"].get(kind))
        if path == RESPONSES:
            if isinstance(event.get("delta"), str):
                add(event["type"], event["delta"])
            add("status", event.get("response", {}).get("status") if "created" not in event["type"] else None)
    return out


def wanted(number: int, tokens: int) -> tuple[str, dict[str, Any]]:
    """The number-th request."""
    path = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)[number % 4]
    more = {"return_token_ids": True} if path in (CHAT, COMPLETIONS) else {}
    return path, body_of(path, 1000 + number, tokens, stream=True, seed=number, temperature=1.0, **more)


async def crowd(port: int, streams: int, tokens: int) -> tuple[list[Stream | Exception], float]:
    """All at once, and the seconds until the last one ended."""
    started = time.perf_counter()
    asked = [stream(port, *wanted(n, tokens)) for n in range(streams)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    return [r if isinstance(r, (Stream, Exception)) else Wrong(str(r)) for r in results], time.perf_counter() - started


async def alone(port: int, streams: int, tokens: int) -> list[Stream]:
    return [await stream(port, *wanted(n, tokens)) for n in range(streams)]


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--threads", type=int, default=None, help="of the server's engine")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        server = start(given.model, home, given.threads)
        try:
            together, seconds = asyncio.run(crowd(server.port, given.streams, given.tokens))
            left = asyncio.run(returned(server.port))
            solo = asyncio.run(alone(server.port, given.streams, given.tokens))
        finally:
            server.process.terminate()
            server.process.wait(timeout=20)
    lost = [f"{n}: {r}" for n, r in enumerate(together) if isinstance(r, Exception)]
    whole = [(n, r) for n, r in enumerate(together) if isinstance(r, Stream)]
    mixed = [f"{n}: {r.said} alone {solo[n].said}" for n, r in whole if r.said != solo[n].said]
    tokens = sum(len(r.said.get("ids", ())) for _, r in whole)
    record = {
        "bench": "server_streams",
        **describe(threads=given.threads or 0),
        "settings": {k: getattr(given, k) for k in ("model", "streams", "tokens", "threads")},
        "compared": len(whole),
        "ids_compared": tokens,
        "crowd_seconds": seconds,
        "ttft_s": spread([r.first for _, r in whole]),
        "end_s": spread([r.all for _, r in whole]),
        "alone_ttft_s": spread([r.first for r in solo]),
        "tokens_per_event": tokens / max(1, sum(r.events for _, r in whole if "ids" in r.said)),
        "at_the_end": left,
        "failed": {
            name: what[:10]
            for name, what in {
                "lost": lost,
                "mixed": mixed,
                "not returned": [k for k in ("cache_blocks_held", "sequences_open") if left[k]],
                "without a token": [n for n, r in whole if not r.first],
            }.items()
            if what
        },
    }
    emit(record, given.out)
    return 1 if record["failed"] else 0


def spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p = np.quantile(seconds, (0.5, 0.9, 0.99))
    return {"median": float(p[0]), "p90": float(p[1]), "p99": float(p[2]), "max": max(seconds)}


if __name__ == "__main__":
    raise SystemExit(main())

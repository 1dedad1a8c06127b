"""The recording HTTP client of `abruzzi verify`: every exchange is kept as it was, well formed or
not.

The agent's client (agent/client.py) forgives and repairs; this one must not, because what a server
gets wrong is what we look for. Streams keep every event, and lines that are no events, in order.
One streamed answer is also put together into the body that the same request without `stream` would
have had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from abruzzi.agent.endpoint import api_url, bearer
from abruzzi.agent.event_stream import OddLine, events, split_lines
from abruzzi.network import client_for

# A rate limit says nothing about the server's correctness: wait for it, but not for ever.
RATE_LIMIT_TRIES = 4
RATE_LIMIT_LONGEST = 30.0


@dataclass(slots=True)
class Exchange:
    """One request and its answer.

    sent:    the JSON body, or the raw text of one that is deliberately no JSON; None for GET.
    status:  None when no answer came; then `problem` says why.
    body:    the parsed JSON, or None. For a stream: the events put together.
    events:  a stream's JSON events in order; odd_lines: lines of it that are neither events nor comments.
    seconds: until the last byte.
    """

    method: str
    path: str
    sent: Any = None
    status: int | None = None
    content_type: str = ""
    text: str = ""
    body: Any = None
    events: list[dict[str, Any]] = field(default_factory=list)
    odd_lines: list[str] = field(default_factory=list)
    streamed: bool = False
    done: bool = False
    after_done: int = 0
    cut_by_us: bool = False
    problem: str | None = None
    seconds: float = 0.0

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object of OpenAI's shape, {"error": {"message": text, ...}}, or None."""
        found = self.body.get("error") if isinstance(self.body, dict) else None
        return found if isinstance(found, dict) and isinstance(found.get("message"), str) else None

    @property
    def refused(self) -> bool:
        """The server says that it does not do this: a client error that is not about keys, time or
        rate."""
        return self.status is not None and (
            (400 <= self.status < 500 and self.status not in (401, 403, 408, 429)) or self.status == 501
        )

    def outcome(self) -> str:
        """One line: the status and the error's message."""
        if self.status is None:
            return self.problem or "no answer"
        said = self.error["message"] if self.error else self.text
        return f"{self.status}: {' '.join(said.split())[:200]}"


class Wire:
    """One endpoint, one model name; every exchange is kept in `log`.

    base_url: with or without /v1. timeout: seconds for the connection and between two pieces of an
    answer."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 120.0,
        http: httpx2.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = api_url(base_url)
        self.root = self.base_url.removesuffix("/v1")
        self.log: list[Exchange] = []
        self._headers = bearer(api_key)
        # A connection for every request: a server may close one that it kept at any moment, also
        # when the next request is on its way, and would be blamed for no answer.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._http = http or client_for(self.base_url, timeout=httpx2.Timeout(timeout, connect=10.0), limits=limits)
        self._sleep = sleep

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Exchange:
        """GET base_url + path."""
        return self._send(Exchange("GET", path), None, None, None)

    def post(self, path: str, body: Any, *, raw: str | None = None, timeout: float | None = None) -> Exchange:
        """POST JSON, or `raw` text as it stands. A path that starts with // is taken from the
        server's root.

        timeout: give up (and drop the connection) after so many seconds without a byte."""
        stream = isinstance(body, dict) and body.get("stream") is True
        exchange = Exchange("POST", path, sent=body if raw is None else raw, streamed=stream)
        text = json.dumps(body, ensure_ascii=False) if raw is None else raw
        return self._send(exchange, text, timeout, None)

    def drop(self, path: str, body: dict[str, Any], events: int) -> Exchange:
        """Start a stream and leave after so many events: the connection is closed in mid-answer."""
        exchange = Exchange("POST", path, sent=body, streamed=True)
        return self._send(exchange, json.dumps(body, ensure_ascii=False), None, events)

    def _send(self, exchange: Exchange, text: str | None, timeout: float | None, leave_after: int | None) -> Exchange:
        url = self.root + exchange.path[1:] if exchange.path.startswith("//") else self.base_url + exchange.path
        headers = {**self._headers, **({"content-type": "application/json"} if text is not None else {})}
        extra: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        content = None if text is None else text.encode()
        for attempt in range(RATE_LIMIT_TRIES):
            started = time.monotonic()
            try:
                with self._http.stream(exchange.method, url, content=content, headers=headers, **extra) as response:
                    exchange.status = response.status_code
                    exchange.content_type = response.headers.get("content-type", "")
                    if exchange.streamed and response.status_code == 200:
                        _read_events(exchange, response, leave_after)
                    else:
                        exchange.text = response.read().decode("utf-8", "replace")
                        exchange.body = _json(exchange.text)
                    wait = response.headers.get("retry-after", "")
            except httpx2.HTTPError as error:
                exchange.problem = f"{type(error).__name__}: {error}"
                # A status whose body never came is no answer.
                exchange.status, wait = None, ""
            exchange.seconds = time.monotonic() - started
            if exchange.status != 429 or attempt == RATE_LIMIT_TRIES - 1:
                break
            self._sleep(min(float(wait) if wait.isdigit() else 2.0, RATE_LIMIT_LONGEST))
        self.log.append(exchange)
        return exchange


def _read_events(exchange: Exchange, response: httpx2.Response, leave_after: int | None) -> None:
    lines: list[str] = []

    def kept() -> Iterator[bytes]:
        for line in split_lines(response.iter_bytes()):
            lines.append(line.decode("utf-8", "replace"))
            yield line

    for item in events(kept()):
        if isinstance(item, OddLine):
            exchange.odd_lines.append(item.text)
        elif item.data.strip() == "[DONE]":
            exchange.done = True
        elif isinstance(event := _json(item.data), dict):
            exchange.after_done += exchange.done
            exchange.events.append(event)
        else:
            exchange.odd_lines.append(f"data: {item.data}")
        if leave_after is not None and len(exchange.events) >= leave_after:
            exchange.cut_by_us = True
            break
    exchange.text = "\n".join(lines)
    exchange.body = put_together(exchange.events)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of chat.completion that these chunks amount to. Reads whatever is there and judges
    nothing."""
    body: dict[str, Any] = {"choices": []}
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for key in ("id", "model", "created", "usage", "error", "prompt_token_ids"):
            if event.get(key) is not None:
                body[key] = event[key]
        given = event.get("choices")
        for piece in given if isinstance(given, list) else []:
            if isinstance(piece, dict):
                position = piece.get("index", 0)
                _add(choices.setdefault(position if isinstance(position, int) else 0, {"message": {}}), piece, body)
    body["choices"] = [{"index": i, **choices[i]} for i in sorted(choices)]
    return body


def _add(choice: dict[str, Any], piece: dict[str, Any], body: dict[str, Any]) -> None:
    """One chunk's piece into its choice; appends in the order of arrival."""
    message = choice["message"]
    delta = piece.get("delta")
    for key, value in (delta if isinstance(delta, dict) else {}).items():
        if key == "tool_calls":
            for call in value if isinstance(value, list) else []:
                _add_call(message.setdefault("tool_calls", []), call)
        elif isinstance(value, str) and key != "role":
            message[key] = (message.get(key) or "") + value
        elif value is not None or key not in message:
            message[key] = value
    if piece.get("finish_reason") is not None:
        choice["finish_reason"] = piece["finish_reason"]
    for beside in ("token_ids", "sampled"):
        if isinstance(piece.get(beside), list):
            choice[beside] = [*choice.get(beside, []), *piece[beside]]
    if isinstance(piece.get("prompt_token_ids"), list):
        body["prompt_token_ids"] = piece["prompt_token_ids"]
    entries = piece.get("logprobs")
    if isinstance(entries, dict) and isinstance(entries.get("content"), list):
        choice.setdefault("logprobs", {"content": []})["content"].extend(entries["content"])


def _add_call(calls: list[dict[str, Any]], piece: Any) -> None:
    if not isinstance(piece, dict):
        return
    position = piece.get("index")
    position = position if isinstance(position, int) else 0
    found = next((c for c in calls if c["index"] == position), None)
    if found is None:
        found = {"index": position, "id": piece.get("id"), "type": piece.get("type"), "function": {}}
        calls.append(found)
    function = piece.get("function")
    for key, value in (function if isinstance(function, dict) else {}).items():
        if isinstance(value, str):
            found["function"][key] = found["function"].get(key, "") + value

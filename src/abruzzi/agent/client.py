"""The HTTP client: any OpenAI-compatible endpoint as a ChatModel, by streamed chat completions.

Thinking is read from `reasoning_content`, `reasoning` or an inline think block, whichever the server
sends, and is sent back as `reasoning_content` with every assistant message: models that interleave
thinking with tool calls lose the thread without it.

Not here: retries (a failed request is an error with a hint; nothing is lost, the history is the caller's).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, cast

import httpx2

from abruzzi.types import (
    ContentDelta,
    Event,
    FinishReason,
    Message,
    MessageEnd,
    ReasoningDelta,
    SamplingParams,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    ToolSpec,
    Usage,
    UserError,
)

FINISH_REASONS = ("stop", "length", "tool_calls")
# Sampling parameters that are called something else in a request, and those that have no place in one.
WIRE_NAMES = {"thinking_budget": "thinking_token_budget"}
NOT_SENT = {
    "stop_token_ids": "use stop strings",
    "top_logprobs": "this client reads no log-probabilities; ask the endpoint itself",
}


class EndpointError(UserError):
    """The endpoint is down, slow or does not speak the protocol. The text is one line with a hint."""


class HttpChatModel:
    """A model behind `base_url` (with or without /v1).

    http: an httpx2.Client, which owns timeouts and proxies; None makes one that waits `timeout` seconds
    for the connection and for each piece of the answer."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        http: httpx2.Client | None = None,
        timeout: float = 600.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base URL {base_url!r} must start with http:// or https://")
        url = base_url.rstrip("/")
        self.base_url = url if url.endswith("/v1") else url + "/v1"
        self.model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = http or httpx2.Client(timeout=httpx2.Timeout(timeout, connect=10.0))

    def list_models(self) -> list[str]:
        """The ids that the server offers. Raises EndpointError."""
        try:
            response = self._http.get(f"{self.base_url}/models", headers=self._headers)
        except httpx2.HTTPError as error:
            raise EndpointError(_unreachable(self.base_url, error)) from error
        if response.status_code != 200:
            raise EndpointError(_refused(self.base_url, response.status_code, response.text))
        try:
            return [str(m["id"]) for m in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise EndpointError(f"{self.base_url}/models did not answer with a list of models") from error

    def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), params: SamplingParams = SamplingParams()
    ) -> Iterator[Event]:
        """Events as they arrive, then one MessageEnd. Raises EndpointError, ValueError for unsupported params."""
        body = _request(self.model, messages, tools, params)
        started = time.monotonic()
        try:
            with self._http.stream(
                "POST", f"{self.base_url}/chat/completions", json=body, headers=self._headers
            ) as response:
                if response.status_code != 200:
                    response.read()
                    raise EndpointError(_refused(self.base_url, response.status_code, response.text))
                yield from _Stream(self.base_url, started).events(response.iter_lines())
        except httpx2.HTTPError as error:
            raise EndpointError(_unreachable(self.base_url, error)) from error


class _Stream:
    """Puts the pieces of one streamed message together."""

    def __init__(self, where: str, started: float) -> None:
        self.where, self.started = where, started
        self.first: float | None = None
        self.reasoning: list[str] = []
        self.content: list[str] = []
        self.calls: dict[int, dict[str, str]] = {}
        self.open: int | None = None
        self.finish: str | None = None
        self.usage = Usage()

    def events(self, lines: Iterable[str]) -> Iterator[Event]:
        done = False
        for chunk in _sse(lines, self.where):
            if chunk is None:
                done = True
                break
            yield from self._chunk(chunk)
        if not done and self.finish is None:
            raise EndpointError(f"{self.where} closed the stream in mid-answer; hint: look at the server's log")
        yield from self._close()
        yield self._end()

    def _chunk(self, chunk: dict[str, Any]) -> Iterator[Event]:
        if chunk.get("error"):
            raise EndpointError(f"{self.where} reported an error: {_line(chunk['error'])}")
        if isinstance(chunk.get("usage"), dict):
            self.usage = _usage(chunk["usage"])
        choices = chunk.get("choices") or []
        if not choices:
            return
        choice = choices[0]
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        if self.first is None and any(
            delta.get(k) for k in ("content", "reasoning_content", "reasoning", "tool_calls")
        ):
            self.first = time.monotonic()
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            self.reasoning.append(thought)
            yield ReasoningDelta(thought)
        if delta.get("content"):
            self.content.append(delta["content"])
            yield ContentDelta(delta["content"])
        for piece in delta.get("tool_calls") or []:
            yield from self._call_piece(piece)

    def _call_piece(self, piece: dict[str, Any]) -> Iterator[Event]:
        position = int(piece.get("index", len(self.calls)))
        function = piece.get("function") or {}
        if position not in self.calls:
            yield from self._close()
            self.calls[position] = {"id": piece.get("id") or "", "name": function.get("name") or "", "arguments": ""}
            self.open = position
            yield ToolCallStart(position, self.calls[position]["name"])
        if function.get("arguments"):
            self.calls[position]["arguments"] += function["arguments"]
            yield ToolCallDelta(position, function["arguments"])

    def _close(self) -> Iterator[Event]:
        if self.open is not None:
            yield ToolCallEnd(self.open, complete=self.finish != "length")
            self.open = None

    def _end(self) -> MessageEnd:
        calls = tuple(ToolCall(c["name"], c["arguments"], c["id"]) for _, c in sorted(self.calls.items()))
        message = Message(
            role="assistant",
            content="".join(self.content),
            reasoning_content="".join(self.reasoning) or None,
            tool_calls=calls,
        )
        reason = self.finish if self.finish in FINISH_REASONS else ("tool_calls" if calls else "stop")
        now = time.monotonic()
        decode = now - self.first if self.first else 0.0
        return MessageEnd(
            message,
            cast(FinishReason, reason),
            self.usage,
            decode_tok_s=self.usage.completion_tokens / decode if decode > 0 else None,
            ttft_s=self.first - self.started if self.first else None,
        )


def _request(
    model: str, messages: Sequence[Message], tools: Sequence[ToolSpec], params: SamplingParams
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [m.to_openai() for m in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": params.temperature,
    }
    if tools:
        body["tools"] = [t.to_openai() for t in tools]
    return body | _sampling(params)


def _sampling(params: SamplingParams) -> dict[str, Any]:
    """The sampling parameters that differ from the defaults, by the wire's names.

    Only these: servers refuse fields that they do not know, and rightly so."""
    sent: dict[str, Any] = {}
    for field in fields(params):
        value = getattr(params, field.name)
        if value == field.default:
            continue
        if field.name in NOT_SENT:
            raise ValueError(f"{field.name} cannot be sent to an endpoint; hint: {NOT_SENT[field.name]}")
        sent[WIRE_NAMES.get(field.name, field.name)] = list(value) if isinstance(value, tuple) else value
    return sent


def _sse(lines: Iterable[str], where: str) -> Iterator[dict[str, Any] | None]:
    """The JSON of each server-sent event; None for [DONE]."""
    for line in lines:
        if not line.startswith("data:"):
            continue  # comments (pings), event names, blank lines
        data = line[5:].strip()
        if data == "[DONE]":
            yield None
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise EndpointError(
                f"{where} sent something that is not JSON: {_line(data)}; "
                "hint: is this an OpenAI-compatible chat endpoint?"
            ) from error
        if not isinstance(chunk, dict):
            raise EndpointError(f"{where} sent {_line(data)} where an object was expected")
        yield chunk


def _usage(given: dict[str, Any]) -> Usage:
    prompt_details = given.get("prompt_tokens_details") or {}
    completion_details = given.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=int(given.get("prompt_tokens") or 0),
        cached_tokens=int(prompt_details.get("cached_tokens") or 0),
        completion_tokens=int(given.get("completion_tokens") or 0),
        reasoning_tokens=int(completion_details.get("reasoning_tokens") or 0),
    )


def _unreachable(where: str, error: Exception) -> str:
    kind, hint = "cannot be reached", "is the server running, is the URL right?"
    if isinstance(error, httpx2.TimeoutException):
        kind = "did not answer in time"
    elif isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError)):
        kind, hint = "broke off its answer", "did the server stop? its log may say why"
    return f"{where} {kind} ({type(error).__name__}: {_line(str(error))}); hint: {hint}"


def _refused(where: str, status: int, text: str) -> str:
    hint = {401: "check --api-key", 403: "check --api-key", 404: "check the URL and --served-model", 429: "try later"}
    return f"{where} answered {status}: {_line(text.strip())}; hint: {hint.get(status, 'look at the server log')}"


def _line(said: object) -> str:
    """What a server said, without the quotes of `types.brief`, on one line of at most 160 characters."""
    line = " ".join((said if isinstance(said, str) else repr(said)).split())
    return line if len(line) <= 160 else line[:157] + "..."

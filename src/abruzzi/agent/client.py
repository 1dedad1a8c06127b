"""The HTTP client: any OpenAI-compatible endpoint as a ChatModel, by streamed chat completions.

Thinking is read from whatever field or inline block the server sends it in (chunk.py,
think_tags.py), and is sent back as `reasoning_content` with every assistant message: models that
interleave thinking with tool calls lose the thread without it.

Not here: retries (a failed request is an error with a hint; nothing is lost, the history is the
caller's).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import httpx2

from abruzzi.agent.endpoint import EndpointError, api_url, bearer, refused, unreachable
from abruzzi.agent.stream import MessageStream
from abruzzi.network import client_for
from abruzzi.types import Event, Message, SamplingParams, ToolSpec

# Sampling parameters that are called something else in a request, and those that have no place in
# one.
WIRE_NAMES = {"thinking_budget": "thinking_token_budget"}
NOT_SENT = {
    "stop_token_ids": "use stop strings",
    "top_logprobs": "this client reads no log-probabilities; ask the endpoint itself",
}


class HttpChatModel:
    """A model behind `base_url` (with or without /v1).

    http: an httpx2.Client, which owns timeouts and proxies; None makes one that waits `timeout`
    seconds for the connection and for each piece of the answer."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        http: httpx2.Client | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.base_url = api_url(base_url)
        self.model = model
        self._headers = bearer(api_key)
        self._http = http or client_for(self.base_url, timeout=httpx2.Timeout(timeout, connect=10.0))

    def list_models(self) -> list[str]:
        """The ids that the server offers. Raises EndpointError."""
        try:
            response = self._http.get(f"{self.base_url}/models", headers=self._headers)
        except httpx2.HTTPError as error:
            raise EndpointError(unreachable(self.base_url, error)) from error
        if response.status_code != 200:
            raise EndpointError(refused(self.base_url, response.status_code, response.text))
        try:
            return [str(m["id"]) for m in response.json()["data"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EndpointError(f"{self.base_url}/models did not answer with a list of models") from error

    def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), params: SamplingParams = SamplingParams()
    ) -> Iterator[Event]:
        """Events as they arrive, then one MessageEnd. Raises EndpointError, ValueError for
        unsupported params."""
        body = _request(self.model, messages, tools, params)
        started = time.monotonic()
        try:
            with self._http.stream(
                "POST", f"{self.base_url}/chat/completions", json=body, headers=self._headers
            ) as response:
                if response.status_code != 200:
                    response.read()
                    raise EndpointError(refused(self.base_url, response.status_code, response.text))
                content_type = response.headers.get("content-type", "")
                yield from MessageStream(self.base_url, content_type, started).events(response.iter_bytes())
        except httpx2.HTTPError as error:
            raise EndpointError(unreachable(self.base_url, error)) from error


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

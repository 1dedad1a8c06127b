"""A turn of the page: agent/loop.py over the server's generations, in a worker thread.

`ServedModel` makes generations a ChatModel, so the page, the command line and the evals share one
loop. Events are JSON objects: step, reasoning, content, tool_call, tool_result, error, end.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from abruzzi.agent.loop import Finish, Limits, StepStart, ToolResult, run
from abruzzi.server.errors import ApiError
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.request import ChatRequest
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema, Structure
from abruzzi.tools import Tool, ToolOk
from abruzzi.types import ContentDelta, Event, Message, MessageEnd, ReasoningDelta, SamplingParams, ToolSpec

USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
Tell = Callable[[dict[str, Any] | None], None]


@dataclass(frozen=True, slots=True)
class Controls:
    """The page's controls: sampling, thinking (effort None = off), tools on or off."""

    params: SamplingParams
    effort: str | None
    with_tools: bool


@dataclass(slots=True, eq=False)
class Turn:
    """One turn under way. Used by the event loop, but for `model`, which its worker thread
    drives."""

    id: str
    scope: bytes
    model: ServedModel
    tools: tuple[Tool, ...]
    news: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)


class ServedModel:
    """The server's generations as a ChatModel, for an agent loop in another thread.

    Build it on the event loop. `stop` ends the generation that is under way where it is; the loop
    then ends as for any generation that was cut."""

    def __init__(self, service: Service, scope: bytes, controls: Controls) -> None:
        self.stopped = False
        self.generation: Generation | None = None
        self._service, self._scope, self._controls = service, scope, controls
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[Batch | End | Exception] = queue.SimpleQueue()
        self._pump: Future[None] | None = None

    def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), params: SamplingParams | None = None
    ) -> Iterator[Event]:
        """Called by the loop, in its thread. Raises ApiError."""
        request = chat_request(
            messages, [t.to_openai() for t in tools], replace(self._controls, params=params or self._controls.params)
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
                        tuple(t.logprob for t in item.tokens),
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
        """On the event loop: end the generation under way, and start none after it. Idempotent."""
        self.stopped = True
        end = self.generation.choices[0].cut() if self.generation is not None else None
        self._items.put(end or Stopped())
        if self._pump is not None:
            self._pump.cancel()  # it waits for tokens that will not come

    def answer_now(self) -> bool:
        """Close the thought that is open. Whether one was."""
        return self.generation is not None and any(c.answer_now() for c in self.generation.choices)


class Stopped(Exception):
    """The reader stopped the turn between two generations."""


def chat_request(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], controls: Controls) -> ChatRequest:
    """The request of one generation, with the tools' own schemas as its structure."""
    return ChatRequest(
        model=None,
        messages=tuple(messages),
        tools=tuple(dict(t) for t in tools),
        structure=Structure({f["name"]: Schema(f["parameters"], "tools") for f in (t["function"] for t in tools)}),
        params=controls.params,
        thinking=controls.effort is not None,
        effort=controls.effort,
        preserve_thinking=True,
    )


def run_turn(
    turn: Turn, messages: list[Message], params: SamplingParams, max_steps: int, usd_per_hour: float | None, tell: Tell
) -> None:
    """The agent's loop, in a worker thread. tell: takes each event as JSON, then None."""
    new: list[Message] = []
    last: MessageEnd | None = None
    first: MessageEnd | None = None
    reason = "error"
    usage: dict[str, int] = {}
    started = time.perf_counter()
    try:
        for event in run(turn.model, messages, turn.tools, params, Limits(max_steps)):
            if isinstance(event, MessageEnd):
                last, first = event, first or event
                new.append(event.message)
                for call in event.message.tool_calls:
                    tell({"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments})
            elif isinstance(event, ToolResult):
                new.append(Message("tool", event.result.message, tool_call_id=event.call.id))
                tell(_result(event))
            elif isinstance(event, Finish):
                reason = event.stop_reason
                usage = {f: getattr(event.usage, f) for f in USAGE}
                new = list(event.messages)
                if isinstance(event.error, ApiError):
                    tell({"type": "error", "message": event.error.message})
                elif event.error is not None and not isinstance(event.error, Stopped):
                    raise event.error
            elif isinstance(event, StepStart):
                tell({"type": "step", "number": event.number})
            elif isinstance(event, ReasoningDelta | ContentDelta):
                kind = "reasoning" if isinstance(event, ReasoningDelta) else "content"
                tell({"type": kind, "text": event.text, "tokens": 1})
    finally:
        if turn.model.stopped:
            reason = "stopped"
        tell(
            {
                "type": "end",
                "stop_reason": reason,
                "messages": [m.to_openai() for m in new],
                "usage": usage,
                "context_tokens": last.usage.prompt_tokens + last.usage.completion_tokens if last else 0,
                "decode_tok_s": last.decode_tok_s if last else None,
                "ttft_s": first.ttft_s if first else None,
                **_cost(time.perf_counter() - started, usd_per_hour),
            }
        )
        tell(None)


def _cost(seconds: float, usd_per_hour: float | None) -> dict[str, Any]:
    """The machine's time, all of it, also where other requests shared it. Not priced is null, never
    0."""
    if usd_per_hour is None:
        return {"cost_usd": None, "cost_basis": None}
    return {"cost_usd": seconds / 3600 * usd_per_hour, "cost_basis": f"{seconds:.1f} s at ${usd_per_hour:g} an hour"}


def _result(event: ToolResult) -> dict[str, Any]:
    return {
        "type": "tool_result",
        "id": event.call.id,
        "ok": isinstance(event.result, ToolOk),
        "result": event.result.message,
        "seconds": event.seconds,
    }

"""POST /v1/messages, written: Anthropic's dialect.

Thoughts are thinking blocks with a signature that carries their ids. That of a streamed thought
covers the thought, because it is sent when that ends; without streaming it covers the whole turn.
usage.input_tokens leaves out what came from the cache, as in Anthropic's API.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from abruzzi.server.errors import ApiError, anthropic_error
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.memory.seal import BROKEN_JSON
from abruzzi.server.sse import event
from abruzzi.types import ContentDelta, ReasoningDelta, ToolCallDelta, ToolCallStart, Usage


@dataclass(frozen=True, slots=True)
class MessagesOutput:
    """Options of the answer's form. omit_thought: a thought is its signature alone."""

    model: str
    stream: bool = False
    omit_thought: bool = False


class MessagesEncoder:
    """One Anthropic message."""

    def __init__(self, generation: Generation, output: MessagesOutput) -> None:
        self._generation, self._out = generation, output
        self._choice = generation.choices[0]
        self._index = -1  # of the block that is open, or was last
        self._open = ""  # its type
        self._sealed = False

    def start(self) -> bytes:
        # The prompt's length is known; what of it came from the cache is known at the end.
        message = self._frame([], None, Usage(prompt_tokens=len(self._generation.prompt)))
        return _event("message_start", message=message) + _event("ping")

    def batch(self, index: int, batch: Batch) -> bytes:
        out = bytearray()
        for item in batch.events:
            if isinstance(item, ReasoningDelta):
                out += self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                if not self._out.omit_thought:
                    out += self._delta(type="thinking_delta", thinking=item.text)
            elif isinstance(item, ContentDelta):
                out += self._block("text", {"type": "text", "text": ""})
                out += self._delta(type="text_delta", text=item.text)
            elif isinstance(item, ToolCallStart):
                call_id = self._choice.call_ids[item.position]
                out += self._stop_block()
                out += self._block("tool_use", {"type": "tool_use", "id": call_id, "name": item.name, "input": {}})
            elif isinstance(item, ToolCallDelta):
                out += self._delta(type="input_json_delta", partial_json=item.text)
        return bytes(out)

    def end(self, index: int, end: End) -> bytes:
        delta = {"stop_reason": _stop_reason(end), "stop_sequence": end.stop}
        tail = {"thinking_ended_by": end.thought_end}
        return self._stop_block() + _event("message_delta", delta=delta, usage=_usage(end.usage), **tail)

    def close(self) -> bytes:
        return _event("message_stop")

    def error(self, error: ApiError) -> bytes:
        return event(anthropic_error(error), "error")

    def body(self, ends: list[End]) -> dict[str, Any]:
        end = ends[0]
        message = end.message
        blocks: list[dict[str, Any]] = []
        if message.reasoning_content:
            signature = self._generation.seal(self._choice, end)
            shown = "" if self._out.omit_thought else message.reasoning_content
            blocks.append({"type": "thinking", "thinking": shown, "signature": signature})
        if message.content:
            blocks.append({"type": "text", "text": message.content})
        blocks += [
            {"type": "tool_use", "id": c.id, "name": c.name, "input": _input(c.arguments)} for c in message.tool_calls
        ]
        return {**self._frame(blocks, end, end.usage), "thinking_ended_by": end.thought_end}

    # parts

    def _frame(self, blocks: list[dict[str, Any]], end: End | None, usage: Usage) -> dict[str, Any]:
        return {
            "id": self._generation.id,
            "type": "message",
            "role": "assistant",
            "model": self._out.model,
            "content": blocks,
            "stop_reason": None if end is None else _stop_reason(end),
            "stop_sequence": None if end is None else end.stop,
            "usage": _usage(usage),
        }

    def _block(self, kind: str, block: dict[str, Any]) -> bytes:
        """Open a block of this kind, unless it is open."""
        if self._open == kind:
            return b""
        out = self._stop_block()
        self._index, self._open = self._index + 1, kind
        return out + _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, **delta: Any) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop_block(self) -> bytes:
        if not self._open:
            return b""
        out = b""
        if self._open == "thinking" and not self._sealed:
            self._sealed = True  # the seal is that of the first thought
            out = self._delta(type="signature_delta", signature=self._generation.seal(self._choice, None))
        self._open = ""
        return out + _event("content_block_stop", index=self._index)


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _stop_reason(end: End) -> str:
    if end.stop is not None:
        return "stop_sequence"
    return {"length": "max_tokens", "tool_calls": "tool_use"}.get(end.finish_reason, "end_turn")


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as the object that this dialect needs; broken JSON is kept under BROKEN_JSON."""
    try:
        value = json.loads(arguments, parse_float=_finite, parse_constant=_finite) if arguments.strip() else {}
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {BROKEN_JSON: arguments}


def _finite(number: str) -> float:
    """Raises ValueError for what JSON cannot hold: the model may write 1e999, and it would be read
    as Infinity."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value

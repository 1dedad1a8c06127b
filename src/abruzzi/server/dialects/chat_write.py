"""POST /v1/chat/completions, written: OpenAI's chat and the additions of open reasoning models.

Additions to OpenAI's answer: reasoning_content and reasoning, thinking_ended_by, token_ids /
sampled / prompt_token_ids on request, timings. chat_read.py reads the request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from abruzzi.engine.sequence import Token
from abruzzi.server.dialects.common import failure_of, timings_of
from abruzzi.server.errors import ApiError, openai_error
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.sse import event
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import (
    ContentDelta,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)


@dataclass(frozen=True, slots=True)
class ChatOutput:
    """Options of the answer's form. reasoning_field: both, reasoning_content or reasoning."""

    model: str
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    token_ids: bool = False
    reasoning_field: str = "both"
    fingerprint: str = ""


class ChatEncoder:
    """One chat completion."""

    def __init__(self, tok: Tokenizer, generation: Generation, output: ChatOutput) -> None:
        self._tok, self._generation, self._out = tok, generation, output
        self._created = int(time.time())
        self._ends: list[End] = []

    # streamed

    def start(self) -> bytes:
        extra = {"prompt_token_ids": list(self._generation.prompt)} if self._out.token_ids else {}
        first = {"role": "assistant", "content": ""}
        return b"".join(
            self._chunk(index, first, extra=extra if index == 0 else {})
            for index in range(len(self._generation.choices))
        )

    def batch(self, index: int, batch: Batch) -> bytes:
        deltas = self._deltas(index, batch)
        choice_fields = self._token_fields(batch.tokens)
        if not deltas and not choice_fields:
            return b""
        # Ids and log-probabilities go with the first piece of the batch.
        pieces = deltas or [{}]
        return b"".join(self._chunk(index, d, choice_fields if n == 0 else {}) for n, d in enumerate(pieces))

    def end(self, index: int, end: End) -> bytes:
        self._ends.append(end)
        fields = {"thinking_ended_by": end.thought_end, **failure_of(end)}
        return self._chunk(index, {}, fields, end.finish_reason)

    def close(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._out.include_usage:
            return done
        tail = self._frame("chat.completion.chunk")
        return event({**tail, "choices": [], "usage": usage_of(self._ends), "timings": timings_of(self._ends)}) + done

    def error(self, error: ApiError) -> bytes:
        return event(openai_error(error)) + b"data: [DONE]\n\n"

    # at once

    def body(self, ends: list[End]) -> dict[str, Any]:
        out = self._frame("chat.completion")
        out["choices"] = [self._choice(index, end) for index, end in enumerate(ends)]
        out["usage"], out["timings"] = usage_of(ends), timings_of(ends)
        if self._out.token_ids:
            out["prompt_token_ids"] = list(self._generation.prompt)
        return out

    def _choice(self, index: int, end: End) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": end.message.content or None if end.message.tool_calls else end.message.content,
            "refusal": None,
            **self._reasoning(end.message.reasoning_content),
        }
        if end.message.tool_calls:
            message["tool_calls"] = [{"index": n, **c.to_openai()} for n, c in enumerate(end.message.tool_calls)]
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": end.finish_reason,
            "thinking_ended_by": end.thought_end,
            **failure_of(end),
        }
        choice.update(self._token_fields(end.tokens))
        return choice

    # parts

    def _deltas(self, index: int, batch: Batch) -> list[dict[str, Any]]:
        """Neighbouring pieces of one kind put together."""
        out: list[dict[str, Any]] = []
        text, kind = "", ""
        for item in (*batch.events, None):
            now = (
                "reasoning" if isinstance(item, ReasoningDelta) else "content" if isinstance(item, ContentDelta) else ""
            )
            if text and now != kind:
                out.append(self._reasoning(text) if kind == "reasoning" else {"content": text})
                text = ""
            kind = now
            if isinstance(item, (ReasoningDelta, ContentDelta)):
                text += item.text
            elif isinstance(item, ToolCallStart):
                function = {"name": item.name, "arguments": ""}
                call_id = self._generation.choices[index].call_ids[item.position]
                out.append(
                    {"tool_calls": [{"index": item.position, "id": call_id, "type": "function", "function": function}]}
                )
            elif isinstance(item, ToolCallDelta):
                out.append({"tool_calls": [{"index": item.position, "function": {"arguments": item.text}}]})
        return out

    def _reasoning(self, text: str | None) -> dict[str, Any]:
        if text is None:
            return {}
        both = self._out.reasoning_field == "both"
        names = ("reasoning_content", "reasoning") if both else (self._out.reasoning_field,)
        return dict.fromkeys(names, text)

    def _token_fields(self, tokens: tuple[Token, ...]) -> dict[str, Any]:
        if not tokens:
            return {}
        out: dict[str, Any] = {}
        if self._out.logprobs:
            out["logprobs"] = {"content": [token_logprob(self._tok, t) for t in tokens], "refusal": None}
        if self._out.token_ids:
            out["token_ids"] = [t.id for t in tokens]
            out["sampled"] = [t.sampled for t in tokens]
        return out

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        choice_fields: dict[str, Any] | None = None,
        finish: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **(choice_fields or {})}
        frame = self._frame("chat.completion.chunk")
        if self._out.include_usage:
            frame["usage"] = None
        return event({**frame, "choices": [choice], **(extra or {})})

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._generation.id,
            "object": kind,
            "created": self._created,
            "model": self._out.model,
            "system_fingerprint": self._out.fingerprint,
        }


def token_logprob(tok: Tokenizer, token: Token) -> dict[str, Any]:
    """One entry of OpenAI's logprobs.content."""
    top = [_logprob(tok, *entry) for entry in token.top]
    return {**_logprob(tok, token.id, token.logprob), "top_logprobs": top}


def _logprob(tok: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    piece = tok.token_bytes(token_id)
    return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}


def usage_of(ends: list[End]) -> dict[str, Any]:
    """OpenAI's usage: the prompt once, the completions of all choices."""
    first = ends[0].usage if ends else Usage()
    completion = sum(e.usage.completion_tokens for e in ends)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": first.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(e.usage.reasoning_tokens for e in ends)},
    }

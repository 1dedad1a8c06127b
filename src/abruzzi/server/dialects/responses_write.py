"""POST /v1/responses, written: OpenAI's Responses. Thoughts are reasoning items.

With include=["reasoning.encrypted_content"] they carry their ids. The thought is sent as
reasoning_text, or as the summary for clients that ask for one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from abruzzi.server.errors import ApiError
from abruzzi.server.generation import Batch, End, Generation
from abruzzi.server.memory.seal import wire_id
from abruzzi.server.sse import event
from abruzzi.types import ContentDelta, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, Usage

KINDS = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}


@dataclass(frozen=True, slots=True)
class ResponseOutput:
    """Options of the answer's form. echo: what the response repeats of the request. namespaces: of
    a function that was declared in one, by the name that the model knows (`joined_name`)."""

    model: str
    stream: bool = False
    encrypted: bool = False
    summary: bool = False
    echo: dict[str, Any] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)

    def split_name(self, name: str) -> dict[str, str]:
        """`name`, and `namespace` where the function has one."""
        namespace = self.namespaces.get(name)
        if namespace is None:
            return {"name": name}
        return {"name": name[len(joined_name(namespace, "")) :], "namespace": namespace}


def joined_name(namespace: str, name: str) -> str:
    """The name of a function in a namespace, as the model knows it."""
    return f"{namespace}.{name}" if namespace else name


class ResponsesEncoder:
    """One response."""

    def __init__(self, generation: Generation, output: ResponseOutput) -> None:
        self._generation, self._out = generation, output
        self._choice = generation.choices[0]
        self._created = int(time.time())
        self._number = -1  # of the last event
        self._items: list[dict[str, Any]] = []  # those that are done
        self._open: dict[str, Any] | None = None
        self._text: list[str] = []  # of the open item
        self._ended: End | None = None

    def start(self) -> bytes:
        response = self._response("in_progress", None)
        return self._event("created", response=response) + self._event("in_progress", response=response)

    def batch(self, index: int, batch: Batch) -> bytes:
        out = bytearray()
        for item in batch.events:
            if isinstance(item, ReasoningDelta):
                out += self._begin("reasoning") + self._piece(item.text)
            elif isinstance(item, ContentDelta):
                out += self._begin("message") + self._piece(item.text)
            elif isinstance(item, ToolCallStart):
                out += self._done("completed")
                out += self._begin(
                    "function_call", call_id=self._choice.call_ids[item.position], **self._out.split_name(item.name)
                )
            elif isinstance(item, ToolCallDelta):
                out += self._piece(item.text)
            elif isinstance(item, ToolCallEnd):
                out += self._done("completed" if item.complete else "incomplete")
        return bytes(out)

    def end(self, index: int, end: End) -> bytes:
        self._ended = end
        return self._done("incomplete" if end.finish_reason == "length" else "completed")

    def close(self) -> bytes:
        assert self._ended is not None
        response = self._response(_status(self._ended), self._ended)
        return self._event("incomplete" if response["status"] == "incomplete" else "completed", response=response)

    def error(self, error: ApiError) -> bytes:
        self._number += 1
        fields = {"code": error.code or "server_error", "message": error.message, "param": error.param}
        return event({"type": "error", "sequence_number": self._number, **fields}, "error")

    def body(self, ends: list[End]) -> dict[str, Any]:
        end, message = ends[0], ends[0].message
        cut = "incomplete" if end.finish_reason == "length" else "completed"
        if message.reasoning_content:
            self._items.append(self._whole(self._empty("reasoning"), message.reasoning_content, "completed", end))
        if message.content:
            self._items.append(self._whole(self._empty("message"), message.content, cut, end))
        for call in message.tool_calls:
            item = self._empty("function_call", call_id=call.id, **self._out.split_name(call.name))
            last = call is message.tool_calls[-1]
            self._items.append(self._whole(item, call.arguments, cut if last else "completed", end))
        return self._response(_status(end), end)

    # items

    def _empty(self, kind: str, **fields: Any) -> dict[str, Any]:
        item = {"id": wire_id(KINDS[kind]), "type": kind, "status": "in_progress", **fields}
        if kind == "reasoning":
            return {**item, "summary": []}
        return {**item, "arguments": ""} if kind == "function_call" else {**item, "role": "assistant", "content": []}

    def _whole(self, item: dict[str, Any], text: str, status: str, end: End | None) -> dict[str, Any]:
        """The item with its text. end: the turn's, when it is known."""
        item = {**item, "status": status}
        if item["type"] == "function_call":
            return {**item, "arguments": text}
        if item["type"] == "message":
            return {**item, "content": [_part(text)]}
        if self._out.summary:
            item["summary"] = [{"type": "summary_text", "text": text}]
        else:
            item["content"] = [{"type": "reasoning_text", "text": text}]
        if self._out.encrypted:
            item["encrypted_content"] = self._generation.seal(self._choice, end)
        return item

    def _begin(self, kind: str, **fields: Any) -> bytes:
        """Open an item of this kind, unless it is open."""
        if self._open is not None and self._open["type"] == kind and kind != "function_call":
            return b""
        out = self._done("completed")
        self._open, self._text = self._empty(kind, **fields), []
        out += self._event("output_item.added", output_index=len(self._items), item=self._open)
        if kind == "message":
            out += self._event("content_part.added", **self._place(), content_index=0, part=_part(""))
        elif kind == "reasoning" and self._out.summary:
            part = {"type": "summary_text", "text": ""}
            out += self._event("reasoning_summary_part.added", **self._place(), summary_index=0, part=part)
        return out

    def _piece(self, text: str) -> bytes:
        assert self._open is not None
        self._text.append(text)
        name, more = self._names()
        return self._event(f"{name}.delta", **self._place(), **more, delta=text)

    def _done(self, status: str) -> bytes:
        """Close the open item."""
        if self._open is None:
            return b""
        text = "".join(self._text)
        name, more = self._names()
        what = {"arguments": text} if self._open["type"] == "function_call" else {"text": text}
        out = self._event(f"{name}.done", **self._place(), **more, **what)
        if self._open["type"] == "message":
            out += self._event("content_part.done", **self._place(), content_index=0, part=_part(text))
        elif self._open["type"] == "reasoning" and self._out.summary:
            part = {"type": "summary_text", "text": text}
            out += self._event("reasoning_summary_part.done", **self._place(), summary_index=0, part=part)
        item = self._whole(self._open, text, status, None)
        out += self._event("output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open = None
        return out

    def _names(self) -> tuple[str, dict[str, Any]]:
        """How the open item's text events are called, and their further fields."""
        assert self._open is not None
        if self._open["type"] == "function_call":
            return "function_call_arguments", {}
        if self._open["type"] == "message":
            return "output_text", {"content_index": 0, "logprobs": []}
        return (
            ("reasoning_summary_text", {"summary_index": 0})
            if self._out.summary
            else (
                "reasoning_text",
                {"content_index": 0},
            )
        )

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._items)}

    # frames

    def _event(self, name: str, **fields: Any) -> bytes:
        self._number += 1
        kind = f"response.{name}"
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _response(self, status: str, end: End | None) -> dict[str, Any]:
        cut = status == "incomplete"
        return {
            "id": self._generation.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": self._out.model,
            "output": list(self._items),
            "usage": None if end is None else _usage(end.usage),
            "thinking_ended_by": None if end is None else end.thought_end,
            **self._out.echo,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(end: End) -> str:
    return "incomplete" if end.finish_reason == "length" else "completed"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }

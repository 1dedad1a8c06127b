"""Prefill: a last message of the assistant is the beginning of the answer, which goes on behind it.

The answer holds the continuation alone, in all dialects. Thinking comes in front of an answer, so
none is begun behind a prefill; the message may bring its own. What cannot be continued is a 400: a
message that ends with calls (it waits for their results) or is a thought alone, and a prefill with
thinking switched on by the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from abruzzi.server.errors import ApiError, unsupported
from abruzzi.server.request import Thinking
from abruzzi.types import Message


def split_prefill(
    messages: Sequence[Message], thinking: Thinking, field: str
) -> tuple[tuple[Message, ...], Message | None]:
    """The messages, and the beginning of the answer where the last one is the assistant's.

    An empty last message is no beginning and left out. field: the messages' name. Raises
    ApiError."""
    if not messages or messages[-1].role != "assistant":
        return tuple(messages), None
    *before, last = messages
    if last.tool_calls:
        raise unsupported(
            field, "an assistant's message with calls at the end", "send the results of its calls behind it"
        )
    if not last.content:
        if last.reasoning_content:
            raise unsupported(field, "an assistant's thought at the end", "only text can be continued")
        return tuple(before), None
    if thinking.enabled is True and not last.reasoning_content:
        raise ApiError(
            400,
            f"{field} end with the assistant's text, but thinking is switched on, and a thought comes before the text; "
            "hint: switch thinking off, send the thought with the text, or end with a user's message",
            field,
            "contradiction",
        )
    return tuple(before), last

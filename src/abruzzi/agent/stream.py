"""One streamed message of an endpoint, from bytes to events: what a server says in its own way is
understood, what nobody could understand is one clear EndpointError."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, cast

from abruzzi.agent.chunk import Chunk, complaint_in, read_chunk, text_of
from abruzzi.agent.endpoint import EndpointError, complaint, one_line
from abruzzi.agent.event_stream import OddLine, events, is_done, split_lines
from abruzzi.agent.pieces import StreamedCalls
from abruzzi.agent.think_tags import ThinkTags, split_at_end
from abruzzi.types import (
    ContentDelta,
    Event,
    FinishReason,
    Message,
    MessageEnd,
    ReasoningDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)

FINISH_REASONS = ("stop", "length", "tool_calls")
ODD_CHARACTERS = 100_000  # of a page that is no event stream are enough to say so


class MessageStream:
    """Puts the pieces of one streamed message together."""

    def __init__(self, where: str, content_type: str, started: float) -> None:
        self.where, self.content_type, self.started = where, content_type, started
        self.first: float | None = None
        self.reasoning: list[str] = []
        self.content: list[str] = []
        self.calls = StreamedCalls()
        self.open: int | None = None
        self.finish: str | None = None
        self.usage = Usage()
        self._tags = ThinkTags()
        self._thought, self._text = WholeCharacters(), WholeCharacters()

    def events(self, pieces: Iterable[bytes]) -> Iterator[Event]:
        done = seen = False
        odd: list[str] = []
        for item in events(split_lines(pieces), eager=True):
            if isinstance(item, OddLine):
                odd.append(item.text)
                self._complain(item.text.removeprefix("error:") if item.text.startswith("error:") else "", bare=True)
                if not seen and sum(map(len, odd)) > ODD_CHARACTERS:
                    break
                continue
            if is_done(item.data):
                done = True
                break
            if item.name == "error":
                raise EndpointError(f"{self.where} reported an error: {one_line(_said(item.data))}")
            seen = True
            yield from self._chunk(read_chunk(self._object(item.data)))
        if not seen and odd:
            self._not_a_stream("\n".join(odd))
        if not done and self.finish is None:
            raise EndpointError(f"{self.where} closed the stream in mid-answer; hint: look at the server's log")
        yield from self._rest()
        yield self._end()

    def _object(self, data: str) -> dict[str, Any]:
        """The JSON object of an event. Raises EndpointError."""
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EndpointError(
                f"{self.where} sent something that is not JSON: {one_line(data)}; "
                "hint: is this an OpenAI-compatible chat endpoint?"
            ) from error
        if not isinstance(chunk, dict):
            raise EndpointError(f"{self.where} sent {one_line(data)} where an object was expected")
        return chunk

    def _complain(self, text: str, bare: bool = False) -> None:
        """Raise what an answer that is no stream says went wrong, if it says so."""
        said = complaint(text) or (text.strip() if bare else "")
        if said:
            raise EndpointError(f"{self.where} reported an error: {one_line(said)}")

    def _not_a_stream(self, text: str) -> NoReturn:
        self._complain(text)
        raise EndpointError(
            f"{self.where} answered with {self.content_type or 'no content type'} where an event stream was asked for: "
            f"{one_line(text)}; hint: is this an OpenAI-compatible chat endpoint that streams?"
        )

    def _chunk(self, chunk: Chunk) -> Iterator[Event]:
        if chunk.error is not None:
            raise EndpointError(f"{self.where} reported an error: {one_line(chunk.error)}")
        self.usage = chunk.usage or self.usage
        self.finish = chunk.finish or self.finish
        if chunk.is_message and (self.first is not None):
            return  # it says again what came in pieces
        if self.first is None and (chunk.reasoning or chunk.content or chunk.calls):
            self.first = time.monotonic()
        if thought := self._thought.feed(chunk.reasoning):
            yield from self._keep([ReasoningDelta(thought)])
        if text := self._text.feed(chunk.content):
            yield from self._keep(self._tags.feed(text))
        if chunk.calls:
            yield from self._keep(self._tags.close())
        for piece in chunk.calls:
            for event in self.calls.feed(piece):
                if isinstance(event, ToolCallStart):
                    yield from self._close()
                    self.open = event.position
                yield event

    def _keep(self, deltas: Iterable[ContentDelta | ReasoningDelta]) -> Iterator[Event]:
        for delta in deltas:
            (self.content if isinstance(delta, ContentDelta) else self.reasoning).append(delta.text)
            yield delta

    def _rest(self) -> Iterator[Event]:
        """What was held back, then the end of the open call."""
        if thought := self._thought.close():
            yield from self._keep([ReasoningDelta(thought)])
        if text := self._text.close():
            yield from self._keep(self._tags.feed(text))
        yield from self._keep(self._tags.close())
        yield from self._close()

    def _close(self) -> Iterator[Event]:
        if self.open is not None:
            yield ToolCallEnd(self.open, complete=self.finish != "length")
            self.open = None

    def _end(self) -> MessageEnd:
        calls = self.calls.finished()
        reasoning, content = "".join(self.reasoning), "".join(self.content)
        if not reasoning and (parts := split_at_end(content)):
            reasoning, content = parts
        message = Message(role="assistant", content=content, reasoning_content=reasoning or None, tool_calls=calls)
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


class WholeCharacters:
    """JSON text in pieces, where a server may have cut between the two halves of a UTF-16 pair.

    A half that stays alone becomes U+FFFD: no UTF-8 can hold it, so nothing could be printed or
    sent back."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, text: str) -> str:
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return _paired(text)

    def close(self) -> str:
        half, self._half = self._half, ""
        return _paired(half)


def _paired(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if not text.isascii() else text


def _said(data: str) -> str:
    """What an `event: error` says: its message where it is an object with one."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return complaint_in(given) or text_of(given.get("message") if isinstance(given, dict) else given) or data

"""Token ids -> typed events: the streaming parser of server, agent, training and evals.

A state machine over ids, never over the text of a whole message, so that streaming and not
streaming cannot differ. Control tokens move the machine and never reach a field; which of them mean
what, the tokenizer's chat format says (marker_ids.meanings). What real models do wrong is handled
(k2.md 5.3): calls inside a thought, a missing end of thought, calls without a section, broken JSON
(passed through), labels without an index, names with dots and hyphens, ends in the middle.

Tokenizers without think tokens spell the markers as text; then, and only then, text is watched for
them, and what may be the beginning of a marker is held back. It does not check arguments against a
schema.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum, auto

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.tokenizer.formats.format import THINKING, Marker
from abruzzi.types import (
    ContentDelta,
    Message,
    ParserEvent,
    ReasoningDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)


class State(Enum):
    """Where in a message the machine stands."""

    TEXT = auto()
    THINK = auto()
    SECTION = auto()  # between calls
    HEADER = auto()
    ARGUMENTS = auto()
    DONE = auto()


class ChatParser:
    """Feed it one id after the other; copy.deepcopy captures its state.

    in_thinking: the prompt already opened a thought. stray: how many ids were dropped because they
    made no sense where they stood: control tokens out of place, anything behind the end of the
    turn. reasoning_tokens: how many ids were thought, markers that are control tokens not
    counted."""

    def __init__(self, tok: Tokenizer, in_thinking: bool = False) -> None:
        self._spelled = tok.marker_ids.spells_thinking
        self.state = State.THINK if in_thinking else State.TEXT
        self.stray = 0
        self.reasoning_tokens = 0
        self._tok = tok
        self._open_thought, self._close_thought = (tok.format.markers.get(m, ("",))[0] for m in THINKING)
        self._decoder = _Utf8()
        self._pending = ""  # may still become a marker, or white space that is only layout
        self._began = False  # content other than white space was written
        self._header: list[str] = []
        self._ids: list[int] = []
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[_Call] = []

    @property
    def in_thinking(self) -> bool:
        """Whether the next text is thought."""
        return self.state is State.THINK

    def feed(self, token_id: int) -> list[ParserEvent]:
        """Events that this id completes. Raises ValueError for an id outside the vocabulary."""
        if self.state is State.DONE:
            self.stray += 1
            return []
        name = self._tok.control_text.get(token_id)
        piece = self._tok.token_bytes(token_id) if name is None else b""
        self._ids.append(token_id)
        if name is not None:
            return self._control(token_id)
        if self.state is State.THINK:
            self.reasoning_tokens += 1
        return self._text(self._decoder.decode(piece))

    def feed_all(self, ids: Iterable[int]) -> list[ParserEvent]:
        """feed, for many."""
        return [event for token_id in ids for event in self.feed(token_id)]

    def finish(self) -> list[ParserEvent]:
        """Flush at the end of the generation: pending text, and the end of a call that was cut."""
        events = self._leave(complete=False)
        self.state = State.DONE
        return events

    def message(self) -> Message:
        """The message so far: fields, and the ids up to and including the end of the turn.

        An empty thought is no thought (reasoning_content None). Calls have no id yet, only what the
        model wrote: name and index."""
        return Message(
            role="assistant",
            content="".join(self._content),
            reasoning_content="".join(self._reasoning) or None,
            tool_calls=tuple(ToolCall(c.name, "".join(c.arguments), "", c.index) for c in self._calls),
            ids=tuple(self._ids),
        )

    # control tokens

    def _control(self, token_id: int) -> list[ParserEvent]:
        state, marker = self.state, self._tok.marker_ids.meanings.get(token_id)
        if token_id in self._tok.end_ids:
            events = self._go(State.DONE)
        elif marker is Marker.THINK_OPEN and state in (State.TEXT, State.SECTION):
            events = self._go(State.THINK)
        elif marker is Marker.THINK_CLOSE and state is State.THINK:
            events = self._go(State.TEXT)
        elif marker is Marker.SECTION_OPEN and state in (State.TEXT, State.THINK):
            events = self._go(State.SECTION)
        elif marker is Marker.SECTION_CLOSE and state in (State.SECTION, State.HEADER, State.ARGUMENTS):
            events = self._go(State.TEXT)
        elif marker is Marker.CALL_OPEN:
            events = self._go(State.HEADER)
        elif marker is Marker.CALL_ARGUMENTS and state is State.HEADER:
            events = self._start_call()
            self.state = State.ARGUMENTS
        elif marker is Marker.CALL_CLOSE and state in (State.HEADER, State.ARGUMENTS):
            events = self._leave(complete=True)
            self.state = State.SECTION
        else:
            self.stray += 1
            events = []
        return events

    def _go(self, state: State) -> list[ParserEvent]:
        events = self._leave(complete=False)
        self.state = state
        return events

    def _leave(self, complete: bool) -> list[ParserEvent]:
        """Close the current state: unfinished characters, pending text, an open call."""
        events = self._text(self._decoder.finish())
        pending, self._pending = self._pending, ""
        if self.state is State.HEADER:
            events += self._start_call()
            events.append(ToolCallEnd(len(self._calls) - 1, complete))
        elif self.state is State.ARGUMENTS:
            events.append(ToolCallEnd(len(self._calls) - 1, complete))
        elif pending and self.state in (State.TEXT, State.THINK):
            events += self._write(pending)
        return events

    def _start_call(self) -> list[ParserEvent]:
        self._header.append(self._decoder.finish())
        label = "".join(self._header)
        self._header = []
        call = _Call(*self._tok.format.read_label(label))
        self._calls.append(call)
        return [ToolCallStart(len(self._calls) - 1, call.name)]

    # text

    def _text(self, text: str) -> list[ParserEvent]:
        if not text:
            return []
        state = self.state
        if state is State.HEADER:
            self._header.append(text)
            return []
        if state is State.ARGUMENTS:
            return self._argument_text(text)
        if state is State.SECTION:
            return self._section_text(text)
        return self._watched(text) if self._spelled else self._write(text)

    def _argument_text(self, text: str) -> list[ParserEvent]:
        call = self._calls[-1]
        solid = self._without_trailing_space(text)
        if not call.arguments:
            solid = solid.lstrip()
        if not solid:
            return []
        call.arguments.append(solid)
        return [ToolCallDelta(len(self._calls) - 1, solid)]

    def _section_text(self, text: str) -> list[ParserEvent]:
        # White space around calls is layout; anything else the model wrote is kept.
        return self._write(self._without_trailing_space(text))

    def _without_trailing_space(self, text: str) -> str:
        """Pending text and this, up to the last character that is no white space; the rest is
        pending."""
        text = self._pending + text
        solid = text.rstrip()
        self._pending = text[len(solid) :]
        return solid

    def _watched(self, text: str) -> list[ParserEvent]:
        """Text of a tokenizer whose think markers are spelled out.

        A thought opens only at the beginning of the message; later the word is just a word."""
        events: list[ParserEvent] = []
        text, self._pending = self._pending + text, ""
        while text and (self.state is State.THINK or not self._began):
            thinking = self.state is State.THINK
            marker = self._close_thought if thinking else self._open_thought
            before, found, after = text.partition(marker)
            if found and (thinking or not before.strip()):
                if thinking:
                    events += self._write(before)
                self.state = State.TEXT if thinking else State.THINK
                self._began = thinking
                text = after
                continue
            keep = _beginning_of(marker, text)
            if not thinking and not text[: len(text) - keep].strip():
                keep = len(text)  # white space before a possible marker
            elif not thinking:
                keep = 0
            self._pending = text[len(text) - keep :]
            return events + self._write(text[: len(text) - keep])
        return events + self._write(text)

    def _write(self, text: str) -> list[ParserEvent]:
        if not text:
            return []
        if self.state is State.THINK:
            self._reasoning.append(text)
            return [ReasoningDelta(text)]
        self._began = self._began or not text.isspace()
        self._content.append(text)
        return [ContentDelta(text)]


class _Call:
    """A call under construction."""

    def __init__(self, name: str, index: int | None) -> None:
        self.name, self.index = name, index
        self.arguments: list[str] = []


class _Utf8:
    """An incremental UTF-8 decoder; the bytes of an unfinished character wait for the next
    token."""

    def __init__(self) -> None:
        self._waiting = b""

    def decode(self, piece: bytes) -> str:
        """The characters that these bytes complete; invalid UTF-8 becomes U+FFFD."""
        if not self._waiting and piece.isascii():
            return piece.decode("ascii")
        piece = self._waiting + piece
        text, used = codecs.utf_8_decode(piece, "replace", False)
        self._waiting = piece[used:]
        return text

    def finish(self) -> str:
        """U+FFFD for bytes that still wait, and a fresh start."""
        if not self._waiting:
            return ""
        waiting, self._waiting = self._waiting, b""
        return waiting.decode("utf-8", "replace")


def parse(tok: Tokenizer, ids: Iterable[int], in_thinking: bool = False) -> Message:
    """The message of a whole generation; its ids are attached to it, up to the end of the turn.

    Raises ValueError for an id outside the vocabulary and a tokenizer without the chat's control
    tokens."""
    parser = ChatParser(tok, in_thinking)
    parser.feed_all(ids)
    parser.finish()
    return parser.message()


def message_from_completion(
    tok: Tokenizer, prompt_suffix_ids: Sequence[int], ids: Sequence[int], sampled: Sequence[bool] | None = None
) -> Message:
    """The message of a generation whose prompt went beyond the assistant's header.

    prompt_suffix_ids: what the prompt held behind the header, e.g. `render.generation_prefix(tok,
    thinking=False)`; they become part of the message's ids, with sampled=False. sampled: one flag
    for each of `ids`, None = all were sampled. Raises ValueError when their number differs."""
    flags = [True] * len(ids) if sampled is None else list(sampled)
    if len(flags) != len(ids):
        raise ValueError(f"{len(flags)} 'sampled' flags for {len(ids)} ids; expected one flag per id")
    message = parse(tok, (*prompt_suffix_ids, *ids))
    assert message.ids is not None
    flags = [False] * len(prompt_suffix_ids) + flags
    return replace(message, sampled=tuple(flags[: len(message.ids)]))


def _beginning_of(marker: str, text: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)

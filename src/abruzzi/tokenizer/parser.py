"""Token ids -> typed events: the one parser of server, agent, training and evals.

A state machine over ids, never over the text of a whole message, so that streaming and not streaming
cannot differ. Control tokens move the machine and never reach a field. What real models do wrong is
handled (k2.md 5.3): calls inside a thought, a missing end of thought, calls without a section, broken
JSON (passed through), ids without an index, names with dots and hyphens, ends in the middle.

Tokenizers without think tokens spell the markers as text; then, and only then, text is watched for them,
and what may be the beginning of a marker is held back.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from enum import Enum, auto

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.tokenizer.chat import (
    ARGUMENTS,
    CALL,
    END_CALL,
    END_SECTION,
    END_THINK,
    SECTION,
    THINK,
    require_chat_tokens,
)
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

_LABEL = re.compile(r"(?:functions\.)?(.*?)(?::(\d{1,9}))?", re.DOTALL)
# Released tokenizers have the plural spelling only; other engines' parsers accept both.
_SINGULAR = {"<|tool_call_section_begin|>": SECTION, "<|tool_call_section_end|>": END_SECTION}


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

    in_thinking: the prompt already opened a thought. stray: how many ids were dropped because they made
    no sense where they stood (control tokens out of place, anything behind the end)."""

    def __init__(self, tok: Tokenizer, in_thinking: bool = False) -> None:
        require_chat_tokens(tok)
        self.state = State.THINK if in_thinking else State.TEXT
        self.stray = 0
        self.reasoning_tokens = 0
        self._tok = tok
        self._names = {i: _SINGULAR.get(t, t) for t, i in tok.control.items()}
        self._spelled = tok.id_of(END_THINK) is None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # text that may still become a marker, or white space behind arguments
        self._began = False  # something other than white space was written
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
        self._ids.append(token_id)
        if self.state is State.DONE:
            self.stray += 1
            return []
        name = self._names.get(token_id)
        if name is not None:
            return self._control(name, token_id)
        if self.state is State.THINK:
            self.reasoning_tokens += 1
        return self._text(self._decoder.decode(self._tok.token_bytes(token_id)))

    def feed_all(self, ids: Iterable[int]) -> list[ParserEvent]:
        """feed, for many."""
        return [event for token_id in ids for event in self.feed(token_id)]

    def finish(self) -> list[ParserEvent]:
        """The generation is over: what was held back, and the end of a call that was cut."""
        events = self._leave(complete=False)
        self.state = State.DONE
        return events

    def message(self) -> Message:
        """The message so far. An empty thought is no thought (None)."""
        return Message(
            role="assistant",
            content="".join(self._content),
            reasoning_content="".join(self._reasoning) or None,
            tool_calls=tuple(ToolCall(c.name, "".join(c.arguments), "", c.index) for c in self._calls),
            ids=tuple(self._ids),
        )

    # control tokens

    def _control(self, name: str, token_id: int) -> list[ParserEvent]:
        state = self.state
        if token_id in self._tok.end_ids:
            events = self._leave(complete=False)
            self.state = State.DONE
        elif name == THINK and state in (State.TEXT, State.SECTION):
            events = self._go(State.THINK)
        elif name == END_THINK and state is State.THINK:
            events = self._go(State.TEXT)
        elif name == SECTION and state in (State.TEXT, State.THINK):
            events = self._go(State.SECTION)
        elif name == END_SECTION and state in (State.SECTION, State.HEADER, State.ARGUMENTS):
            events = self._go(State.TEXT)
        elif name == CALL:
            events = self._go(State.HEADER)
        elif name == ARGUMENTS and state is State.HEADER:
            events = self._start_call()
            self.state = State.ARGUMENTS
        elif name == END_CALL and state in (State.HEADER, State.ARGUMENTS):
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
        """Close the current state: unfinished characters, held text, an open call."""
        rest = self._decoder.decode(b"", final=True)
        events = self._text(rest) if rest else []
        held, self._held = self._held, ""
        if self.state is State.HEADER:
            events += self._start_call()
            events.append(ToolCallEnd(len(self._calls) - 1, complete))
        elif self.state is State.ARGUMENTS:
            events.append(ToolCallEnd(len(self._calls) - 1, complete))
        elif held and self.state in (State.TEXT, State.THINK):
            events += self._write(held)
        return events

    def _start_call(self) -> list[ParserEvent]:
        # Bytes that end in mid-character belong to the header they stand in.
        self._header.append(self._decoder.decode(b"", final=True))
        label = "".join(self._header).strip()
        self._header = []
        match = _LABEL.fullmatch(label)
        assert match is not None
        call = _Call(match[1], int(match[2]) if match[2] else None)
        self._calls.append(call)
        return [ToolCallStart(len(self._calls) - 1, call.name)]

    # text

    def _text(self, text: str) -> list[ParserEvent]:
        if not text:
            return []
        if self.state is State.HEADER:
            self._header.append(text)
            return []
        if self.state is State.ARGUMENTS:
            return self._argument_text(text)
        if self.state is State.SECTION:
            # White space between calls is layout; anything else the model wrote is kept.
            return self._write(text) if text.strip() else []
        return self._watched(text) if self._spelled else self._write(text)

    def _argument_text(self, text: str) -> list[ParserEvent]:
        call = self._calls[-1]
        text = self._held + text
        if not call.arguments:
            text = text.lstrip()
        solid = text.rstrip()
        self._held = text[len(solid) :]
        if not solid:
            return []
        call.arguments.append(solid)
        return [ToolCallDelta(len(self._calls) - 1, solid)]

    def _watched(self, text: str) -> list[ParserEvent]:
        """Text of a tokenizer whose think markers are spelled out."""
        events: list[ParserEvent] = []
        text = self._held + text
        self._held = ""
        while text:
            # A thought opens only at the beginning; later the word is just a word.
            wanted = END_THINK if self.state is State.THINK else THINK
            if self.state is State.TEXT and self._began:
                events += self._write(text)
                break
            at = text.find(wanted)
            if at >= 0 and (self.state is State.THINK or not text[:at].strip()):
                events += self._write(text[:at]) if self.state is State.THINK else []
                text = text[at + len(wanted) :]
                self.state = State.TEXT if self.state is State.THINK else State.THINK
                self._began = self._began or self.state is State.TEXT
                continue
            hold = next((n for n in range(min(len(wanted) - 1, len(text)), 0, -1) if wanted.startswith(text[-n:])), 0)
            if self.state is State.TEXT and text[: len(text) - hold].strip():
                hold = 0
            elif self.state is State.TEXT and not text.strip():
                hold = len(text)  # white space before a possible marker
            events += self._write(text[: len(text) - hold])
            self._held = text[len(text) - hold :]
            break
        return events

    def _write(self, text: str) -> list[ParserEvent]:
        if not text:
            return []
        if self.state is State.THINK:
            self._reasoning.append(text)
            return [ReasoningDelta(text)]
        self._began = self._began or bool(text.strip())
        self._content.append(text)
        return [ContentDelta(text)]


class _Call:
    """A call under construction."""

    def __init__(self, name: str, index: int | None) -> None:
        self.name, self.index = name, index
        self.arguments: list[str] = []


def parse(tok: Tokenizer, ids: Iterable[int], in_thinking: bool = False) -> Message:
    """The message of a whole generation; `ids` are attached to it."""
    parser = ChatParser(tok, in_thinking)
    parser.feed_all(ids)
    parser.finish()
    return parser.message()

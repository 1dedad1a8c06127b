"""A chat format as data: which markers a family writes around turns, thoughts and tool calls.

The renderer (render.py), the parser (parser.py), the jinja template (template.py), the spans of a
conversation (spans.py) and the grammar of a turn (engine/grammar/turn.py) ask a ChatFormat for
every marker they write or read. The instances are files of their own (k2.py); choose.py says which
one a vocabulary speaks, and `Tokenizer.format` holds it. Nothing here knows a tokenizer: ids come
in as a mapping from a control token's text to its id, because names are the same in all checkpoints
of a family and ids are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

_MAX_DIGITS = 9  # a longer "index" is no index that anybody counted to


class Marker(Enum):
    """What a control token inside the assistant's turn means. Values: the fields of MarkerIds."""

    THINK_OPEN = "think_open"
    THINK_CLOSE = "think_close"
    SECTION_OPEN = "section_open"  # around all calls of a turn
    SECTION_CLOSE = "section_close"
    CALL_OPEN = "call_open"  # around one call: label, CALL_ARGUMENTS, arguments
    CALL_ARGUMENTS = "call_arguments"
    CALL_CLOSE = "call_close"


THINKING = (Marker.THINK_OPEN, Marker.THINK_CLOSE)
ABSENT = -1  # no token's id


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before a turn's text: the control token `open`, a name as text, the token `close`;
    where `plain`, close is text too, and runs on into the turn's own."""

    open: str
    close: str
    plain: bool = False


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """All markers of one family. Texts are those of control tokens unless said otherwise.

    name, title: for programs and for people (error messages).
    headers: by role; a role without one uses "system"'s, which must be there.
    ends: every token that ends a turn; the first is the one the renderer writes, and then the text
        `between` turns.
    markers: spellings of each marker; a tokenizer writes the first that it has and reads them all.
        The two of THINKING may be absent from a vocabulary: they are then plain text. A format
        without thoughts, or without calls, has none of their markers here.
    call_label: text between CALL_OPEN and CALL_ARGUMENTS, with {name} and {index} (of the call in the
        conversation). label_pattern reads it: group 1 the name, group 2 the index or None; it must
        match every text, as models write anything.
    body: how arguments are written. "json": one JSON text behind CALL_ARGUMENTS.
    tools_name: name of the "system" turn that declares tools. tools_json: options of json.dumps.
    result: text of a tool's turn, with {label} of the call and {content}.
    clears_thinking: the role whose last message without calls makes thoughts up to it history, which
        is rendered without them unless `preserve_thinking` (K2: the final answer, "assistant").
    system: the system line where a conversation brings none and the checkpoint does not say.
    not_beside: control tokens of other formats with the same turns: a vocabulary with one of them does
        not speak this one.
    special: tokens of tokenizer_config.json, by its key. template: jinja; `${...}` are filled by
        template.py."""

    name: str
    title: str
    headers: Mapping[str, Header]
    ends: tuple[str, ...]
    markers: Mapping[Marker, tuple[str, ...]]
    call_label: str
    label_pattern: re.Pattern[str]
    tools_name: str
    result: str
    clears_thinking: Literal["assistant", "user"]
    system: str
    template: str
    tools_json: Mapping[str, Any] = field(default_factory=dict)
    special: Mapping[str, str] = field(default_factory=dict)
    body: Literal["json"] = "json"
    between: str = ""
    not_beside: tuple[str, ...] = ()

    @property
    def thinks(self) -> bool:
        """Whether there are thoughts."""
        return Marker.THINK_OPEN in self.markers

    @property
    def calls(self) -> bool:
        """Whether there are tool calls."""
        return Marker.CALL_OPEN in self.markers

    def spelling(self, marker: Marker, control: Mapping[str, int]) -> str:
        """How a vocabulary writes a marker; the usual spelling where it has none of them."""
        spellings = self.markers[marker]
        return next((text for text in spellings if text in control), spellings[0])

    def label(self, name: str, index: int) -> str:
        """The text that names a call."""
        return self.call_label.format(name=name, index=index)

    def read_label(self, text: str) -> tuple[str, int | None]:
        """Name and index of a call, from whatever the model wrote between its markers."""
        match = self.label_pattern.fullmatch(text.strip())
        assert match is not None, "label_pattern must match every text"
        digits = match[2]
        return match[1], int(digits) if digits and len(digits) <= _MAX_DIGITS else None

    def missing(self, control: Mapping[str, int]) -> list[str]:
        """Control tokens that the format needs and a vocabulary lacks."""
        headers = [*dict.fromkeys(h.open for h in self.headers.values())]
        headers += dict.fromkeys(h.close for h in self.headers.values() if not h.plain)
        inside = [self.spelling(m, control) for m in self.markers if m not in THINKING]
        return [text for text in (*headers, self.ends[0], *inside) if text not in control]

    def require(self, control: Mapping[str, int]) -> None:
        """Raises ValueError when control tokens of the format are absent."""
        missing = self.missing(control)
        if missing:
            raise ValueError(
                f"this tokenizer lacks {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}; expected the "
                f"control tokens of {self.title}; hint: it is of another family, or its tokenizer_config.json is not "
                "there (encode and decode still work)"
            )


@dataclass(frozen=True, slots=True)
class MarkerIds:
    """A format's markers as ids of one vocabulary (`Tokenizer.marker_ids`).

    headers: (open, close) by role, close being ABSENT where it is text. end_of_turn: the one that is
    written; all are in `Tokenizer.end_ids`. between: ids of the text behind it. section_*, call_*:
    ABSENT in a format without calls. think_open, think_close: None where the vocabulary spells them
    as text, or the format has no thoughts; open_thought, close_thought are the ids that write them
    either way. thinks: there are thoughts. call_begins: every id with which a call can begin.
    meanings: of all markers, in all spellings."""

    headers: Mapping[str, tuple[int, int]]
    end_of_turn: int
    between: tuple[int, ...]
    section_open: int
    section_close: int
    call_open: int
    call_arguments: int
    call_close: int
    think_open: int | None
    think_close: int | None
    open_thought: tuple[int, ...]
    close_thought: tuple[int, ...]
    thinks: bool
    call_begins: frozenset[int]
    meanings: Mapping[int, Marker]

    @property
    def spells_thinking(self) -> bool:
        """Whether a thought's marker is text to this vocabulary."""
        return self.thinks and (self.think_open is None or self.think_close is None)

    def header(self, role: str) -> tuple[int, int]:
        """(open, close) of a turn of this role."""
        return self.headers.get(role, self.headers["system"])


def resolve(format: ChatFormat, control: Mapping[str, int], encode: Callable[[str], Sequence[int]]) -> MarkerIds:
    """Look all markers up. control: text -> id. encode: plain text -> ids, for markers that are
    text.

    Raises ValueError when control tokens of the format are absent."""
    format.require(control)
    here = {m: control.get(format.spelling(m, control)) for m in format.markers}
    thought = [here.get(m) for m in THINKING]
    open_thought, close_thought = (
        (tuple(encode(format.markers[m][0])) if token_id is None else (token_id,)) if format.thinks else ()
        for m, token_id in zip(THINKING, thought)
    )
    inside = {m.value: here.get(m, ABSENT) for m in Marker if m not in THINKING}
    meanings = {control[text]: m for m, spellings in format.markers.items() for text in spellings if text in control}
    return MarkerIds(
        headers={r: (control[h.open], ABSENT if h.plain else control[h.close]) for r, h in format.headers.items()},
        end_of_turn=control[format.ends[0]],
        between=tuple(encode(format.between)),
        **inside,  # type: ignore[arg-type]  # `require` has looked
        think_open=thought[0],
        think_close=thought[1],
        open_thought=open_thought,
        close_thought=close_thought,
        thinks=format.thinks,
        call_begins=frozenset(i for i, m in meanings.items() if m in (Marker.SECTION_OPEN, Marker.CALL_OPEN)),
        meanings=meanings,
    )

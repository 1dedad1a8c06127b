"""Server-sent events, read from bytes by the standard (WHATWG HTML, 9.2 "Server-sent events").

A line ends at CR, LF or CRLF and nowhere else. `str.splitlines`, and HTTP libraries that use it,
also split at U+2028, U+2029, U+0085, VT and FF, all of which JSON may hold as they are. One reader
for both clients: agent/client.py, which forgives what it can, and verify/wire.py, which counts what
a server gets wrong.

    list(events(split_lines([b"data: a\\r", b"\\ndata:b\\n\\n"]))) == [ServerEvent("a\\nb")]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_END = re.compile(rb"\r\n|\r|\n")
_FIELDS = ("data", "event", "id", "retry")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. data: its `data` lines, joined by newlines. name: of its `event` line; "" = a
    message."""

    data: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class OddLine:
    """A line of a stream that is neither a field, a comment nor blank."""

    text: str


def split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends, as soon as each is complete; a last line without an end counts as
    one.

    Pieces may be cut anywhere: within a CRLF, a BOM or a character."""
    kept: list[bytes] = []  # of the line that is not complete
    after_cr = False
    first = True
    for piece in pieces:
        if after_cr and piece:
            piece, after_cr = piece.removeprefix(b"\n"), False
        start = 0
        for end in _END.finditer(piece):
            line = b"".join([*kept, piece[start : end.start()]])
            kept.clear()
            yield line.removeprefix(_BOM) if first else line
            first, start = False, end.end()
        # Its LF may be at the beginning of the next piece.
        after_cr = start == len(piece) and piece.endswith(b"\r") if piece else after_cr
        if start < len(piece):
            kept.append(piece[start:])
    if kept:
        line = b"".join(kept)
        yield line.removeprefix(_BOM) if first else line


def events(lines: Iterable[bytes], eager: bool = False) -> Iterator[ServerEvent | OddLine]:
    """The events of a stream, and what is none, in order.

    A last event that no blank line ends counts. eager: an event is over as soon as its data is
    complete JSON, so that a server which forgets the blank lines between events is understood."""
    data: list[str] = []
    name = ""
    for raw in lines:
        line = raw.decode("utf-8", "replace")
        if not line:
            if data:
                yield ServerEvent("\n".join(data), name)
            data, name = [], ""
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if colon and not field:
            continue  # a comment
        if field == "data":
            data.append(value)
            if eager and _complete("\n".join(data)):
                yield ServerEvent("\n".join(data), name)
                data = []
        elif field == "event":
            name = value
        elif field not in _FIELDS:
            yield OddLine(line)
    if data:
        yield ServerEvent("\n".join(data), name)


def is_done(data: str) -> bool:
    """Whether an event's data is OpenAI's mark of the end, in whatever dress."""
    return data.strip().strip("\"'").strip("[]").upper() == "DONE"


def _complete(data: str) -> bool:
    if not data.rstrip().endswith(("}", "]")):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return is_done(data)
    return True

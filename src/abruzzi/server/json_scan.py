"""How many values a JSON text has, before anything is built of it: a scan in pieces, with a pause
after each.

`[1, {"a": [], "b": "x, y"}]` has five: two arrays, an object, a number, a string; keys are not
counted. A text of 32 MB can have 16 million, which take seconds and gigabytes to build; this only
counts commas and brackets outside strings. What is no JSON is counted somehow: building it tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

PIECE = 1 << 16  # bytes between two pauses: less than a millisecond
_STRING = re.compile(rb'"[^"]*"')
_SPACE = b" \t\r\n"


def too_many(data: bytes | bytearray, limit: int) -> Iterator[bool]:
    """After each piece of a text, whether it has more than `limit` values so far."""
    most = 1  # strings and empty brackets counted as well
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        most += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
        yield False
    if most <= limit:
        return
    count, before, rest, in_string = 1, b"", b"", False
    for start in range(0, len(data), PIECE):
        piece = rest + data[start : start + PIECE]
        # A backslash at the end belongs to the next byte; pairs first, so that \\" is no quote that
        # is escaped.
        cut = len(piece) - (len(piece) - len(piece.rstrip(b"\\"))) % 2
        piece, rest = piece[:cut], piece[cut:]
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        if in_string:
            _, quote, piece = piece.partition(b'"')
            in_string = not quote
        if not in_string:
            outside, quote, _ = _STRING.sub(b"0", piece).partition(b'"')
            in_string = bool(quote)
            outside = outside.translate(None, _SPACE) + (b"0" if in_string else b"")
            joined = before + outside
            count += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
            count -= joined.count(b"[]") + joined.count(b"{}")
            before = joined[-1:]
        yield count > limit

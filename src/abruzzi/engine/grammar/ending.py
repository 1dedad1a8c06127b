"""The shortest completion of a JSON text under a grammar: how an answer is closed when its tokens
run out.

A grammar says which byte may come next, and nothing about how far the end is. So the end is
searched for: brackets are closed as soon as they may be, where a value is due each kind of value is
tried to its end and the shortest taken, and inside strings and numbers a beam search walks all
continuations side by side, one of each look-alike. The result is exact where values do not depend
on each other; else it is short and still valid, as every step is the grammar's.

An example. The schema requires `size` (a string, a list of at least one item, or an object that
requires an integer `w`), then `tag` ("red" or "blue"); the text stands at `{"size":`, one bracket
open.

    place   may come         step                                                 completion so far
    VALUE   " [ {            tried to their ends: "" (2), [0] (3), {"w":0} (7)    ""
    AFTER   ,                no bracket may close: `tag` is due                   "",
    KEY     "                                                                     "","
    TEXT    t                beam search up to the closing quote                  "","tag"
    COLON   :                                                                     "","tag":
    VALUE   "                two strings are possible; the beam ends first at     "","tag":"red"
    AFTER   }                a bracket may close, so it does                      "","tag":"red"}
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

MAX_BYTES = 4096  # a longer completion is not searched for
_MAX_STEPS = 6_000  # grammar states visited in one search
_MAX_OPEN = 100  # brackets
_TEXT_BEAM, _NUMBER_BEAM = 24, 512  # width of the beam search
_FEW = 12  # up to so many possible bytes, all are tried; of more, one of each look-alike
_VALUE_STARTS = b'0123456789-"ntf[{'  # first bytes of values, those that end soonest first
_QUOTE, _BACKSLASH = 0x22, 0x5C
_SPACE = frozenset(b" \t\r\n")


class ByteGrammar(Protocol):
    """The state of a grammar over bytes, somewhere in a text."""

    def copy(self) -> ByteGrammar: ...
    def take(self, data: bytes) -> bool:
        """Advance by these bytes; False, and of no more use, when they are not allowed."""
        ...

    def next_bytes(self) -> bytes:
        """The allowed bytes, ascending."""
        ...

    def complete(self) -> bool:
        """Whether the text may end here."""
        ...


class Place(Enum):
    """What a JSON text is in, or due for."""

    VALUE = auto()
    KEY = auto()  # or the end of an empty object
    COLON = auto()
    TEXT = auto()  # inside quotes
    SCALAR = auto()  # inside a number or a word
    AFTER = auto()  # a value has ended


class Scanner:
    """A scanner of valid JSON: its place and its open brackets. Feed it only what a grammar
    allowed."""

    __slots__ = ("escaped", "in_key", "open", "place")

    def __init__(self) -> None:
        self.place, self.open = Place.VALUE, b""  # open: the brackets, outermost first
        self.in_key = self.escaped = False

    def copy(self) -> Scanner:
        other = Scanner()
        other.place, other.open, other.in_key, other.escaped = self.place, self.open, self.in_key, self.escaped
        return other

    def feed(self, data: bytes) -> None:
        for byte in data:
            self._byte(byte)

    def _byte(self, byte: int) -> None:
        if self.place is Place.TEXT:
            if self.escaped:
                self.escaped = False
            elif byte == _BACKSLASH:
                self.escaped = True
            elif byte == _QUOTE:
                self.place = Place.COLON if self.in_key else Place.AFTER
            return
        if byte in _SPACE:
            if self.place is Place.SCALAR:
                self.place = Place.AFTER
            return
        char = chr(byte)
        if char == '"':
            self.in_key = self.place is Place.KEY
            self.place = Place.TEXT
        elif char in "{[":
            self.open += char.encode()
            self.place = Place.KEY if char == "{" else Place.VALUE
        elif char in "}]":
            self.open = self.open[:-1]
            self.place = Place.AFTER
        elif char == ",":
            self.place = Place.KEY if self.open.endswith(b"{") else Place.VALUE
        elif char == ":":
            self.place = Place.VALUE
        else:
            self.place = Place.SCALAR


def shortest_ending(grammar: ByteGrammar, scanner: Scanner, hints: Sequence[bytes] = ()) -> bytes | None:
    """Bytes after which the text is complete; None when none were found within the limits.

    hints: bytes that may complete the inside of some string (examples of the schema's patterns)."""
    search = _Search(hints)
    found = search.finish(grammar.copy(), scanner.copy(), 0, MAX_BYTES)
    return None if found is None else found[0]


_Found = tuple[bytes, ByteGrammar, Scanner]  # bytes, and the states behind them


class _Search:
    """One search for a completion, within _MAX_STEPS."""

    def __init__(self, hints: Sequence[bytes]) -> None:
        self._hints = hints
        self._steps = _MAX_STEPS

    def finish(self, grammar: ByteGrammar, scanner: Scanner, level: int, bound: int) -> _Found | None:
        """Complete the value that is open at `level` brackets, in fewer than `bound` bytes."""
        out = b""
        while len(out) < bound and self._steps > 0 and len(scanner.open) < _MAX_OPEN:
            if scanner.place is Place.AFTER and len(scanner.open) == level:
                return out, grammar, scanner
            allowed = grammar.next_bytes()
            self._steps -= 1
            if scanner.place is Place.SCALAR and len(scanner.open) == level and _may_end(allowed, grammar):
                return out, grammar, scanner
            step = self._step(grammar, scanner, allowed, bound - len(out))
            if step is None:
                return None
            data, grammar, scanner = step
            out += data
        return None

    def _step(self, grammar: ByteGrammar, scanner: Scanner, allowed: bytes, bound: int) -> _Found | None:
        place = scanner.place
        if place is Place.TEXT:
            return self._text(grammar, scanner, bound)
        closer = next((c for c in b"}]" if c in allowed), None)
        if closer is not None:
            return _go(grammar, scanner, bytes([closer]))
        if place is Place.VALUE:
            return self._value(grammar, scanner, allowed, bound)
        if place is Place.SCALAR and not _may_end(allowed, grammar):
            return self._scalar(grammar, scanner, bound)
        due = {Place.KEY: b'"', Place.COLON: b":"}.get(place, b",")
        return _go(grammar, scanner, due) if due[0] in allowed else None

    def _value(self, grammar: ByteGrammar, scanner: Scanner, allowed: bytes, bound: int) -> _Found | None:
        """The shortest whole value, each kind tried to its end."""
        best: _Found | None = None
        for first in _VALUE_STARTS:
            if first not in allowed:
                continue
            begun = _go(grammar.copy(), scanner.copy(), bytes([first]))
            found = None
            if begun is not None:
                found = self.finish(begun[1], begun[2], len(scanner.open), bound - 1)
            if found is not None:
                best = (bytes([first]) + found[0], found[1], found[2])
                bound = len(best[0])
                if bound <= 2:
                    break
        return best

    def _text(self, grammar: ByteGrammar, scanner: Scanner, bound: int) -> _Found | None:
        """Up to and including the closing quote: from here, or behind one of the hints."""
        best = self._walk(grammar, scanner, bound, text=True)
        for hint in () if scanner.escaped else self._hints:
            left = (bound if best is None else len(best[0])) - len(hint)
            begun = _go(grammar.copy(), scanner, hint) if left > 1 else None
            found = None if begun is None else self._walk(begun[1], begun[2], left, text=True)
            if found is not None and (best is None or len(hint + found[0]) < len(best[0])):
                best = (hint + found[0], found[1], found[2])
        return best

    def _scalar(self, grammar: ByteGrammar, scanner: Scanner, bound: int) -> _Found | None:
        """Up to where a number or a word may end."""
        return self._walk(grammar, scanner, bound, text=False)

    def _walk(self, grammar: ByteGrammar, scanner: Scanner, bound: int, text: bool) -> _Found | None:
        """Beam search, breadth first. Of strings with the same allowed bytes only the first is
        kept; numbers with the same allowed bytes may differ in what follows later, so all are."""
        beam = [(b"", grammar, text and scanner.escaped)]
        for _ in range(bound):
            longer: dict[tuple[bytes, bool], tuple[bytes, ByteGrammar, bool]] = {}
            for prefix, state, escaped in beam:
                allowed = state.next_bytes()
                if text and _QUOTE in allowed and not escaped:
                    state = state.copy()
                    return _fed(prefix + b'"', state, scanner) if state.take(b'"') else None
                hinted = self._with_hint(prefix, state, scanner, bound) if text and not escaped else None
                if hinted is not None:
                    return hinted
                if not text and prefix and _may_end(allowed, state):
                    return _fed(prefix, state, scanner)
                for byte in _some_of(allowed, escaped):
                    after, more = state.copy(), prefix + bytes([byte])
                    self._steps -= 1
                    if after.take(bytes([byte])):
                        key = (after.next_bytes() if text else more, byte == _BACKSLASH and not escaped)
                        longer.setdefault(key, (more, after, key[1]))
            beam = list(longer.values())[: _TEXT_BEAM if text else _NUMBER_BEAM]
            if not beam or self._steps <= 0:
                return None
        return None

    def _with_hint(self, prefix: bytes, state: ByteGrammar, scanner: Scanner, bound: int) -> _Found | None:
        """The string completed by one of the hints, if one of them does."""
        for hint in self._hints:
            self._steps -= 1
            other = state.copy()
            if len(prefix) + len(hint) < bound and other.take(hint + b'"'):
                return _fed(prefix + hint + b'"', other, scanner)
        return None


def _may_end(allowed: bytes, grammar: ByteGrammar) -> bool:
    """Whether a number or word may end here: what follows a value may come."""
    return any(c in allowed for c in b",]}") or grammar.complete()


def _some_of(allowed: bytes, escaped: bool) -> bytes:
    """All bytes where they are few; else every mark, and one each of small letters, capitals,
    digits, others."""
    usual = bytes(b for b in allowed if b not in _SPACE) or allowed
    if escaped or len(usual) <= _FEW:
        return usual
    kept, seen = bytearray(), set[str]()
    for byte in usual:
        char = chr(byte)
        mark = byte < 0x80 and not char.isalnum()
        kind = char if mark else "0" if char.isdigit() else "a" if char.islower() else "A" if byte < 0x80 else "é"
        if kind not in seen:
            seen.add(kind)
            kept.append(byte)
    return bytes(sorted(kept, key=lambda b: (b == _BACKSLASH, not chr(b).isalnum())))  # an escape costs a byte more


def _go(grammar: ByteGrammar, scanner: Scanner, data: bytes) -> _Found | None:
    return _fed(data, grammar, scanner) if grammar.take(data) else None


def _fed(data: bytes, grammar: ByteGrammar, scanner: Scanner) -> _Found:
    scanner = scanner.copy()
    scanner.feed(data)
    return data, grammar, scanner

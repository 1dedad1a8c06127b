"""Regular expressions of schemas, rewritten so that what the compiler enforces matches by every
reading.

`pattern` is ECMAScript's, most validators use their own language's (Python's `re`), and llguidance
Rust's. They differ: `\\d`, `\\w`, `\\s` (Unicode or ASCII), `.`, `$` in front of a last new line,
`[a&&b]`, `[[:alpha:]]`. So a pattern is parsed here, and written anew with explicit ranges that
stay inside both ECMAScript's and Python's reading: what is admitted matches by either; a few
characters that only one of them takes are never written.

And a deviation of llguidance 1.9: it matches on text without escapes and then escapes each set of
bytes. A set with all control characters (or all but the new line) becomes "any escape", and that
includes `\\"` and `\\\\`: `[^"]` admits a quote. Without U+0000 a set is escaped exactly, so that
one character leaves such sets.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Any

_TOP = 0x10FFFF
# White space by both readings, and by either of them, as the inside of a class.
_SPACE_BOTH = r"\x{09}-\x{0d} \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}".replace(
    " ", r"\x{20}"
)
_SPACE_EITHER = _SPACE_BOTH + r"\x{1c}-\x{1f}\x{85}\x{feff}"
_CATEGORIES = {  # (surely in it, perhaps in it) by ECMAScript and Python; unassigned characters may be anything
    "DIGIT": ("0-9", r"\p{Nd}\p{Cn}"),
    "WORD": ("0-9A-Za-z_", r"_\p{L}\p{N}\p{M}\p{Cn}"),
    "SPACE": (_SPACE_BOTH, _SPACE_EITHER),
}
_ASCII = frozenset(map(chr, range(128)))
_CONTROLS = frozenset(map(chr, range(32))) - {"\n"}
_FLAGS = re.UNICODE | re.IGNORECASE | re.DOTALL
_PLACEHOLDER = 0xF0000  # private use: stands for a property, \p{...}, while Python parses
_MAX_REPEAT = 100_000


class Unenforced(ValueError):
    """A pattern that cannot be enforced; the message says what in it."""


@dataclass(frozen=True, slots=True)
class _Set:
    """One character of a set. inside: a class of Rust's, without brackets; ascii: its members below
    128."""

    inside: str
    ascii: frozenset[str]
    negated: bool = False

    @property
    def awkward(self) -> bool:
        """Whether it may be merged into a set that the compiler escapes wrongly."""
        return "\0" in self.ascii and not {'"', "\\"} <= self.ascii

    def text(self, without_nul: bool) -> str:
        if not (without_nul and self.awkward):
            return f"[^{self.inside}]" if self.negated else f"[{self.inside}]"
        if self.ascii == {"\0"} and not self.negated and "-" not in self.inside:
            raise Unenforced("the character U+0000")
        return f"[^{self.inside}\\x{{0}}]" if self.negated else f"[{self.inside}--\\x{{0}}]"


@lru_cache(1024)
def rewritten(pattern: str) -> str:
    """The pattern in Rust's syntax, as narrow as the narrower reading. Raises Unenforced."""
    parsed, properties, flags = _parsed(pattern)
    writer = _Writer(properties, bool(flags & re.IGNORECASE), bool(flags & re.DOTALL))
    writer.scan(parsed)
    return writer.text(parsed)


class Others(Enum):
    """What else may match a pattern that `rewritten` does not admit: it matters where a pattern is
    negated."""

    NONE = auto()
    NEW_LINE = auto()  # Python's `$` steps over a new line at the end; what is admitted never ends in one
    SOME = auto()


@lru_cache(1024)
def others(pattern: str) -> Others:
    """What else may match by some reading. Raises Unenforced."""
    parsed, properties, flags = _parsed(pattern)
    writer = _Writer(properties, bool(flags & re.IGNORECASE), bool(flags & re.DOTALL))
    writer.scan(parsed)
    if writer.loose or writer.without_nul:
        return Others.SOME
    if not writer.ends:
        return Others.NONE
    last = len(parsed) > 0 and str(parsed[-1][1]) == "AT_END"
    return Others.NEW_LINE if writer.ends == 1 and last and not writer.new_line else Others.SOME


class _Writer:
    """Writes a parsed pattern anew."""

    def __init__(self, properties: list[str], ignore_case: bool, dot_all: bool) -> None:
        self._properties, self._ignore_case, self._dot_all = properties, ignore_case, dot_all
        self._awkward: set[str] = set()
        self.loose = ignore_case  # whether it has a set on whose members the readings differ
        self.ends, self.new_line = 0, False  # how many `$` there are; whether a set has the new line

    @property
    def without_nul(self) -> bool:
        return self._awkward >= _CONTROLS

    def scan(self, parsed: Any) -> None:
        """Look at every set of one character: the compiler merges those of alternatives."""
        for op, value in parsed:
            one = self._one(str(op), value)
            if one is not None and not {'"', "\\"} <= one.ascii:
                self._awkward |= one.ascii
            self.new_line = self.new_line or (one is not None and "\n" in one.ascii)
            self.ends += str(value) == "AT_END"
            for inner in _inside(str(op), value):
                self.scan(inner)

    def text(self, parsed: Any) -> str:
        return "".join(self._piece(str(op), value) for op, value in parsed)

    def _piece(self, op: str, value: Any) -> str:
        one = self._one(op, value)
        if one is not None:
            return one.text(self.without_nul)
        if op == "AT":
            place = {"AT_BEGINNING": "^", "AT_END": "$"}.get(str(value))
            if place is None:
                raise Unenforced(r"\b or another place between characters")
            return place
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            low, high, inner = value
            if low > _MAX_REPEAT:
                raise Unenforced(f"a repetition of {low}")
            top = "" if str(high) == "MAXREPEAT" else min(int(high), _MAX_REPEAT)
            return f"(?:{self.text(inner)}){{{low},{top}}}"
        if op == "SUBPATTERN":
            _, add, remove, inner = value
            if add or remove:
                raise Unenforced("flags inside it")
            return f"(?:{self.text(inner)})"
        if op == "BRANCH":
            return f"(?:{'|'.join(map(self.text, value[1]))})"
        what = {"ASSERT": "look-around", "ASSERT_NOT": "look-around", "GROUPREF": "a back reference"}
        if op == "FAILURE":
            raise Unenforced("an empty look-around")
        raise Unenforced(what.get(op, "a construct that only some languages have"))

    def _one(self, op: str, value: Any) -> _Set | None:
        """The set, where the node is one character."""
        if op == "ANY":
            if self._dot_all:
                return _Set(rf"\x{{0}}-\x{{{_TOP:x}}}", _ASCII)
            self.loose = True
            return _Set(r"\x{a}\x{d}\x{2028}\x{2029}", _ASCII - {"\n", "\r"}, negated=True)
        if op == "LITERAL":
            return self._of([(op, value)], negated=False)
        if op == "NOT_LITERAL":
            return self._of([("LITERAL", value)], negated=True)
        if op == "IN":
            negated = str(value[0][0]) == "NEGATE"
            return self._of(value[negated:], negated)
        return None

    def _of(self, members: Any, negated: bool) -> _Set:
        """What is surely in the class. Of a negated class, everything is listed that is perhaps in
        it."""
        inside, ascii_ = [], set[str]()
        kinds = {str(value) for op, value in members if str(op) == "CATEGORY"}
        if any(kind.replace("CATEGORY_", "CATEGORY_NOT_") in kinds for kind in kinds):  # [\\s\\S]: anything
            members = [("RANGE", (0, _TOP))]
        for op, value in members:
            text, chars = self._member(str(op), value, negated)
            inside.append(text)
            ascii_ |= chars
        if self._ignore_case:
            swapped = {c.swapcase() for c in ascii_ if c.isalpha()} - ascii_
            inside += [_escaped(ord(c)) for c in sorted(swapped)]
            ascii_ |= swapped
            if negated:  # they fold to i, k and s
                inside.append(
                    r"\x{130}\x{131}\x{17f}\x{212a}\p{L}"
                    if _beyond_ascii(members)
                    else r"\x{130}\x{131}\x{17f}\x{212a}"
                )
        return _Set("".join(inside), _ASCII - ascii_ if negated else frozenset(ascii_), negated)

    def _member(self, op: str, value: Any, negated: bool) -> tuple[str, set[str]]:
        if op == "LITERAL":
            if _PLACEHOLDER <= value < _PLACEHOLDER + len(self._properties):
                return self._property(self._properties[value - _PLACEHOLDER])
            return _escaped(value), {chr(value)} & _ASCII
        if op == "RANGE":
            low, high = value
            _require_scalar(low)
            _require_scalar(high)
            return f"{_escaped(low)}-{_escaped(high)}", {chr(c) for c in range(low, min(high, 127) + 1)}
        name = str(value).removeprefix("CATEGORY_")
        inverse, kind = name.startswith("NOT_"), name.removeprefix("NOT_")
        self.loose = True
        sure, perhaps = _CATEGORIES[kind]
        # \D is surely what is not perhaps a digit, and perhaps what is not surely one.
        inside = (sure if negated else perhaps) if inverse else (perhaps if negated else sure)
        meant = frozenset(c for c in _ASCII if re.match(f"[{_python(inside)}]", c))
        return (f"[^{inside}]", set(_ASCII - meant)) if inverse else (inside, set(meant))

    def _property(self, name: str) -> tuple[str, set[str]]:
        self.loose = True
        meant = {c for c in _ASCII if unicodedata.category(c).startswith(name[3:-1])}
        return f"[{name}]", meant if name[1] == "p" else set(_ASCII) - meant


def _inside(op: str, value: Any) -> Iterator[Any]:
    """The patterns in a node."""
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        yield value[2]
    elif op == "SUBPATTERN":
        yield value[-1]
    elif op == "BRANCH":
        yield from value[1]


def _beyond_ascii(members: Any) -> bool:
    return any(max(v if isinstance(v, tuple) else (v,)) > 127 for op, v in members if str(op) in ("LITERAL", "RANGE"))


def _python(inside: str) -> str:
    """The ASCII part of a class of ours, in Python's syntax."""
    text = re.sub(r"\\p\{(\w+)\}", lambda m: {"Nd": "0-9", "L": "A-Za-z", "N": "0-9"}.get(m[1], ""), inside)
    return re.sub(r"\\x\{(\w+)\}", lambda m: re.escape(chr(int(m[1], 16))), text)


def _escaped(code: int) -> str:
    _require_scalar(code)
    return f"\\x{{{code:x}}}"


def _require_scalar(code: int) -> None:
    if 0xD800 <= code < 0xE000:
        raise Unenforced("half of a surrogate pair")


def _parsed(pattern: str) -> tuple[Any, list[str], int]:
    """Python's syntax tree, the properties in it, its flags."""
    from re import _parser  # type: ignore[attr-defined]  # Python's own parser of patterns

    text, properties = _in_python(pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # [[ and && are plain characters in ECMAScript too
            parsed = _parser.parse(text)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise Unenforced(f"its syntax ({getattr(error, 'msg', None) or type(error).__name__})") from None
    if parsed.state.flags & ~_FLAGS:
        raise Unenforced("flags inside it")
    return parsed, properties, parsed.state.flags


_GENERAL = "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp"
_LONG = {"Letter": "L", "Mark": "M", "Number": "N", "Punctuation": "P", "Symbol": "S", "Separator": "Z"}
_LONG |= {"Lowercase_Letter": "Ll", "Uppercase_Letter": "Lu", "Decimal_Number": "Nd"}
_TOKEN = re.compile(
    r"\\u\{(?P<code>[0-9A-Fa-f]{1,6})\}|\\(?P<p>[pP])\{(?P<name>\w+)\}|\\c(?P<control>[A-Za-z])"
    r"|\(\?<(?P<group>\w+)>|\[(?P<empty>\^?\])|(?P<atmost>\{,\d*\})|(?P<foreign>\\[AZaGkN])|\\.|.",
    re.DOTALL,
)


def _in_python(pattern: str) -> tuple[str, list[str]]:
    """The pattern with what only ECMAScript has in Python's syntax. Raises Unenforced where the two
    differ."""
    out, properties, in_class = [], [], False
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if token["code"]:
            text = _literal(int(token["code"], 16))
        elif token["p"]:
            name = _LONG.get(token["name"], token["name"])
            if name not in _GENERAL.split():
                raise Unenforced(f"the property {text:.40}")
            properties.append(f"\\{token['p']}{{{name}}}")
            text = chr(_PLACEHOLDER + len(properties) - 1)
        elif token["control"]:
            text = _literal(ord(token["control"]) % 32)
        elif token["foreign"] or (token["atmost"] and not in_class) or (token["empty"] and not in_class):
            raise Unenforced(f"{text:.20}, which languages read differently")
        elif token["group"] and not in_class:
            text = "("
        elif text == "[":
            in_class = True
        elif text == "]":
            in_class = False
        out.append(text)
    return "".join(out), properties


def _literal(code: int) -> str:
    if code > _TOP:
        raise Unenforced(f"the character {code:x}")
    return f"\\U{code:08x}"

"""Patterns against Python's `re` and jsonschema: whatever the masks admit to the end matches, over `" \\ /`, control
characters and Unicode. The judge is Python's reading (jsonschema's); ECMAScript's is held to by its own table below."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from abruzzi.engine.grammar.json_text import JsonGrammar, Vocabulary
from abruzzi.engine.grammar.patterns import Unenforced, rewritten
from tests import tiny

CHARS = ['"', "\\", "/", "\0", "\b", "\f", "\n", "\r", "\t", "\x0b", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "é", "ß"]
CHARS += ["\u2028", "\u3000", "\ufeff", "\ud7ff", "\ue000", "😀", "\U0010ffff", "a", "A", "_", "0", "٣", "²", " ", "-"]
CHARS += ["n", "u", "Ω", "ſ", "\u212a", "İ", "k", "K", "[", "]", "^", "x", "{", "}", "~", "\u0378"]
# ECMAScript's sets, where they are not Python's.
ECMA = {
    "d": r"[0-9]",
    "w": r"[0-9A-Za-z_]",
    "s": "[\\t-\\r \\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]",
}


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary(tiny.vocabulary())


def admits(grammar: JsonGrammar, value: Any) -> bool:
    """Whether the grammar takes a value, however it is spelled."""
    for spelled in {json.dumps(value, ensure_ascii=False, separators=(",", ":")), json.dumps(value)}:
        matcher = grammar.byte_matcher.deep_copy()
        if matcher.consume_tokens(list(spelled.encode())) and matcher.is_accepting():
            return True
    return False


def found(pattern: str, text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.search(pattern, text) is not None


def said(grammar: JsonGrammar, rng: np.random.Generator, length: int) -> Any:
    """A value that the masks admit: random tokens, then the shortest ending; None where none is
    found."""
    text, ids = grammar.begin(), []
    while len(ids) < length:
        allowed = np.flatnonzero(text.mask())
        if not len(allowed) or (text.complete() and rng.random() < 0.3):
            break
        ids.append(int(rng.choice(allowed)))
        assert text.accept(ids[-1])
    ending = text.ending_ids()
    return None if ending is None else json.loads(vocabulary().tok.decode([*ids, *ending]))


# Patterns, their near misses, and their hits.
KNOWN: list[tuple[str, list[str], list[str]]] = [
    ('^[^"]*$', ['a"b', '"'], ["", "a\\b", "é\n"]),
    ('^"[^"]*"$', ['"a""', '"""'], ['"a"', '""']),
    (r"^[^\\]*$", ["a\\b"], ['a"b', "\t"]),
    (r'^[^"\\]+$', ['a"', "\\"], ["a", "/"]),
    ('^(?:[^"]|x)+$', ['"'], ["xax"]),
    (r'^[^"\n]*$', ['"', "\n", "\\n\n"], ["\\"]),
    (r"^[^\\\n]$", ["\\", "\n"], ['"']),
    (r"^[\x00-\x1f]$", ['"', "\\", "a"], ["\n", "\x1f"]),
    (r"^[\x00-\x22]$", ["\\", "#"], ['"', "!", "\t"]),
    (r"^(?:[\x00-\x0f]|[\x10-\x1f])$", ['"', "\\"], ["\x01", "\x1e"]),
    (r'^[^\d"]$', ['"', "0", "٣"], ["a"]),
    (r"^[^/]+$", ["a/b"], ["ab", '"']),
    (r"^\/$", ["\\", "\\/"], ["/"]),
    (r"^\s$", ["\x1f", "\x85", "\ufeff", "a"], ["\u3000", "\t"]),
    (r"^\S+$", ["\x1f", "\ufeff", " ", "\u2028"], ["a", '"', "é", "\\"]),
    (r"^\w+$", ["é", "-", "٣"], ["a_0"]),
    (r"^\W$", ["é", "²", "٣", "a"], ["-", '"', "\\", "\n"]),
    (r"^\D$", ["٣", "1"], ["a", "é"]),
    (r"^[\s\S]*$", [], ["\x1c\x85\ufeff\0", '"\\']),
    (r"^.$", ["\n", "\r", "\u2028", "ab"], ["😀", '"', "\t"]),
    ("(?s)^.$", ["ab"], ["\n", '"']),
    ("(?i)^k[^s]$", ["ka", "\u212ax", "kS", "kſ"][2:], ["Kx", 'k"']),
    (r"^[a&&b]$", ["c"], ["&", "a", "b"]),
    ("[[:alpha:]]", ["z", "b]x"], ["a]", ":]"]),
    (r"^\cJ$", ["J"], ["\n"]),
    (r"^[\b]$", ["b"], ["\b"]),
    (r"^\u{1F600}$", ["u"], ["😀"]),
    (r"^(?<year>\d{4})$", ["٣٣٣٣"], ["2026"]),
    (r"^\p{Lu}$", ["a", "1"], ["A", "Ω"]),
    (r'^[^\p{L}"]$', ["a", '"'], ["1", "\\"]),
    ("a$", ["a\n", "ab"], ["a", "ba", '"a']),
    ("^a|b$", ["cb\n", "c"], ["ax", "xb"]),
    ("[^a-z]{2}", ["a1b", '"'], ['a""b', "\\\\"]),
]


@pytest.mark.parametrize(("pattern", "misses", "hits"), KNOWN, ids=[k[0] for k in KNOWN])
def test_near_misses_of_a_pattern_are_not_admitted(pattern: str, misses: list[str], hits: list[str]) -> None:
    grammar = JsonGrammar(vocabulary(), {"type": "string", "pattern": pattern})
    assert not [t for t in misses if admits(grammar, t)]
    assert not [t for t in hits if not admits(grammar, t)]


@pytest.mark.parametrize(("letter", "inverse"), [(c, i) for c in "dws" for i in (False, True)])
def test_sets_stay_inside_both_readings(letter: str, inverse: bool) -> None:
    """Python's \\d, \\w, \\s are Unicode's, ECMAScript's are ASCII's and a list: what is admitted is in both."""
    escape = letter.upper() if inverse else letter
    for class_, negate in ((rf"\{escape}", inverse), (rf"[\{escape}]", inverse), (rf"[^\{escape}]", not inverse)):
        grammar = JsonGrammar(vocabulary(), {"type": "string", "pattern": f"^{class_}$"})
        for char in CHARS:
            ecma = bool(re.match(ECMA[letter], char)) != negate
            if admits(grammar, char):
                assert ecma and found(f"^{class_}\\Z", char), (class_, char)


REFUSED = [
    r"(?=a)b",
    r"^(?!\.)x",
    r"a(?<=b)",
    r"(a)\1",
    r"\bword\b",
    r"a{,3}",
    r"[]a]",
    r"[^]",
    r"(?m)^a$",
    r"(?P<n>a)(?P=n)",
]
REFUSED += [
    "^[a--b]$",
    r"\ud83d\ude00",
    r"\p{Script=Greek}",
    r"a++",
    r"(?>a)",
    r"(",
    r"x**",
    r"\Aa\Z",
    r"[\ud800-\udfff]",
    "(?i:a)b",
]


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_cannot_be_enforced_says_where(pattern: str) -> None:
    with pytest.raises(Unenforced, match=r"\w"):
        rewritten(pattern)
    with pytest.raises(ValueError, match=r"^/properties/to~1x/pattern: the pattern has "):
        JsonGrammar(vocabulary(), {"type": "object", "properties": {"to/x": {"type": "string", "pattern": pattern}}})


MEMBERS = st.sampled_from(
    [
        *(
            '"',
            r"\\",
            "/",
            r"\/",
            "a",
            "a-f",
            "0-9",
            r"\d",
            r"\D",
            r"\w",
            r"\W",
            r"\s",
            r"\S",
            r"\n",
            r"\t",
            "é",
            "α-ω",
        ),
        *(r"\x00-\x1f", "!-~", " -/", r"\x00-\x22", r"\x0b-\x5b", "😀", r"\u2000-\uffff", r"\-", r"\]", "^", "[", "&&"),
        *(r"\x00-\x09", r"\x0a-\x1f", "α-ω"),
    ]
)
CLASSES = st.builds(
    lambda n, m: f"[{n}{''.join(m)}]", st.sampled_from(["", "^"]), st.lists(MEMBERS, min_size=1, max_size=3)
)
CLASSES = CLASSES.filter(lambda c: not c.startswith(("[]", "[^]", "[^^]")))
ATOMS = CLASSES | st.sampled_from(
    ['"', r"\\", "/", ".", r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", "x", "é", r"\n", "😀", r"\x00"]
)
PARTS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: f"(?:{'|'.join(p)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=5,
)  # fmt: skip
PATTERNS = st.builds(
    lambda before, part, after: f"{before}{part}{after}",
    st.sampled_from(["", "^", "(?s)^"]),
    PARTS,
    st.sampled_from(["", "$"]),
)
TEXTS = st.text(st.sampled_from(CHARS), max_size=4)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=12), st.integers(0, 2**32))
@example('^[^"]*$', ['a"b'], 0)
@example(r"^(?:[\x00-\x09]|[\x0a-\x1f])$", ['"', "\\"], 0)
def test_what_a_pattern_admits_matches(pattern: str, texts: list[str], seed: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
        grammar = JsonGrammar(vocabulary(), {"type": "string", "pattern": pattern})
    except (ValueError, re.error):
        return
    for text in (*texts, *(c for c in CHARS if len(pattern) < 12)):
        assert not admits(grammar, text) or found(pattern, text), text
    rng = np.random.default_rng(seed)
    for _ in range(3):
        text = said(grammar, rng, int(rng.integers(0, 8)))
        assert text is None or found(pattern, text), text


ODD = st.text(st.sampled_from(CHARS), max_size=3)
LENGTHS = st.builds(
    lambda n, m: {"type": "string", "minLength": n, "maxLength": n + m}, st.integers(0, 3), st.integers(0, 3)
)
STRINGS = st.one_of(
    PATTERNS.map(lambda p: {"type": "string", "pattern": p}),
    st.builds(lambda p, s: {"pattern": p, **s}, PATTERNS, LENGTHS),
    LENGTHS,
    st.lists(ODD, min_size=1, max_size=3).map(lambda v: {"enum": v}),
    ODD.map(lambda v: {"const": v}),
    st.sampled_from(("date", "email", "hostname", "uuid", "uri")).map(lambda f: {"type": "string", "format": f}),
)  # fmt: skip
OBJECTS = st.one_of(
    st.builds(
        lambda named, by_pattern, rest, required: {
            "type": "object",
            "properties": named,
            "patternProperties": by_pattern,
            "additionalProperties": rest,
            "required": [n for n in named][:required],
        },
        st.dictionaries(ODD, STRINGS, max_size=2),
        st.dictionaries(PATTERNS, STRINGS, min_size=0, max_size=2),
        st.booleans() | st.just({"type": "integer"}),
        st.integers(0, 2),
    ),
    st.builds(lambda s, n: {"type": "array", "items": s, "minItems": n, "maxItems": n + 1}, STRINGS, st.integers(0, 2)),
    st.lists(STRINGS, min_size=1, max_size=2).map(lambda s: {"anyOf": s}),
    st.lists(STRINGS, min_size=1, max_size=2).map(lambda s: {"allOf": s}),
    ODD.map(lambda name: {"type": "object", "properties": {}, "propertyNames": {"const": name}}),
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(OBJECTS, st.integers(0, 2**32), st.booleans())
@example(
    {"type": "object", "patternProperties": {'^[^"]*$': {"type": "integer"}}, "additionalProperties": False}, 1, False
)
@example({"type": "object", "patternProperties": {r"^\w+$": {"type": "integer"}}}, 2, False)
def test_what_is_finished_under_a_schema_of_odd_strings_is_valid(schema: Any, seed: int, lenient: bool) -> None:
    """jsonschema on the whole schema; where it was left incomplete, on what is left of it by its
    own words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            jsonschema.Draft202012Validator.check_schema(schema)
        grammar = JsonGrammar(vocabulary(), schema, lenient)
    except (ValueError, re.error, jsonschema.SchemaError):
        return
    rng = np.random.default_rng(seed)
    for _ in range(3):
        value = said(grammar, rng, int(rng.integers(0, 25)))
        if not grammar.dropped and value is not None:
            # It joins an object's patterns with |, where a flag such as (?i) may not stand: no judgement.
            with warnings.catch_warnings(), suppress(re.error):
                warnings.simplefilter("ignore", FutureWarning)
                jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("pattern", "begun", "ending"),
    [('^"[^"]*"$', '"\\"a b', '\\""'), (r"^a+\\$", '"aa', '\\\\"'), (r"^[^\\]+\n$", '"é x', '\\n"')],
)
def test_an_ending_that_needs_an_escape_is_found(pattern: str, begun: str, ending: str) -> None:
    text = JsonGrammar(vocabulary(), {"type": "string", "pattern": pattern}).begin()
    assert all([text.accept(vocabulary().id_of[bytes([b])]) for b in begun.encode()])
    found_ = text.ending()
    assert found_ is not None and len(found_) <= len(ending) + 2  # a hint may be a little longer
    assert found(pattern, json.loads(begun + found_.decode()))

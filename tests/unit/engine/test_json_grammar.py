"""Masks against a brute force over every token, endings against an enumeration, texts against
`jsonschema`."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abruzzi import tokenizer
from abruzzi.engine.grammar import schema as json_schema
from abruzzi.engine.grammar.json_text import JsonGrammar, JsonText, Vocabulary
from abruzzi.engine.grammar.repair import repaired
from tests import tiny

TINY = tiny.vocabulary()
NANO = Path(tokenizer.__file__).parents[1] / "nano"
MAX_UNCOMPILABLE = 3  # of the 166 schemas

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "n": {"type": "integer", "minimum": 8, "maximum": 150},
        "kind": {"enum": ["é", 'x"y', "xyz", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["city", "n", "kind"],
    "additionalProperties": False,
}
# The same language by hand, over bytes. DEL is JSON's to allow; the compiler wants it escaped.
W = rb"(?:\x20|\x0A[\x20\x09]{0,40})?"
UTF8 = (
    rb"[\x20\x21\x23-\x5b\x5d-\x7e]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
ESCAPES = rb"\\[\"\\bfnrt]|\\u00[01][0-9a-fA-F]|\\u007[fF]"
LANGUAGE = regex.compile(
    rb"\{" + W + rb'"city"' + W + rb":" + W + rb'"(?:' + UTF8 + rb"|" + ESCAPES + rb'){0,6}"' + W + rb"," + W
    + rb'"n"' + W + rb":" + W + rb"(?:[89]|[1-9][0-9]|1[0-4][0-9]|150)" + W + rb"," + W
    + rb'"kind"' + W + rb":" + W + rb'(?:"\xc3\xa9"|"x\\"y"|"xyz"|null)'
    + rb"(?:" + W + rb"," + W + rb'"tags"' + W + rb":" + W
    + rb"\[" + W + rb"(?:(?:true|false)(?:" + W + rb"," + W + rb"(?:true|false))?" + W + rb")?\])?" + W + rb"\}"
)  # fmt: skip


@pytest.fixture(scope="module")
def kimi(k2_data: Path) -> tokenizer.Tokenizer:
    return tokenizer.load(k2_data / "kimi_tokenizer")


@pytest.fixture(params=["tiny", "nano", "kimi"])
def tok(request: pytest.FixtureRequest) -> tokenizer.Tokenizer:
    """Both kinds of tokenizer: a small one, nano's, and Kimi's."""
    if request.param == "kimi":
        return request.getfixturevalue("kimi")
    return tiny.vocabulary() if request.param == "tiny" else tokenizer.load(NANO)


def walk(text: JsonText, rng: np.random.Generator, limit: int) -> list[int]:
    """Random ids that the masks allow, until the text is complete or the limit is reached."""
    ids: list[int] = []
    while len(ids) < limit:
        allowed = np.flatnonzero(text.mask())
        if not len(allowed) or (text.complete() and rng.random() < 0.5):
            break
        ids.append(int(rng.choice(allowed)))
        assert text.accept(ids[-1])
    return ids


def test_masks_are_those_of_a_brute_force_over_all_tokens(tok: tokenizer.Tokenizer) -> None:
    """Every token of the small vocabularies; of Kimi's 163,840 some that are allowed and a thousand
    others."""
    grammar = JsonGrammar(Vocabulary(tok, tok.vocab_size + 7), SCHEMA)
    rng = np.random.default_rng(1)
    pieces = {i: tok.token_bytes(i) for i in range(tok.vocab_size) if i not in tok.control_ids}
    for _ in range(3):
        text, said = grammar.begin(), b""
        for _ in range(60):
            mask = text.mask()
            assert mask.shape == (tok.vocab_size + 7,)
            looked = set(pieces)
            if tok.vocab_size > 10_000:
                some = rng.choice(tok.vocab_size, 1000)
                looked = {int(i) for i in (*rng.permutation(np.flatnonzero(mask))[:300], *some)} & set(pieces)
            fits = {i for i in looked if LANGUAGE.fullmatch(said + pieces[i], partial=True)}
            allows = {i for i in looked if mask[i]}
            # Where only one text may follow, only its usual spelling is allowed; elsewhere all that
            # fits is.
            longest = max((pieces[i] for i in fits), key=len, default=b"")
            forced = all(longest.startswith(pieces[i]) for i in fits) and not LANGUAGE.fullmatch(said)
            assert allows == fits or (forced and allows < fits and mask.any()), (said, allows ^ fits)
            assert not mask[[i for i in tok.control_ids if i < len(mask)]].any() and not mask[tok.vocab_size :].any()
            assert text.complete() == bool(LANGUAGE.fullmatch(said))
            allowed = np.flatnonzero(mask)
            if not len(allowed):
                break
            # Tokens that go on are drawn as often as those that end something.
            ends = [i for i in allowed if any(c in pieces[int(i)] for c in b'":,}')]
            chosen = int(rng.choice(ends if ends and rng.random() < 0.5 else allowed))
            assert text.accept(chosen)
            said += pieces[chosen]


LISTS: list[dict[str, Any]] = [
    {"kind": ["a", "bcd", "bcde", 1234567], "no": [True, False, None], "sub": [[], [1], [12, 345], [0, 0, 0, 0]]},
    {"x": ["", "é", 'a"b', "a\\b"], "y": [-1, 0.5, 100, 99], "z": [{"p": 1}, {"p": 22, "q": "r"}]},
]


@pytest.mark.parametrize("lists", LISTS)
def test_an_ending_is_as_short_as_the_shortest_of_all_texts(lists: dict[str, Any]) -> None:
    """A language with few texts, all written down: from every beginning, the ending is as short as
    it can be."""
    schema = {
        "type": "object",
        "properties": {name: {"enum": values} for name, values in lists.items()},
        "required": list(lists),
        "additionalProperties": False,
    }
    texts = [
        json.dumps(dict(zip(lists, values)), ensure_ascii=False, separators=(",", ":")).encode()
        for values in itertools.product(*lists.values())
    ]
    vocabulary = Vocabulary(tiny.vocabulary())
    grammar = JsonGrammar(vocabulary, schema)
    assert len(grammar.least) == min(map(len, texts))
    rng = np.random.default_rng(0)
    for chosen in rng.choice(len(texts), 12, replace=False):
        text, said = grammar.begin(), b""
        for byte in texts[chosen]:
            shortest = min(len(t) - len(said) for t in texts if t.startswith(said))
            ending = text.ending()
            assert ending is not None and said + ending in texts
            assert len(ending) == shortest, (said, ending)
            ids = text.ending_ids()
            assert ids is not None and b"".join(map(vocabulary.tok.token_bytes, ids)) == ending
            assert text.accept(vocabulary.id_of[bytes([byte])])
            said += bytes([byte])
        assert text.complete() and text.ending() == b""


def schemas_of(k2_data: Path) -> list[dict[str, Any]]:
    files = sorted((k2_data / "walle_schema_cases").glob("*.jsonl"))
    return [json.loads(line) for f in files for line in f.read_text(encoding="utf-8").splitlines() if line.strip()]


def test_walles_schemas_are_enforced_and_the_texts_are_valid(k2_data: Path) -> None:
    """166 schemas: random texts, cut anywhere and ended, are valid by a judge that knows nothing of
    grammars."""
    vocabulary = Vocabulary(tokenizer.load(NANO))
    rng, refused = np.random.default_rng(3), 0
    given = schemas_of(k2_data)
    assert len(given) == 166
    for schema in given:
        try:
            grammar = JsonGrammar(vocabulary, schema)
        except ValueError as error:
            refused += 1
            assert str(error)
            continue
        for limit in (0, *rng.integers(1, 60, 3)):
            text = grammar.begin()
            ids = walk(text, rng, int(limit))
            ending = text.ending_ids()
            assert ending is not None, schema
            assert all([text.accept(i) for i in ending]) and text.complete()
            written = vocabulary.tok.decode([*ids, *ending])
            jsonschema.validate(json.loads(written), schema)
            assert "�" not in written
    assert refused <= MAX_UNCOMPILABLE


NUMBERS = [0, 1, -1, 3, 0.5, -2.5, 10, 100, 7]


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_bounds_of_numbers_are_kept(kind: str) -> None:
    vocabulary = Vocabulary(tiny.vocabulary())
    rng = np.random.default_rng(5)
    for _ in range(60):
        low = NUMBERS[rng.integers(len(NUMBERS))]
        schema: dict[str, Any] = {"type": kind}
        schema[("minimum", "exclusiveMinimum")[rng.integers(2)]] = low
        if rng.random() < 0.7:
            schema[("maximum", "exclusiveMaximum")[rng.integers(2)]] = low + (0.5, 1, 2, 40)[rng.integers(4)]
        if kind == "integer" and rng.random() < 0.3:
            schema["multipleOf"] = int(rng.integers(2, 9))
        try:
            grammar = JsonGrammar(vocabulary, schema)
        except ValueError:
            continue  # nothing satisfies it, or it is one of those that cannot be enforced
        for _ in range(6):
            text = grammar.begin()
            ids = walk(text, rng, int(rng.integers(0, 5)))
            ids += text.ending_ids() or []
            jsonschema.validate(json.loads(vocabulary.tok.decode(ids)), schema)


SAME: list[tuple[dict[str, Any], list[Any]]] = [
    ({"type": "string", "format": "int32"}, ["a", 1]),
    ({"type": "array", "uniqueItems": False}, [[1, 1], 1]),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}}, [{"a": 1}]),
    ({"properties": {"format": {"const": {"format": "x", "uniqueItems": False}}}}, [{"format": {"format": "x"}}, {}]),
    ({"enum": [{"uniqueItems": False}, {}]}, [{}, {"uniqueItems": False}, 1]),
]


@pytest.mark.parametrize(("schema", "values"), SAME)
def test_what_is_simplified_means_the_same(schema: dict[str, Any], values: list[Any]) -> None:
    simple = repaired(schema).schema
    for value in (*values, {}, [], "x", None, {"a": "b"}):
        judged = [jsonschema.Draft202012Validator(s).is_valid(value) for s in (schema, simple)]
        assert judged[0] == judged[1], (value, simple)
    JsonGrammar(Vocabulary(tiny.vocabulary()), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"type": "string", "pattern": "^(?!a)b"},
        {"if": {"type": "string"}, "then": {"minLength": 2}},
        {"type": "object", "minProperties": 3},
        {"type": "number", "exclusiveMinimum": 10, "maximum": 10.5},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "integer", "minimum": 3, "maximum": 1},
        {"type": "string", "minLength": 10**12},
        {"type": "string", "minLength": 10**6},
        {"type": "array", "minItems": 10**6, "items": {"type": "integer"}},
        {"type": "integer", "multipleOf": 999983},
        {"const": "x" * 10_000},
        {"enum": [f"v{i}" for i in range(20_000)]},
        {"allOf": [{"anyOf": [{"properties": {a + b: {}}, "required": [a + b]} for b in "abcdef"]} for a in "ABCDEFG"]},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}},
        json.loads('{"type":"array","items":' * 70 + "{}" + "}" * 70),
    ],
    ids=lambda s: str(s)[:40],
)  # fmt: skip
def test_what_cannot_be_enforced_is_said_in_time(schema: dict[str, Any]) -> None:
    """Never a hang: what cannot be compiled, satisfied or completed within limits is a
    ValueError."""
    vocabulary = Vocabulary(tiny.vocabulary())
    started = time.process_time()
    with pytest.raises(ValueError, match=r"\w"):
        JsonGrammar(vocabulary, schema)
    assert time.process_time() - started < 5


WORDS = """type properties required items prefixItems additionalProperties patternProperties enum const anyOf oneOf
allOf $ref $defs not minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format
minItems maxItems minProperties maxProperties uniqueItems if then else propertyNames x-guidance title default a b"""
TEXTS = ("object", "array", "string", "integer", "null", "#", "#/$defs/a", "date", "int32", "^a+$", "[", "\ud800")
NUMBERS_IN_SCHEMAS = st.integers(-5, 5) | st.sampled_from((0.5, -2.5, 1e3, 0.01))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS_IN_SCHEMAS | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS.split()), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans())
def test_any_json_is_a_grammar_or_a_complaint(schema: Any, lenient: bool) -> None:
    """Also what is no schema at all. Where there is a grammar, its shortest text satisfies the
    schema."""
    vocabulary = Vocabulary(TINY)
    try:
        grammar = JsonGrammar(vocabulary, schema, lenient)
    except ValueError as error:
        assert str(error)
        return
    value = json.loads(grammar.least)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        return  # an older draft, or nonsense that the compiler lets pass
    if not lenient and "x-guidance" not in json.dumps(schema):
        assert jsonschema.Draft202012Validator(schema).is_valid(value), value


def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A schema with some of these keywords."""
    return st.fixed_dictionaries({}, optional=keywords)


NAMES = st.sampled_from(("a", "b", "naïve", "x y", "ab"))
SMALL = st.integers(0, 3)
LEAVES = st.one_of(
    st.sampled_from([{}, {"type": "null"}, {"type": "boolean"}, {"$ref": "#/$defs/d"}, {"type": ["string", "null"]}]),
    some(minLength=SMALL, maxLength=st.integers(3, 6), pattern=st.sampled_from(("^[a-c]+$", "b", "^x?y"))).map(
        lambda s: {"type": "string", **s}
    ),
    some(minimum=st.integers(-3, 3), maximum=st.integers(3, 120), multipleOf=st.integers(1, 6)).map(
        lambda s: {"type": "integer", **s}
    ),
    some(exclusiveMinimum=st.integers(-3, 3), exclusiveMaximum=st.sampled_from((4, 4.5, 5))).map(
        lambda s: {"type": "number", **s}
    ),
    st.lists(st.sampled_from((1, "one", None, "é", 2.5, [1], {"a": 1})), min_size=1, max_size=3).map(
        lambda v: {"enum": v}
    ),
    st.sampled_from(("date", "time", "uuid", "ipv4", "date-time")).map(lambda f: {"type": "string", "format": f}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        some(
            properties=st.dictionaries(NAMES, inner, max_size=4),
            required=st.lists(NAMES, max_size=3, unique=True),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(st.sampled_from(("^k", "^q")), inner, max_size=1),
            maxProperties=st.integers(1, 4),
        ).map(lambda s: {"type": "object", **s}),
        some(items=inner | st.just(False), prefixItems=st.lists(inner, max_size=2), minItems=SMALL, maxItems=SMALL).map(
            lambda s: {"type": "array", **s}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda s: {"anyOf": s}),
        st.lists(inner, min_size=1, max_size=2).map(lambda s: {"oneOf": s}),
        st.lists(inner, min_size=1, max_size=2).map(lambda s: {"allOf": s}),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, LEAVES.filter(lambda s: "$ref" not in s), st.integers(0, 2**32), st.integers(0, 40))
def test_texts_under_any_schema_are_valid(schema: dict[str, Any], ref: dict[str, Any], seed: int, length: int) -> None:
    """A random text, ended somewhere, satisfies a random schema."""
    whole = {**schema, "$defs": {"d": ref}}
    vocabulary = Vocabulary(TINY)
    try:
        grammar = JsonGrammar(vocabulary, whole)
    except ValueError:
        return
    text = grammar.begin()
    said = walk(text, np.random.default_rng(seed), length)
    ending = text.ending_ids()
    assert ending is not None
    value = json.loads(TINY.decode([*said, *ending]))
    jsonschema.Draft202012Validator(whole).validate(value)


def test_lenient_enforces_the_rest() -> None:
    vocabulary = Vocabulary(tiny.vocabulary())
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    text = JsonGrammar(vocabulary, schema, lenient=True).begin()
    assert text.accept(vocabulary.id_of[b"["])
    assert not text.mask()[vocabulary.id_of[b'"']]


def test_the_worked_example_of_the_ending(tok: tokenizer.Tokenizer) -> None:
    """ending.py's header."""
    size = [
        {"type": "string"},
        {"type": "array", "items": {}, "minItems": 1},
        {"type": "object", "properties": {"w": {"type": "integer"}}, "required": ["w"]},
    ]
    schema = {"type": "object", "properties": {"size": {"anyOf": size}, "tag": {"enum": ["red", "blue"]}}}
    text = JsonGrammar(Vocabulary(tok), {**schema, "required": ["size", "tag"]}).begin()
    assert all([text.accept(i) for i in tok.encode('{"size":')])
    assert text.ending() == b'"","tag":"red"}'


def test_bytes_that_begin_inside_a_character_are_spelled(tok: tokenizer.Tokenizer) -> None:
    vocabulary = Vocabulary(tok)
    for data in (b"", b"\xac\x92 x", '鬒"}'.encode(), "鬒é".encode()[1:], b"\x80"):
        assert b"".join(map(tok.token_bytes, vocabulary.spell(data))) == data


@pytest.mark.parametrize(
    "pattern", [r"^[a-z]+@[a-z]+\.com$", r"\.py$", "^https?://", "(foo|ba){2,3}x", "[^a-z]{3}", r"^\d{3}-\w+$", "a{3,}"]
)
def test_a_pattern_has_an_example(pattern: str) -> None:
    import re

    text = json_schema.example(pattern)
    assert text is not None and re.search(pattern, text)
    grammar = JsonGrammar(Vocabulary(tiny.vocabulary()), {"type": "string", "pattern": pattern})
    assert re.search(pattern, json.loads(grammar.least))

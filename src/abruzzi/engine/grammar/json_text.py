"""JSON under a schema, as a mask over the next token: llguidance over our vocabulary.

A grammar here covers one JSON text and nothing around it: control tokens never match inside, and
turn.py says by token id where the text begins and ends. Property order is the schema's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from abruzzi.engine.grammar import schema as json_schema
from abruzzi.engine.grammar.degrade import degraded
from abruzzi.engine.grammar.ending import Scanner, shortest_ending
from abruzzi.tokenizer import Tokenizer

# One space, or one new line with its indent: small models fall into white space and never come out.
_OPTIONS: dict[str, Any] = {
    "whitespace_pattern": r"\x20|\x0A[\x20\x09]{0,40}",
    "whitespace_flexible": True,
    "item_separator": ",",
    "key_separator": ":",
    "json_allowed_escapes": 'nrbtf\\"u',
    "json_allow_general_unicode_escapes": False,
}
_LIMITS: dict[str, Any] = {
    "max_lexer_states": 20_000,  # about 2 kB each
    "max_grammar_size": 200_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "verbose_errors": False,
}


class Vocabulary:
    """A tokenizer as llguidance sees it, and learned tokens by their bytes. (Kimi's 163,840 ids:
    about a second.)

    end: the id of the end of turn. learned: bool [V], the ids that are text. Raises ValueError
    for a tokenizer without the chat's control tokens."""

    def __init__(self, tok: Tokenizer, size: int | None = None) -> None:
        """size: how many logits the model gives, when it is more than the tokenizer has ids."""
        from llguidance import LLTokenizer, TokenizerWrapper  # here, so that whoever only runs text does not load it

        self.tok = tok
        self.size = tok.vocab_size if size is None else size
        self.end = tok.marker_ids.end_of_turn
        self.id_of: dict[bytes, int] = {}
        pieces, outside = [], []
        for token_id in range(self.size):
            piece = None if token_id in tok.control_ids else _bytes_of(tok, token_id)
            if piece:
                self.id_of[piece] = token_id
            else:  # a control token, or a hole in the vocabulary
                outside.append(token_id)
            pieces.append(piece or b"<%d>" % token_id)
        self.learned = np.ones(self.size, bool)
        self.learned[outside] = False
        slices = LLTokenizer.json_slices()
        self.tokens = LLTokenizer(TokenizerWrapper(_Source(pieces, outside, self.end, tok)), slices=slices)
        alphabet = [bytes([b]) for b in range(256)]
        self.bytes = LLTokenizer(TokenizerWrapper(_Source([*alphabet, b"<end>"], [256], 256, None)), slices=[])

    def spell(self, data: bytes) -> tuple[int, ...]:
        """Ids of UTF-8 that may begin inside a character."""
        begin = 0  # of the first whole character
        while begin < len(data) and 0x80 <= data[begin] < 0xC0:
            begin += 1
        head = [self.id_of[data[i : i + 1]] for i in range(begin)]
        return (*head, *self.tok.encode(data[begin:].decode("utf-8")))


class JsonGrammar:
    """A compiled schema. Immutable; `begin` starts any number of texts.

    least, least_ids: the shortest text. start: bool [V], the ids a text may begin with. max_growth:
    by how many tokens one token can lengthen the shortest completion of a text, an estimate in
    bytes. enforced: what is left of the schema, in the compiler's words. dropped: the parts of it
    that are not enforced."""

    def __init__(self, vocabulary: Vocabulary, schema: Any, lenient: bool = False) -> None:
        """Compiles: milliseconds, seconds for large schemas. lenient: leave out what cannot be
        enforced.

        Raises ValueError that says which part of the schema it cannot enforce, by its JSON
        pointer."""
        self.vocabulary = vocabulary
        self.hints = _hints(schema)
        self.enforced, self.dropped = degraded(schema, self._compile)
        if self.dropped and not lenient:
            first = self.dropped[0]
            raise ValueError(f"{first.pointer or 'the whole schema'}: {first.why}")
        self.least_ids = vocabulary.spell(self.least)
        self.start = self.begin().mask()
        self.max_growth = json_schema.max_growth(schema) if isinstance(schema, dict) else 8

    def _compile(self, schema: Any) -> None:
        """Compile a schema of which everything can be enforced. Raises ValueError."""
        from llguidance import LLMatcher, LLParserLimits

        text = json.dumps(schema, ensure_ascii=False)
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=_OPTIONS)  # type: ignore[arg-type]
        limits = LLParserLimits(**_LIMITS)
        self.matcher = LLMatcher(self.vocabulary.tokens, grammar, log_level=0, limits=limits)
        self.byte_matcher = LLMatcher(self.vocabulary.bytes, grammar, log_level=0, limits=limits)
        for matcher in (self.matcher, self.byte_matcher):
            if matcher.is_error():
                raise ValueError(_first_line(matcher.get_error()))
        self.least = self._least()

    def begin(self) -> JsonText:
        """A new text."""
        return JsonText(self)

    def _least(self) -> bytes:
        text = self.begin()
        least = text.ending()
        if least is None:
            why = _first_line(text.error or "") or "no short text satisfies it"
            raise ValueError(f"{why}; hint: a value must be possible in a few thousand bytes")
        return least


class JsonText:
    """The matcher of one JSON text, fed token by token."""

    def __init__(self, grammar: JsonGrammar) -> None:
        self.grammar = grammar
        self._matcher = grammar.matcher.deep_copy()
        self._bytes = _Bytes(grammar.byte_matcher.deep_copy())
        self._scanner = Scanner()
        self._pending = b""  # accepted, and not yet fed to the byte matcher and the scanner

    @property
    def error(self) -> str | None:
        """Why nothing can follow: a limit of the grammar was hit."""
        return _first_line(self._matcher.get_error()) or self._bytes.error or None

    def mask(self) -> np.ndarray:
        """bool [V]: the ids that may come; the end is not among them."""
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
        allowed[self.grammar.vocabulary.end] = False
        return allowed

    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def accept(self, token_id: int) -> bool:
        """Advance by a token; False when the grammar does not allow it."""
        self._pending += self.grammar.vocabulary.tok.token_bytes(token_id)
        return self._matcher.consume_token(token_id)

    def ending(self) -> bytes | None:
        """The shortest completion; None when none is found."""
        if self._pending:
            if not self._bytes.take(self._pending):
                return None
            self._scanner.feed(self._pending)
            self._pending = b""
        if self._bytes.complete():
            return b""
        return shortest_ending(self._bytes, self._scanner, self.grammar.hints)

    def ending_ids(self) -> Sequence[int] | None:
        """`ending` as ids, byte by byte where the tokenizer's own ids do not fit the grammar's
        state."""
        data = self.ending()
        if data is None:
            return None
        ids = self.grammar.vocabulary.spell(data)
        if self._matcher.validate_tokens(list(ids)) == len(ids):
            return ids
        return [self.grammar.vocabulary.id_of[bytes([b])] for b in data]


class _Bytes:
    """llguidance over single bytes: a ByteGrammar (ending.py)."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def error(self) -> str:
        return _first_line(self._matcher.get_error())

    def copy(self) -> _Bytes:
        return _Bytes(self._matcher.deep_copy())

    def take(self, data: bytes) -> bool:
        return self._matcher.consume_tokens(list(data))

    def next_bytes(self) -> bytes:
        return (
            np.flatnonzero(np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)[:256]).astype(np.uint8).tobytes()
        )

    def complete(self) -> bool:
        return self._matcher.is_accepting()


class _Source:
    """A tokenizer in the shape that llguidance's TokenizerWrapper reads."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], end: int, tok: Tokenizer | None) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end
        self._tok = tok

    def __call__(self, text: bytes | str) -> list[int]:
        if self._tok is None:
            return list(text if isinstance(text, bytes) else text.encode())
        return self._tok.encode(text if isinstance(text, str) else text.decode("utf-8"))


def _bytes_of(tok: Tokenizer, token_id: int) -> bytes | None:
    try:
        return tok.token_bytes(token_id)
    except ValueError:  # a hole in the vocabulary
        return None


def _hints(schema: Any) -> tuple[bytes, ...]:
    """The insides of JSON strings that may complete a text: examples of the schema's patterns."""
    found = []
    for text in json_schema.patterns(schema):
        with suppress(UnicodeEncodeError):
            found.append(json.dumps(text, ensure_ascii=False)[1:-1].encode())
    return tuple(found)


def _first_line(text: str) -> str:
    return " ".join(text.split("<state>")[0].split("<non-verbose/>")[0].split())[:300]

"""LRU cache of compiled schemas, and the grammars of turns made of them: an agent sends the same
tools every time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from abruzzi.engine.grammar.json_text import JsonGrammar, Vocabulary
from abruzzi.engine.grammar.judge import Judge
from abruzzi.engine.grammar.structure import Key, Schema, Structure, Unenforceable
from abruzzi.engine.grammar.turn import CallGrammar, TurnGrammar, TurnTokens
from abruzzi.tokenizer import Tokenizer

CAPACITY = 256  # compiled schemas


class Grammars:
    """LRU cache of compiled schemas for one vocabulary. Thread safe: at worst something is compiled
    twice."""

    def __init__(
        self, tok: Tokenizer, vocab_size: int, capacity: int = CAPACITY, missed: Callable[[], None] = lambda: None
    ) -> None:
        """vocab_size: how many logits the model gives. missed: told when a finished turn misses its
        schema."""
        self._missed = missed
        self._tok, self._size, self._capacity = tok, vocab_size, capacity
        self._tokens: TurnTokens | None = None
        self._kept: OrderedDict[Key, JsonGrammar | str] = OrderedDict()  # a text: why there is none
        self._lock = threading.Lock()  # of what is kept

    @property
    def ready(self) -> bool:
        """Whether the vocabulary has been read (Kimi's: about a second, with the first turn)."""
        return self._tokens is not None

    def known(self, structure: Structure) -> int:
        """How many of its schemas need no compiling."""
        with self._lock:
            return sum(schema.key in self._kept for schema in structure.schemas)

    def turn(self, structure: Structure, first_index: int, thinks: bool) -> TurnGrammar:
        """The grammar of a turn. first_index: of the next call in the conversation. thinks: whether
        it may think.

        Compiles what is new: milliseconds, up to seconds for large schemas. Raises
        Unenforceable."""
        if thinks and structure.demanded is not None and self._tok.marker_ids.spells_thinking:
            raise Unenforceable(
                f"{structure.demanded} needs to know where the thought ends, and this model spells that as text; "
                "hint: switch thinking off",
                structure.demanded,
                "unsupported_value",
            )
        if self._tokens is None:
            self._tokens = TurnTokens(Vocabulary(self._tok, self._size))
        found = [self._grammar(schema, _whose(name)) for name, schema in structure.arguments.items()]
        dropped = [f"{name}:{part.pointer}" for name, g in zip(structure.arguments, found) for part in g.dropped]
        if structure.answer is not None:
            found.append(self._grammar(structure.answer, ""))
            dropped += [f":{part.pointer}" for part in found[-1].dropped]
        return TurnGrammar(
            self._tokens,
            [CallGrammar(name, grammar) for name, grammar in zip(structure.arguments, found)],
            None if structure.answer is None else found[-1],
            structure.must_call,
            structure.max_calls,
            first_index,
            thinks,
            dropped=dropped,
            judge=Judge(structure, self._missed),
        )

    def _grammar(self, schema: Schema, whose: str) -> JsonGrammar:
        key = schema.key
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is None:
            assert self._tokens is not None
            found = _compiled(self._tokens.vocabulary, schema)
            with self._lock:
                self._kept[key] = found
                if len(self._kept) > self._capacity:
                    self._kept.popitem(last=False)
        if isinstance(found, str):
            hint = "" if schema.lenient else "; hint: without strict=true that part is left out and the rest enforced"
            raise Unenforceable(
                f"{schema.name}{whose} cannot be enforced: {found}{hint}", schema.name, "unsupported_schema"
            )
        return found


def _whose(name: str) -> str:
    return f" of the tool {name!r:.80}"


def _compiled(vocabulary: Vocabulary, schema: Schema) -> JsonGrammar | str:
    """The grammar, or why there is none."""
    try:
        return JsonGrammar(vocabulary, schema.value, schema.lenient)
    except ValueError as error:
        return str(error)

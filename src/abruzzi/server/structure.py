"""What a request demands of the answer's form, and the grammar of it: tool_choice, parallel calls, JSON answers.

Grammars are compiled off the event loop, one at a time, within limits, and kept: an agent sends the same tools
with every request. What cannot be compiled is a 400 that names the field.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from abruzzi.engine.llm import ANSWER_SHARE
from abruzzi.server.errors import ApiError
from abruzzi.tokenizer import Tokenizer
from abruzzi.tokenizer.control import spells_thinking

if TYPE_CHECKING:  # llguidance comes with what is imported below, when a request needs it
    from abruzzi.engine.json_grammar import JsonGrammar
    from abruzzi.engine.turn_grammar import TurnGrammar, TurnTokens

KEPT = 256  # compiled schemas
MAX_WAITING = 32  # requests that wait for theirs
MAX_TOTAL_CHARS = 1_000_000  # of all schemas of one request


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema that a client gave. name: the field, for errors. lenient: strict=false was said."""

    value: Any
    name: str
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class Structure:
    """arguments: the schema of each tool that may be called, by its name; empty = none may. must_call: no text.

    max_calls: None = any number. answer: what the text must be; None = any. choice_field: who demanded calls."""

    arguments: Mapping[str, Schema] = field(default_factory=dict)
    must_call: bool = False
    max_calls: int | None = None
    answer: Schema | None = None
    choice_field: str = "tool_choice"

    @property
    def demanded(self) -> str | None:
        """The field that leaves no free text, if one does."""
        if self.must_call:
            return self.choice_field
        return None if self.answer is None else self.answer.name


class Grammars:
    """Compiles. size: of the model's vocabulary."""

    def __init__(self, tok: Tokenizer, size: int) -> None:
        self.refused = 0
        self._tok, self._size = tok, size
        self._tokens: TurnTokens | None = None
        self._kept: OrderedDict[tuple[str, bool], JsonGrammar | str] = OrderedDict()  # a text: why there is none
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._waiting = 0

    async def of(self, structure: Structure, first_index: int, thinks: bool) -> TurnGrammar:
        """The grammar of a turn. first_index: of the next call in the conversation. Raises ApiError."""
        if thinks and structure.demanded is not None and spells_thinking(self._tok):
            raise ApiError(
                400,
                f"{structure.demanded} needs to know where the thought ends, and this model spells that as text; "
                "hint: switch thinking off",
                structure.demanded,
                "unsupported_value",
            )
        wanted = [*structure.arguments.values(), *([structure.answer] if structure.answer else [])]
        keys = [_key(schema) for schema in wanted]
        if sum(len(key[0]) for key in keys) > MAX_TOTAL_CHARS:
            raise ApiError(400, f"the schemas have more than {MAX_TOTAL_CHARS} characters", "tools", "invalid_value")
        if self._tokens is None or any(key not in self._kept for key in keys):
            await self._compile(zip(keys, wanted))
        tokens = self._tokens
        assert tokens is not None
        from abruzzi.engine.turn_grammar import CallGrammar, TurnGrammar

        found = [self._found(key, schema) for key, schema in zip(keys, wanted)]
        calls = [CallGrammar(name, grammar) for name, grammar in zip(structure.arguments, found)]
        answer = None if structure.answer is None else found[-1]
        return TurnGrammar(
            tokens, calls, answer, structure.must_call, structure.max_calls, first_index, thinks, ANSWER_SHARE
        )

    def _found(self, key: tuple[str, bool], schema: Schema) -> JsonGrammar:
        found = self._kept[key]
        self._kept.move_to_end(key)
        if isinstance(found, str):
            self.refused += 1
            hint = "" if schema.lenient else "; hint: strict=false leaves out what cannot be enforced"
            raise ApiError(400, f"{schema.name} cannot be enforced: {found}{hint}", schema.name, "unsupported_schema")
        return found

    async def _compile(self, wanted: Iterable[tuple[tuple[str, bool], Schema]]) -> None:
        if self._waiting >= MAX_WAITING:
            raise ApiError(429, "too many schemas wait to be compiled", code="queue_full", retry_after=2)
        self._waiting += 1
        try:
            new = await asyncio.get_running_loop().run_in_executor(self._worker, self._work, dict(wanted))
        finally:
            self._waiting -= 1
        for key, grammar in new.items():
            self._kept[key] = grammar
            self._kept.move_to_end(key)
        while len(self._kept) > max(KEPT, len(new)):
            self._kept.popitem(last=False)

    def _work(self, wanted: Mapping[tuple[str, bool], Schema]) -> dict[tuple[str, bool], JsonGrammar | str]:
        """In the worker's thread. All that are wanted, so that none of them can have been dropped meanwhile."""
        try:
            from abruzzi.engine.json_grammar import JsonGrammar, Vocabulary
            from abruzzi.engine.turn_grammar import TurnTokens

            if self._tokens is None:
                self._tokens = TurnTokens(Vocabulary(self._tok, self._size))
        except ImportError as error:
            raise ApiError(501, str(error), code="not_installed") from None
        vocabulary = self._tokens.vocabulary
        made: dict[tuple[str, bool], JsonGrammar | str] = {}
        for key, schema in wanted.items():
            made[key] = self._kept.get(key) or _made(JsonGrammar, vocabulary, schema)
        return made


def _made(kind: Any, vocabulary: Any, schema: Schema) -> JsonGrammar | str:
    try:
        return kind(vocabulary, schema.value)
    except ValueError as error:
        if not schema.lenient:
            return str(error)
    try:
        return kind(vocabulary, schema.value, lenient=True)
    except ValueError as error:
        return str(error)


def _key(schema: Schema) -> tuple[str, bool]:
    """Property order counts: it is the order in which they are written."""
    try:
        return json.dumps(schema.value, ensure_ascii=False), schema.lenient
    except RecursionError:
        raise ApiError(400, f"{schema.name} is nested too deep", schema.name, "invalid_value") from None

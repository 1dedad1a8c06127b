"""What a request demands of the answer's form, and the grammar of it: tool_choice, parallel calls, JSON answers.

Grammars are compiled off the event loop, one at a time, within limits, and kept: an agent sends the same tools
with every request. What cannot be compiled is a 400 that names the field.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from abruzzi.engine.llm import ANSWER_SHARE
from abruzzi.server.errors import ApiError
from abruzzi.tokenizer import Tokenizer

if TYPE_CHECKING:  # llguidance comes with what is imported below, when a request needs it
    from abruzzi.engine.grammar.json_text import JsonGrammar, Vocabulary
    from abruzzi.engine.grammar.turn import TurnGrammar, TurnTokens

KEPT = 256  # compiled schemas
MAX_SECONDS = 30.0  # that a request waits for its schemas
MAX_TOTAL_CHARS = 1_000_000  # of all schemas of one request
Key = tuple[str, bool]


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
    """Compiles, and keeps. size: of the model's vocabulary. counts: how schemas were dealt with, for the metrics."""

    def __init__(self, tok: Tokenizer, size: int, counts: Counter[str]) -> None:
        self._tok, self._size, self._counts = tok, size, counts
        self._tokens: TurnTokens | None = None
        self._kept: OrderedDict[Key, JsonGrammar | str] = OrderedDict()  # a text: why there is none
        self._lock = threading.Lock()  # of what is kept
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    async def of(self, structure: Structure, first_index: int, thinks: bool) -> TurnGrammar:
        """The grammar of a turn. first_index: of the next call in the conversation. Raises ApiError."""
        if thinks and structure.demanded is not None and self._tok.marker_ids.spells_thinking:
            raise ApiError(
                400,
                f"{structure.demanded} needs to know where the thought ends, and this model spells that as text; "
                "hint: switch thinking off",
                structure.demanded,
                "unsupported_value",
            )
        wanted = [*structure.arguments.values(), *([structure.answer] if structure.answer else [])]
        keyed = [(_key(schema), schema) for schema in wanted]
        if sum(len(key[0]) for key, _ in keyed) > MAX_TOTAL_CHARS:
            raise ApiError(400, f"the schemas have more than {MAX_TOTAL_CHARS} characters", "tools", "invalid_value")
        known = self._known(key for key, _ in keyed)
        self._counts["known"] += len(known)
        self._counts["compiled"] += len(keyed) - len(known)
        if self._tokens is None or len(known) < len(keyed):
            known = await self._compile(dict(keyed))
        tokens = self._tokens
        assert tokens is not None
        from abruzzi.engine.grammar.turn import CallGrammar, TurnGrammar

        found = [self._grammar(known[key], schema) for key, schema in keyed]
        calls = [CallGrammar(name, grammar) for name, grammar in zip(structure.arguments, found)]
        answer = None if structure.answer is None else found[-1]
        return TurnGrammar(
            tokens, calls, answer, structure.must_call, structure.max_calls, first_index, thinks, ANSWER_SHARE
        )

    def _grammar(self, found: JsonGrammar | str, schema: Schema) -> JsonGrammar:
        if isinstance(found, str):
            self._counts["refused"] += 1
            hint = "" if schema.lenient else "; hint: strict=false leaves out what cannot be enforced"
            raise ApiError(400, f"{schema.name} cannot be enforced: {found}{hint}", schema.name, "unsupported_schema")
        return found

    def _known(self, keys: Iterable[Key]) -> dict[Key, JsonGrammar | str]:
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        return found

    async def _compile(self, wanted: Mapping[Key, Schema]) -> dict[Key, JsonGrammar | str]:
        work = asyncio.get_running_loop().run_in_executor(self._worker, self._work, wanted)
        try:
            return await asyncio.wait_for(work, MAX_SECONDS)
        except TimeoutError:
            raise ApiError(
                503, f"the schemas were not compiled within {MAX_SECONDS:g} s; hint: try again, or simplify them",
                code="busy", retry_after=5,
            ) from None  # fmt: skip

    def _work(self, wanted: Mapping[Key, Schema]) -> dict[Key, JsonGrammar | str]:
        """In the worker's thread: all that are wanted, those that became known meanwhile as well."""
        try:
            from abruzzi.engine.grammar.json_text import Vocabulary
            from abruzzi.engine.grammar.turn import TurnTokens

            if self._tokens is None:
                self._tokens = TurnTokens(Vocabulary(self._tok, self._size))
        except ImportError as error:
            raise ApiError(501, str(error), code="not_installed") from None
        made = self._known(wanted)
        new = {key: _made(self._tokens.vocabulary, schema) for key, schema in wanted.items() if key not in made}
        with self._lock:
            self._kept.update(new)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made | new


def _made(vocabulary: Vocabulary, schema: Schema) -> JsonGrammar | str:
    """The grammar, or why there is none."""
    from abruzzi.engine.grammar.json_text import JsonGrammar

    try:
        return JsonGrammar(vocabulary, schema.value)
    except ValueError as error:
        if not schema.lenient:
            return str(error)
    try:
        return JsonGrammar(vocabulary, schema.value, lenient=True)
    except ValueError as error:
        return str(error)


def _key(schema: Schema) -> Key:
    """Property order counts: it is the order in which they are written."""
    try:
        return json.dumps(schema.value, ensure_ascii=False), schema.lenient
    except RecursionError:
        raise ApiError(400, f"{schema.name} is nested too deep", schema.name, "invalid_value") from None

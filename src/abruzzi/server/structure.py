"""The grammars of requests: compiled off the event loop, one request at a time, within limits.

What a turn may be and the cache of what was compiled are the engine's (engine/grammar/compiled.py);
here a form that cannot be enforced becomes a 400 that names the field, and a compilation that takes
too long a 503.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from abruzzi.engine.grammar.compiled import Grammars, Schema, Structure, Unenforceable
from abruzzi.engine.grammar.turn import TurnGrammar
from abruzzi.server.errors import ApiError
from abruzzi.tokenizer import Tokenizer

__all__ = ["RequestGrammars", "Schema", "Structure"]

MAX_SECONDS = 30.0  # that a request waits for its schemas
DROPPED_HEADER = "X-Abruzzi-Schema-Dropped"
MAX_HEADER = 1000  # characters of its value
MAX_TOTAL_CHARS = 1_000_000  # of all schemas of one request


def dropped_header(dropped: Sequence[str]) -> str:
    """What is not enforced, for a header: "tool:/json/pointer, ..." percent-encoded (the answer's
    without a name).

    At most MAX_HEADER characters: then how many more there are."""
    out, length = [], 0
    for number, part in enumerate(dropped):
        text = quote(part[:MAX_HEADER], safe="/:~$._-")[:200]
        length += len(text) + 2
        if length > MAX_HEADER:
            return f"{', '.join(out)}, ...{len(dropped) - number} more"
        out.append(text)
    return ", ".join(out)


class RequestGrammars:
    """size: of the model's vocabulary. counts: how schemas were dealt with, for the metrics."""

    def __init__(self, tok: Tokenizer, size: int, counts: Counter[str]) -> None:
        self._grammars, self._counts = Grammars(tok, size, missed=self._missed), counts
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    async def of(self, structure: Structure, first_index: int, thinks: bool) -> TurnGrammar:
        """The grammar of a turn. first_index: of the next call in the conversation. Raises
        ApiError."""
        try:
            grammar = await self._of(structure, first_index, thinks)
            self._counts["weakened"] += bool(grammar.dropped)
            return grammar
        except Unenforceable as error:
            self._counts["refused"] += error.code == "unsupported_schema"
            raise ApiError(400, str(error), error.field, error.code) from None

    def _missed(self) -> None:
        self._counts["missed"] += 1

    async def _of(self, structure: Structure, first_index: int, thinks: bool) -> TurnGrammar:
        if sum(len(schema.key[0]) for schema in structure.schemas) > MAX_TOTAL_CHARS:
            raise ApiError(400, f"the schemas have more than {MAX_TOTAL_CHARS} characters", "tools", "invalid_value")
        known, count = self._grammars.known(structure), len(structure.schemas)
        self._counts["known"] += known
        self._counts["compiled"] += count - known
        if known == count and self._grammars.ready:
            return self._grammars.turn(structure, first_index, thinks)
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._worker, self._grammars.turn, structure, first_index, thinks)
        try:
            return await asyncio.wait_for(work, MAX_SECONDS)
        except TimeoutError:
            raise ApiError(
                503, f"the schemas were not compiled within {MAX_SECONDS:g} s; hint: try again, or simplify them",
                code="busy", retry_after=5,
            ) from None  # fmt: skip

"""A bank of hand-written phrasings: for each thing to say, some that training sees and some held out.

The split decides the pool: `held_out` draws only from the held-out phrasings, `trained` and `longer`
only from the others. Every phrasing has an id ("gain.2", held out "gain.h0") that tasks carry.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Say:
    """Phrasings of one thing to say. `trained` and `held_out` are for the question, the rest for thinking.

    plan: the step named in a few words. why: what is computed and why, without the numbers' operation.
    then: what the result means."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    plan: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


class Bank:
    """Draws phrasings for one task and remembers which."""

    def __init__(self, says: Mapping[str, Say], rng: random.Random, held_out: bool) -> None:
        self._says, self._rng, self._held_out = says, rng, held_out
        self.used: list[str] = []

    def draw(self, kind: str) -> str:
        """A phrasing of `kind` for the question, from the pool of the task's split."""
        pool = self._says[kind].held_out if self._held_out else self._says[kind].trained
        index = self._rng.randrange(len(pool))
        self.used.append(f"{kind}.{'h' if self._held_out else ''}{index}")
        return pool[index]

    def thought(self, kind: str, part: str) -> str:
        """A phrasing for the thinking; part is plan, why or then."""
        return self._rng.choice(getattr(self._says[kind], part))


def extended(says: Mapping[str, Say], *additions: Mapping[str, tuple[str, ...]]) -> dict[str, Say]:
    """`says` with further trained phrasings behind those they have. Raises KeyError for a kind that `says` lacks."""
    joined = dict(says)
    for kind, texts in (item for addition in additions for item in addition.items()):
        joined[kind] = replace(joined[kind], trained=joined[kind].trained + texts)
    return joined

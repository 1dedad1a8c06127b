"""Phrase banks: for each thing to say, hand-written phrasings that training sees and some held out.

    bank("stories/collect")["gain"].trained     the texts of words/stories/collect.txt, entry gain

The split decides the pool: `held_out` draws only from the held-out phrasings, `trained` and
`longer` only from the others. Every phrasing has an id that tasks carry, made from its kind and a
hash of its text ("gain.3fa9c1", held out "gain.h3fa9c1"), so that phrasings can be sorted, added
and taken away and the others keep theirs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from types import MappingProxyType

from . import entries

PARTS = ("trained", "held_out", "plan", "why", "then")


@dataclass(frozen=True)
class Say:
    """Phrasings of one thing to say. `trained` and `held_out` are for the question, the rest for
    thinking.

    plan: the step named in a few words. why: what is computed and why, without the numbers'
    operation. then: what the result means. ids: the hash of each text of the question."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


class Bank:
    """Draws phrasings for one task and remembers which."""

    def __init__(self, says: Mapping[str, Say], rng: random.Random, held_out: bool) -> None:
        self._says, self._rng, self._held_out = says, rng, held_out
        self.used: list[str] = []

    def draw(self, kind: str) -> str:
        """A phrasing of `kind` for the question, from the pool of the task's split."""
        say = self._says[kind]
        text = self._rng.choice(say.held_out if self._held_out else say.trained)
        self.used.append(f"{kind}.{'h' if self._held_out else ''}{say.ids[text]}")
        return text

    def thought(self, kind: str, part: str) -> str:
        """A phrasing for the thinking; part is plan, why or then."""
        return self._rng.choice(getattr(self._says[kind], part))


def text_id(text: str) -> str:
    """A text's hash: six hexadecimal digits."""
    return blake2b(text.encode(), digest_size=3).hexdigest()


@cache
def bank(name: str) -> Mapping[str, Say]:
    """The phrasings of words/NAME.txt by kind, read at the first call. Raises ValueError with file
    and line."""
    return MappingProxyType({kind: say(entry) for kind, entry in entries.read(name).items()})


@cache
def banks(*names: str) -> Mapping[str, Say]:
    """The phrasings of several files as one bank. Raises ValueError for a kind that two of them
    have."""
    joined: dict[str, Say] = {}
    for name in names:
        if twice := joined.keys() & bank(name).keys():
            raise ValueError(
                f"words/{name}.txt: the entry {min(twice)!r} is in {', '.join(names)} twice; expected once"
            )
        joined |= bank(name)
    return MappingProxyType(joined)


def say(entry: entries.Entry) -> Say:
    """One entry of a file as phrasings. Raises ValueError with file and line."""
    entry.only(*PARTS)
    parts = {part: entry.parts.get(part, ()) for part in PARTS}
    for text in parts["held_out"]:
        if text in parts["trained"] and entries.has_words(text):
            raise entry.error(f"{text!r} is held out and trained; expected it in one of them")
    return Say(**parts, ids=_ids(entry, (*parts["trained"], *parts["held_out"])))


def _ids(entry: entries.Entry, texts: Sequence[str]) -> dict[str, str]:
    ids: dict[str, str] = {}
    owners: dict[str, str] = {}
    for text in texts:
        ids[text] = text_id(text)
        other = owners.setdefault(ids[text], text)
        if other != text:
            raise entry.error(f"{text!r} and {other!r} have the same id {ids[text]}; hint: change a word of one")
    return ids

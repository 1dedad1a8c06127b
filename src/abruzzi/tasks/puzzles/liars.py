"""Liars and truth-tellers: everybody says one thing, and who lies follows from that alone.

    Mia T, Ben T: no, Mia's words are false. Mia T, Ben L: all fits. Mia L, Ben T: no, Ben's words are false.

The trace goes through the people in order, T before L, and drops a branch as soon as somebody's
words do not fit; it goes to the end, so it shows that one way remains.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from .. import language
from ..environments import NoTools
from ..phrasing import Bank
from ..task import Unfit
from ..verifiers import Named
from ..vocabulary import MEN, WOMEN
from .draft import PuzzleDraft

_KINDS = ("lies", "lies", "honest", "same", "differ", "either")


@dataclass(frozen=True)
class Statement:
    """What person `speaker` says; kind is an entry of words/puzzles/liars.txt, `about` the people
    spoken of, as numbers."""

    speaker: int
    kind: str
    about: tuple[int, ...]

    def holds(self, honest: Sequence[bool]) -> bool:
        """Whether the words are true when `honest` says who tells the truth."""
        first = honest[self.about[0]]
        if self.kind in ("lies", "honest"):
            return first == (self.kind == "honest")
        if self.kind == "either":
            return not all(honest[i] for i in self.about)
        return (first == honest[self.speaker]) == (self.kind == "same")

    @property
    def last(self) -> int:
        """After which person the words can be judged."""
        return max(self.speaker, *self.about)


@dataclass(frozen=True)
class Liars:
    """People and their statements. asked: who_lies or who_honest."""

    people: tuple[str, ...]
    statements: tuple[Statement, ...]
    asked: str

    def solutions(self) -> set[str]:
        """The answers of every way to tell the truth and lie that fits all statements."""
        found = set()
        for honest in itertools.product((True, False), repeat=len(self.people)):
            if all(s.holds(honest) == honest[s.speaker] for s in self.statements):
                found.add(language.listed(_named(self.people, honest, self.asked) or ["nobody"]))
        return found

    def faults(self, answer: str) -> list[str]:
        found = self.solutions()
        return [] if found == {answer} else [f"what fits gives {sorted(found)}, not {answer!r} alone"]


def draft(rng: random.Random, bank: Bank, steps: int) -> PuzzleDraft:
    """A puzzle with as many people and statements as `steps`. Raises Unfit."""
    people = tuple(rng.sample(WOMEN + MEN, steps))
    statements = tuple(_statement(rng, speaker, steps) for speaker in range(steps))
    ways, trace = _search(people, statements)
    if len(ways) != 1:
        raise Unfit
    (honest,) = ways
    asked = rng.choice([a for a in ("who_lies", "who_honest") if _named(people, honest, a)] or [""])
    right = _named(people, honest, asked)
    says = [_said(bank, people, s) for s in statements]
    opening = language.sentence_case(bank.draw("liars").format(names=language.listed(list(people))))
    one, several = ("lies", "lie") if asked == "who_lies" else ("tells the truth", "tell the truth")
    told = f"{language.listed(right)} {several if len(right) > 1 else one}."
    thinking = f"T tells the truth, L lies. {trace} Only {_written(people, honest)} fits. So {told}"
    return PuzzleDraft(
        question=" ".join([opening, *says, bank.draw(asked)]),
        answer=language.listed(right),
        sentence=told,
        thinking=thinking,
        closing=thinking,
        steps=steps,
        environment=NoTools(),
        verifier=Named(tuple(right), tuple(p for p in people if p not in right)),
        puzzle=Liars(people, statements, asked),
    )


def _statement(rng: random.Random, speaker: int, people: int) -> Statement:
    kind = rng.choice(_KINDS if people > 2 else _KINDS[:-1])
    others = [i for i in range(people) if i != speaker]
    return Statement(speaker, kind, tuple(rng.sample(others, 2 if kind == "either" else 1)))


def _said(bank: Bank, people: Sequence[str], statement: Statement) -> str:
    q, *rest = (people[i] for i in statement.about)
    words = bank.draw(statement.kind).format(q=q, r=rest[0] if rest else "")
    return bank.draw("says").format(p=people[statement.speaker], said=words)


def _named(people: Sequence[str], honest: Sequence[bool], asked: str) -> list[str]:
    return [person for person, is_honest in zip(people, honest) if is_honest == (asked == "who_honest")]


def _written(people: Sequence[str], honest: Sequence[bool]) -> str:
    return ", ".join(f"{person} {'T' if is_honest else 'L'}" for person, is_honest in zip(people, honest))


def _search(people: Sequence[str], statements: Sequence[Statement]) -> tuple[list[tuple[bool, ...]], str]:
    """Every way that fits, and the search for them in words."""
    ways: list[tuple[bool, ...]] = []
    said: list[str] = []

    def go(honest: tuple[bool, ...]) -> None:
        for statement in statements:
            if statement.last == len(honest) - 1:
                holds = statement.holds(honest)
                if holds != honest[statement.speaker]:
                    speaker = people[statement.speaker]
                    said.append(
                        f"{_written(people, honest)}: no, {speaker}'s words are {'true' if holds else 'false'}."
                    )
                    return
        if len(honest) == len(people):
            ways.append(honest)
            said.append(f"{_written(people, honest)}: all fits.")
            return
        go((*honest, True))
        go((*honest, False))

    go(())
    return ways, " ".join(said)

"""Seating puzzles: a row of seats and a few clues, each of which is needed.

    Mia is 2: -|Mia|-|-. Ben left of Omar: -|Mia|Ben|Omar. Ida is left: Ida|Mia|Ben|Omar.

The trace keeps the rows that are still possible, takes the clues that leave least first, and drops
rows that a clue contradicts. Puzzles that need many rows at a time are drawn again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import language
from ..environments import NoTools
from ..phrasing import Bank
from ..task import Unfit
from ..verifiers import Named
from ..vocabulary import MEN, WOMEN
from .draft import PuzzleDraft

_WIDEST = 4  # rows that the trace keeps at a time
_KINDS = ("at", "left_of", "left_of", "before", "beside", "apart")
_EASIEST_FIRST = ("at", "left_of", "beside", "before", "apart")
_SHORT = {
    "at": "{p} is {k}",
    "left_of": "{p} left of {q}",
    "beside": "{p} beside {q}",
    "before": "{p} before {q}",
    "apart": "{p} apart from {q}",
}
Row = tuple[str | None, ...]


@dataclass(frozen=True)
class Clue:
    """One fact. kind is an entry of words/puzzles/seats.txt; seat counts from 1 and belongs to `at`
    alone."""

    kind: str
    people: tuple[str, ...]
    seat: int = 0

    def holds(self, row: Sequence[str | None]) -> bool:
        """Whether the fact is true in a row that has its people."""
        first, last = row.index(self.people[0]), row.index(self.people[-1])
        if self.kind == "at":
            return first + 1 == self.seat
        if self.kind in ("left_of", "before"):
            return first < last and (self.kind == "before" or last - first == 1)
        return (abs(first - last) == 1) == (self.kind == "beside")

    def short(self) -> str:
        return _SHORT[self.kind].format(p=self.people[0], q=self.people[-1], k=self.seat)


@dataclass(frozen=True)
class Seats:
    """People, clues, and what is asked: a seat, or 0 for the whole row."""

    people: tuple[str, ...]
    clues: tuple[Clue, ...]
    seat: int

    def solutions(self, clues: Sequence[Clue]) -> set[tuple[str, ...]]:
        """Every row that fits the clues."""
        return {row for row in itertools.permutations(self.people) if all(clue.holds(row) for clue in clues)}

    def faults(self, answer: str) -> list[str]:
        found = {_answer(row, self.seat) for row in self.solutions(self.clues)}
        return [] if found == {answer} else [f"the rows that fit give {sorted(found)}, not {answer!r} alone"]

    def needs_all(self) -> bool:
        """Whether no clue can be left out."""
        return all(len(self.solutions([c for c in self.clues if c is not clue])) > 1 for clue in self.clues)


def draft(rng: random.Random, bank: Bank, steps: int) -> PuzzleDraft:
    """A row with `steps` clues: 3 people for 2 clues, else 4 or 5. Raises Unfit."""
    size = {2: 3, 3: 4}.get(steps, 5)
    row = tuple(rng.sample(WOMEN + MEN, size))
    clues = tuple(_clue(rng, row) for _ in range(steps))
    seat = rng.choice([0, *(rng.sample(range(1, size + 1), 2))])
    people = tuple(rng.sample(row, size))
    puzzle = Seats(people, clues, seat)
    if seat and any(clue.seat == seat for clue in clues):
        raise Unfit  # told outright
    if len(set(clues)) < steps or puzzle.solutions(clues) != {row} or not puzzle.needs_all():
        raise Unfit
    told = [bank.draw(c.kind).format(p=c.people[0], q=c.people[-1], k=c.seat) for c in clues]
    opening = bank.draw("seats").format(names=language.listed(list(people)), n=size)
    asked = bank.draw("who_sits" if seat else "row").format(k=seat)
    answer = _answer(row, seat)
    right = (answer,) if seat else row
    said = f"So seat {seat} is for {answer}." if seat else "That is the row."
    thinking = f"{_search(people, clues)} {said}"
    return PuzzleDraft(
        question=" ".join([opening, *told, asked]),
        answer=answer,
        sentence=f"It is {answer}." if seat else f"{', '.join(row)}.",
        thinking=thinking,
        closing=thinking,
        steps=steps,
        environment=NoTools(),
        verifier=Named(right, tuple(p for p in row if p not in right), ordered=not seat),
        puzzle=puzzle,
    )


def _answer(row: tuple[str, ...], seat: int) -> str:
    return row[seat - 1] if seat else language.listed(list(row))


def _clue(rng: random.Random, row: tuple[str, ...]) -> Clue:
    """A fact about `row`. Raises Unfit."""
    kind = rng.choice(_KINDS)
    at = rng.randrange(len(row))
    if kind == "at":
        return Clue(kind, (row[at],), at + 1)
    people = (row[at], rng.choice([p for p in row if p != row[at]]))
    clue = Clue(kind, people)
    if not clue.holds(row):
        raise Unfit
    return clue


def _search(people: Sequence[str], clues: Sequence[Clue]) -> str:
    """The rows that each clue leaves, in words. Raises Unfit when they are many."""
    rows: list[Row] = [(None,) * len(people)]
    said = []
    for clue in sorted(clues, key=lambda c: _EASIEST_FIRST.index(c.kind)):
        placed = all(person in row for row in rows for person in clue.people)
        tried = list(dict.fromkeys(new for row in rows for new in _placed(row, clue.people)))
        kept = [row for row in tried if clue.holds(row)]
        if not 1 <= len(kept) <= _WIDEST:
            raise Unfit
        if placed and len(rows) > 1:
            judged = [f"{_written(row)} {'yes' if row in kept else 'no'}" for row in tried]
            said.append(f"{clue.short()}: {', '.join(judged)}.")
        else:
            said.append(f"{clue.short()}: {' or '.join(map(_written, kept))}.")
        rows = kept
    (row,) = rows if len(rows) == 1 else (None,)
    if row is None:
        raise Unfit
    left = [person for person in people if person not in row]
    if left:
        full = tuple(person or left[0] for person in row)
        said.append(f"{left[0]} takes the free seat: {_written(full)}.")
    return " ".join(said)


def _placed(row: Row, people: Sequence[str]) -> Iterator[Row]:
    """`row` with all of `people` in it, in every possible way."""
    missing = [person for person in dict.fromkeys(people) if person not in row]
    free = [i for i, person in enumerate(row) if person is None]
    for seats in itertools.permutations(free, len(missing)):
        new = list(row)
        for seat, person in zip(seats, missing):
            new[seat] = person
        yield tuple(new)


def _written(row: Row) -> str:
    return "|".join(person or "-" for person in row)

"""One question about dates, times or units while it is being made; dates_and_units.py makes the
task of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .. import language
from ..environments import OneTable
from ..phrasing import Bank, Say, banks
from ..task import Split, Unfit, Verifier
from .amounts import chains
from .worksheet import Worksheet

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAY = 24 * 60  # minutes


PLURALS = {"foot": "feet", "inch": "inches", "hundredweight": "hundredweight", "stone": "stone", "penny": "pence"} | {
    word: word for word in ("gross", "dozen")
}


@cache
def says() -> Mapping[str, Say]:
    """All phrasings of the family, by kind."""
    names = ("dates/clock", "dates/calendar", "dates/units", "dates/introductions", "stories/frames")
    return {**banks(*names), **{chain.kind: chain.told for chain in chains()}}


@dataclass
class Draft:
    """A question with its solution. table: what the tool `table` holds; colon: a call with times as
    they are written, which the calculator refuses."""

    question: str
    sheet: Worksheet
    answer: str
    sentence: str
    closing: str
    end: str
    verifier: Verifier | None = None
    table: OneTable | None = None
    constants: tuple[int, ...] = ()
    colon: str | None = None


class Asking:
    """The random choices and phrasings of one task."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split: Split = split
        self.held_out = split == "held_out"
        self.bank = Bank(says(), rng, self.held_out)

    def ask(self, kind: str, **slots: object) -> str:
        return language.sentence_case(self.bank.draw(kind).format_map(slots))

    def time(self, first: int = 60, last: int = DAY - 1) -> int:
        """A time of day in minutes; round ones are common, as in life. Raises Unfit."""
        if first > last:
            raise Unfit
        minutes = self.rng.randint(first, last)
        return max(first, minutes // 5 * 5) if self.rng.random() < 0.6 else minutes


def number_draft(
    question: str,
    sheet: Worksheet,
    result: int,
    unit: str,
    check: str,
    constants: tuple[int, ...] = (),
    colon: str | None = None,
    table: OneTable | None = None,
) -> Draft:
    """The draft of a question whose answer is an amount."""
    end = f"That is {counted(result, unit)}."
    closing = f"{end} {check}"
    return Draft(question, sheet, str(result), end, closing, end, constants=constants, colon=colon, table=table)


def counted(n: int, unit: str) -> str:
    """'1 foot', '3 feet'."""
    return f"{n} {unit if n == 1 else plural(unit)}"


def plural(unit: str) -> str:
    """'feet' for 'foot': the plural of a unit as one speaks of it."""
    return PLURALS.get(unit, language.plural(unit))

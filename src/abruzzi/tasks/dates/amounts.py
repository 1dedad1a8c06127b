"""Chains of units and sentences that tell an amount in them, read from words/dates/amounts.txt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from .. import entries
from ..phrasing import Say, say

_CHAIN = re.compile(r"[a-z]+ = \d+(?: [a-z]+ = \d+)* [a-z]+")


@dataclass(frozen=True)
class Chain:
    """Units of one kind, from large to small: (unit, how many of the next one it holds, 0 for the
    last).

    told: sentences with an amount {x}."""

    units: tuple[tuple[str, int], ...]
    told: Say

    def factor(self, i: int) -> int:
        return self.units[i][1]

    @property
    def kind(self) -> str:
        """What a bank calls the chain's sentences; no two chains have the same largest unit."""
        return f"told.{self.units[0][0]}"


@cache
def chains() -> tuple[Chain, ...]:
    """All chains, in the order in which a seed draws from them. Raises ValueError with file and
    line."""
    return tuple(map(chained, entries.read("dates/amounts").values()))


def chained(entry: entries.Entry) -> Chain:
    """A chain from its entry, whose name holds the factors: "mile = 1760 yard = 3 foot"."""
    if not _CHAIN.fullmatch(entry.name):
        raise entry.error("expected '# UNIT = N UNIT = N UNIT' with a unit that holds N of the next one")
    units = entry.name.replace(" =", "").split(" ")
    return Chain(tuple(zip(units[::2], [*map(int, units[1::2]), 0])), say(entry))

"""A table filled at random for one question, with the words that go with it; table_questions.py
asks."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from .. import language
from ..phrasing import Bank, banks
from ..task import Move, Unfit
from .themes import Measure, Theme, themes

Row = dict[str, str | int]


@dataclass(frozen=True)
class Wording:
    """The words in which one question speaks of a theme and its measure; see there."""

    of_group: str
    noun: str
    most: str
    least: str
    more: str
    less: str

    @classmethod
    def drawn(cls, theme: Theme, measure: Measure, rng: random.Random | None) -> Wording:
        """Any of the words, or the theme's own without `rng`."""
        pools = (theme.of_group, measure.noun, measure.most, measure.least, measure.more, measure.less)
        return cls(*(rng.choice(pool) if rng else pool[0] for pool in pools))


class Sheet:
    """A filled table, the measure that is asked about, and the words for them."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.bank = Bank(banks("tables/questions", "tables/introductions"), rng, held_out)
        self.theme: Theme = rng.choice(themes(held_out))
        self.name = rng.choice(self.theme.tables)
        self.measure: Measure = rng.choice(self.theme.measures)
        dropped = {m.column for m in self.theme.measures if m is not self.measure and rng.random() < 0.3}
        self.columns = tuple(c for c in self.theme.columns if c not in dropped)
        size = rng.randint(4, 8)
        names = rng.sample(self.theme.names, size)
        groups = rng.sample(self.theme.groups, 2 if size < 6 else rng.randint(2, 3))
        numbers = {m.column: rng.sample(range(m.low, m.high + 1), size) for m in self.theme.measures}
        self.rows: list[Row] = [
            {self.theme.key: name, self.theme.group: rng.choice(groups), **{c: numbers[c][i] for c in numbers}}
            for i, name in enumerate(names)
        ]
        self.words = Wording.drawn(self.theme, self.measure, None if held_out else rng)

    def number(self, row: Row) -> int:
        value = row[self.measure.column]
        assert isinstance(value, int)
        return value

    def label(self, row: Row) -> str:
        return str(row[self.theme.key])

    def the(self, row: Row) -> str:
        return self.theme.the + self.label(row)

    def grouped(self, smallest: int = 2) -> tuple[str, list[Row]]:
        """A group and its rows, not the whole table. Raises Unfit."""
        members: dict[str, list[Row]] = {}
        for row in self.rows:
            members.setdefault(str(row[self.theme.group]), []).append(row)
        fitting = [(g, rows) for g, rows in members.items() if smallest <= len(rows) < len(self.rows)]
        if not fitting:
            raise Unfit
        return self.rng.choice(fitting)

    def condition(self) -> tuple[str, str, list[Row], int]:
        """A condition on the measure: in words, in SQL, the rows that meet it (not all), and its
        threshold."""
        above = self.rng.random() < 0.5
        numbers = sorted(self.number(row) for row in self.rows)
        edge = self.rng.choice(numbers[1:-1]) + (self.rng.randint(-3, 3))
        edge = max(2, round(edge, -1) if edge > 30 and self.rng.random() < 0.6 else edge)
        meets = [row for row in self.rows if (self.number(row) > edge if above else self.number(row) < edge)]
        if not 1 <= len(meets) < len(self.rows):
            raise Unfit
        words = (self.words.more if above else self.words.less).format(n=edge)
        return words, f"{self.measure.column} {'>' if above else '<'} {edge}", meets, edge

    def ask(self, kind: str, **slots: object) -> str:
        theme = self.theme
        words: dict[str, object] = {
            "row": theme.row,
            "rows": theme.rows,
            "noun": self.words.noun,
            "who": self.who,
            "group_name": theme.group,
            **slots,
        }
        return language.sentence_case(self.bank.draw(kind).format_map(words))

    @property
    def who(self) -> str:
        return "who" if self.theme.row in ("person", "athlete", "player", "student") else "that"

    def of_group(self, group: str) -> str:
        return self.words.of_group.format(g=group)

    def select(self, what: str, rest: str = "") -> dict[str, str]:
        return {"sql": f"SELECT {what} FROM {self.name}{' ' + rest if rest else ''}"}

    def where(self, row: Row) -> str:
        return f"WHERE {self.theme.key} = '{self.label(row)}'"

    def lookup(self, row: Row, first: bool = True) -> Move:
        """One row's number."""
        start = "I need" if first else "Next I need"
        thought = f"{start} the {self.words.noun} of {self.the(row)}."
        return Move(thought, "table", self.select(self.measure.column, self.where(row)), str(self.number(row)))

    def lookups(self, rows: list[Row]) -> list[Move]:
        """The numbers of several rows: all in one query, or one after the other."""
        if self.rng.random() < 0.5:
            labels = ", ".join(f"'{self.label(row)}'" for row in rows)
            thought = f"I need the {self.words.noun} of {language.listed([self.the(row) for row in rows])}."
            what = self.select(f"{self.theme.key}, {self.measure.column}", f"WHERE {self.theme.key} IN ({labels})")
            return [Move(thought, "table", what, f"{self.label(rows[0])}|{self.number(rows[0])}")]
        moves = [self.lookup(rows[0])]
        for before, row in itertools.pairwise(rows):
            move = self.lookup(row, first=False)
            moves.append(Move(f"{self.says(before)} {move.thought}", move.tool, move.arguments, move.expect))
        return moves

    def says(self, row: Row) -> str:
        """What a row's number is, as a sentence that a thought can begin with."""
        return f"{self.capital(self.the(row))}: {self.number(row)}."

    def capital(self, text: str) -> str:
        return text[0].upper() + text[1:]

    def read_out(self, rows: list[Row]) -> str:
        return "; ".join(f"{self.label(row)} {self.number(row)}" for row in rows)

"""Themes of tables: names, columns and the words that go with them, read from words/tables/themes/.

Every theme has one column that names the rows, one of groups, and two of numbers. A Measure says
how people speak of a number: "the price", "the cheapest", "items that cost more than 30 dollars".
Where several words say the same, the first is the theme's own; the others ("the priciest item")
stand for it in training alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .. import entries

# In this order a seed draws from them. Held-out tables are about the first ones; training knows all
# of them.
NAMES = ("stock", "athletes", "books", "towns", "plants", "trains", "films", "animals", "staff", "trails")
TRAINED_NAMES = ("players", "recipes", "phones", "rivers", "buildings", "students", "cars", "songs", "hotels", "games")

_FOLLOW_UPS = ("times", "minus", "until")


@dataclass(frozen=True)
class Measure:
    """A column of numbers. noun: "the {noun} of ..."; more, less: what rows do ("cost more than {n}
    dollars").

    low, high: the numbers' range. unit: what stands behind the number in an answer. wrong: a column
    name that one might guess instead. follow_up: (kind, text) of questions that go on with one
    row's number, where {x} is the row and {n} another number; kind is times, minus (n is taken
    away) or until (the number is taken from n)."""

    column: str
    noun: tuple[str, ...]
    most: tuple[str, ...]
    least: tuple[str, ...]
    more: tuple[str, ...]
    less: tuple[str, ...]
    low: int
    high: int
    unit: str
    wrong: str
    follow_up: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Theme:
    """One kind of table. tables: names for it; key: the column that names the rows; row, rows: what
    one and several are called; the: what stands before a row's name; of_group: "{rows} {of_group}",
    with {g}."""

    tables: tuple[str, ...]
    key: str
    row: str
    rows: str
    the: str
    names: tuple[str, ...]
    group: str
    groups: tuple[str, ...]
    of_group: tuple[str, ...]
    measures: tuple[Measure, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns, as they stand from left to right."""
        return (self.key, self.group, *(m.column for m in self.measures))


@cache
def themes(held_out: bool) -> tuple[Theme, ...]:
    """The themes that a split draws from. Raises ValueError with file and line for a file that does
    not fit."""
    return tuple(map(theme, NAMES if held_out else NAMES + TRAINED_NAMES))


@cache
def theme(name: str) -> Theme:
    """The theme of words/tables/themes/NAME.txt."""
    return themed(entries.read(f"tables/themes/{name}"))


def themed(read: Mapping[str, entries.Entry]) -> Theme:
    """A theme from the entries of its file: `theme` first, then its two measures."""
    about, *columns = read.values()
    if about.name != "theme" or len(columns) != 2:
        raise about.error("expected the entry 'theme' first and behind it two entries, each a column of numbers")
    about.only("tables", "key", "row", "rows", "article", "names", "group", "groups", "of_group")
    return Theme(
        tables=about.texts("tables"),
        key=about.text("key"),
        row=about.text("row"),
        rows=about.text("rows"),
        the=f"{about.text('article')} " if "article" in about.parts else "",
        names=about.texts("names"),
        group=about.text("group"),
        groups=about.texts("groups"),
        of_group=about.texts("of_group"),
        measures=tuple(map(_measure, columns)),
    )


def _measure(entry: entries.Entry) -> Measure:
    entry.only("noun", "most", "least", "more", "less", "low", "high", "unit", "wrong", "follow_up")
    return Measure(
        column=entry.name,
        noun=entry.texts("noun"),
        most=entry.texts("most"),
        least=entry.texts("least"),
        more=entry.texts("more"),
        less=entry.texts("less"),
        low=entry.number("low"),
        high=entry.number("high"),
        unit=entry.text("unit"),
        wrong=entry.text("wrong"),
        follow_up=tuple(_follow_up(entry, line) for line in entry.texts("follow_up")),
    )


def _follow_up(entry: entries.Entry, line: str) -> tuple[str, str]:
    kind, _, text = line.partition(": ")
    if kind not in _FOLLOW_UPS or not text:
        raise entry.error(
            f"the follow_up {line!r} has no kind; expected 'KIND: QUESTION' with {', '.join(_FOLLOW_UPS)}"
        )
    return kind, text

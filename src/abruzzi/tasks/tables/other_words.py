"""Puts a theme and its measure in other words, for training alone; held-out questions keep to the themes' own."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from .table_themes import Measure, Theme
from .table_words import WORDS, Words

# Other ways to say "{rows} {of_group}", by the first of a theme's tables.
OF_GROUP: Mapping[str, tuple[str, ...]] = {
    "stock": ("from the {g} section", "of the {g} section", "for sale in the {g} section"),
    "athletes": ("from the {g}", "from the club {g}", "training with the {g}"),
    "books": ("of the genre {g}", "from the genre {g}", "of the kind {g}"),
    "towns": ("along the {g} coast", "by the {g} coast", "from the {g} coast"),
    "plants": ("standing in the {g}", "from the {g}", "growing in the {g}"),
    "trains": ("on the {g} line", "from the {g} line", "running on the {g} line"),
    "films": ("shown on the screen {g}", "running on the screen {g}"),
    "animals": ("from the {g} house", "living in the {g} house", "kept in the {g} house"),
    "staff": ("from the {g} office", "at the {g} office", "based in {g}"),
    "trails": ("from {g}", "of {g}", "located in {g}"),
    "players": ("of the {g}", "in the squad of the {g}", "playing for the {g}"),
    "recipes": ("from {g} cuisine", "in {g} style"),
    "phones": ("from {g}", "by {g}", "of the brand {g}"),
    "rivers": ("from {g}", "of {g}", "flowing through {g}"),
    "buildings": ("of the {g} district", "from the {g} district"),
    "students": ("taught by teacher {g}", "with {g} as teacher"),
    "cars": ("in {g}", "of the colour {g}"),
    "songs": ("sung by {g}", "from {g}"),
    "hotels": ("from {g}", "located in {g}", "in the city of {g}"),
    "games": ("by {g}", "from {g}", "produced by {g}"),
}


def in_other_words(theme: Theme, measure: Measure, rng: random.Random) -> tuple[Theme, Measure]:
    """Both as they are or, word by word, with one that says the same."""
    first = theme.tables[0]
    words = WORDS.get((first, measure.column), Words())

    def one(own: str, others: tuple[str, ...]) -> str:
        return rng.choice((own, *others))

    return replace(theme, of_group=one(theme.of_group, OF_GROUP[first])), replace(
        measure,
        noun=one(measure.noun, words.noun),
        most=one(measure.most, words.most),
        least=one(measure.least, words.least),
        more=one(measure.more, words.more),
        less=one(measure.less, words.less),
        follow_up=measure.follow_up + words.follow_up,
    )

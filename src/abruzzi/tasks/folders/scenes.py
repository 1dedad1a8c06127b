"""Scenes: the small worlds behind folder facts, who is listed where, what the files say, and how
one asks.

A scene has a list (who belongs to which place, team, person ...) and one entry per entity with a
name, a number and a link to another entity. Questions start from somebody on the list. They are
read from words/folders/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

from .. import entries
from ..phrasing import Say, say

# In this order a seed draws from them.
NAMES = ("staff", "parcels", "loans", "lent", "repairs", "beds", "hikes", "tenants")

_KINDS = ("name", "number", "calc", "link", "pair")
_OPERATORS = ("*", "-")


@dataclass(frozen=True)
class Scene:
    """One world. Empty pools of names mean people.

    listing: the list's file. lines: how it says that {who} belongs to the entity {t}; the first is
    a full sentence, which thinking uses too. listed: the things on the list. folder: where the
    entries live. title: an entity {e} in a sentence. entities: their names. name_label, names: the
    entry's name and its pool. number_label, low, high, unit: the entry's number. op: what a
    question's {n} does to it ("*": n times, "-": take n away), and result_unit. link_label: how an
    entry points to another. notes: lines of a file that says nothing. asks: the questions by
    kind."""

    listing: str
    lines: tuple[str, ...]
    listed: tuple[str, ...]
    folder: str
    title: str
    entities: tuple[str, ...]
    name_label: str
    names: tuple[str, ...]
    number_label: str
    low: int
    high: int
    unit: str
    op: str
    result_unit: str
    link_label: str
    notes: tuple[str, ...]
    asks: Mapping[str, Say]


@cache
def scene(name: str) -> Scene:
    """The scene of words/folders/NAME.txt. Raises ValueError with file and line for a file that
    does not fit."""
    return staged(entries.read(f"folders/{name}"))


def staged(read: Mapping[str, entries.Entry]) -> Scene:
    """A scene from the entries of its file: `scene` first, then its questions."""
    facts, *asks = read.values()
    if facts.name != "scene" or tuple(ask.name for ask in asks) != _KINDS:
        raise facts.error(f"expected the entry 'scene' first and behind it {', '.join(_KINDS)}")
    facts.only(*(part.name for part in fields(Scene) if part.name != "asks"))
    if facts.text("op") not in _OPERATORS:
        raise facts.error(f"the op is {facts.text('op')!r}; expected one of {', '.join(_OPERATORS)}")
    return Scene(
        listing=facts.text("listing"),
        lines=facts.texts("lines"),
        listed=facts.parts.get("listed", ()),
        folder=facts.text("folder"),
        title=facts.text("title"),
        entities=facts.parts.get("entities", ()),
        name_label=facts.text("name_label"),
        names=facts.parts.get("names", ()),
        number_label=facts.text("number_label"),
        low=facts.number("low"),
        high=facts.number("high"),
        unit=facts.text("unit"),
        op=facts.text("op"),
        result_unit=facts.text("result_unit"),
        link_label=facts.text("link_label"),
        notes=facts.texts("notes"),
        asks={ask.name: say(ask) for ask in asks},
    )

"""A question taken apart by the phrasings that its task names: what stands in their slots.

What a kind of phrasing means is for its reader to know; that each phrasing of a kind means just
that is for a person to judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from abruzzi.tasks.phrasing import Say

_SLOT = re.compile(r"\{(\w+)\}")


def phrasing(banks: Mapping[str, Say], template: str) -> str:
    """The text of a template's id: "until.3fa9c1", held out "until.h3fa9c1"."""
    kind, id = template.split(".")
    pool = banks[kind].held_out if id.startswith("h") else banks[kind].trained
    (text,) = {text for text in pool if banks[kind].ids[text] == id.removeprefix("h")}
    return text


def slots(phrasings: Sequence[str], text: str) -> list[dict[str, str]]:
    """What fills the slots of each phrasing; they stand in `text` one behind the other, perhaps
    framed."""
    names: list[dict[str, str]] = []
    found = re.search(" ".join(_pattern(p, names) for p in phrasings), text, re.IGNORECASE)
    assert found, (phrasings, text)
    return [{slot: found[group] for slot, group in own.items()} for own in names]


def _pattern(text: str, names: list[dict[str, str]]) -> str:
    """`text` as a pattern; its slots and the groups that they become are added to `names`."""
    own: dict[str, str] = {}
    parts = _SLOT.split(text)
    pattern = re.escape(parts[0])
    for slot, after in zip(parts[1::2], parts[2::2]):
        again = slot in own
        own.setdefault(slot, f"{slot}_{len(names)}")
        pattern += (f"(?P={own[slot]})" if again else f"(?P<{own[slot]}>.+?)") + re.escape(after)
    names.append(own)
    return pattern

"""Plots of word problems: each tells a story of so many calculations, in the words of its file of
the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..story import Story
from . import collect, compare, make, pace, rows, save, shop

# In this order a seed draws from them.
PLOTS: Mapping[str, Callable[[Story, int], None]] = MappingProxyType(
    {
        "collect": collect.tell,
        "shop": shop.tell,
        "pace": pace.tell,
        "make": make.tell,
        "rows": rows.tell,
        "save": save.tell,
        "compare": compare.tell,
    }
)

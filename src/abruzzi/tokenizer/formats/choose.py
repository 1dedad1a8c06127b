"""Choice of the chat format by a vocabulary. A new format is a file beside k2.py and an entry in
FORMATS."""

from __future__ import annotations

from collections.abc import Mapping

from abruzzi.tokenizer.formats.chatml import CHATML
from abruzzi.tokenizer.formats.format import ChatFormat
from abruzzi.tokenizer.formats.k2 import K2

FORMATS = (K2, CHATML)  # those with the most tokens of their own first


def format_of(control: Mapping[str, int]) -> ChatFormat:
    """The first format whose control tokens (text -> id) are all there, and none of another's.

    Else FORMATS[0]: text can still be encoded, and what needs the format says which tokens are
    missing (ChatFormat.require)."""
    spoken = (f for f in FORMATS if not f.missing(control) and not any(t in control for t in f.not_beside))
    return next(spoken, FORMATS[0])

"""A question without the words that frame it, for readers that look at the question alone."""

from __future__ import annotations

from abruzzi.tasks.phrasing import bank

# Longest first: "Hello, can you help me? " before "Hello! ".
_PARTS = [frame.partition("{}") for frame in bank("stories/frames")["frame"].trained]
BEFORE = sorted({before for before, _, _ in _PARTS} - {""}, key=len, reverse=True)
AFTER = sorted({after for _, _, after in _PARTS} - {""}, key=len, reverse=True)


def bare(text: str) -> str:
    """`text` without what comes before and after in polite questions."""
    for frame in BEFORE:
        if text.startswith(frame):
            text = text.removeprefix(frame)
            break
    for frame in AFTER:
        text = text.replace(frame, "")
    return text

"""A question without the words that frame it, for readers that look at the question alone."""

from __future__ import annotations

BEFORE = (
    *("Can you help me with this? ", "Hi, I have a question. ", "Please help: ", "Question: ", "Hello! "),
    *("I need this for school. ", "Can you work this out for me? "),
)
AFTER = (" Please check your answer.", " Thank you!", " Take your time.")


def bare(text: str) -> str:
    """`text` without what comes before and after in polite questions."""
    for frame in BEFORE:
        text = text.removeprefix(frame)
    for frame in AFTER:
        text = text.replace(frame, "")
    return text

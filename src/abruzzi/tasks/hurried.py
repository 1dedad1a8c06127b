"""The same question as somebody types it in a hurry: small letters, no question mark, commas for full stops.

Only the question is touched, not the table or the files below it, and names keep their capitals where a tool has
to be asked for them letter by letter. The answer stays what it was.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from .task import Task

# Families whose names are only told, never looked up.
_ALL_SMALL = ("word_problems", "chains", "puzzles")
_SENTENCE = re.compile(r"(?:^|(?<=[.?!:] ))(?:[A-Z][a-z]*)")
_OPENERS = re.compile(
    "how|what|which|who|the|a|an|in|take|then|there|it|use|add|find|for|see|please|look|search|every|each|you|tell|name"
    "|can|i|on|at|from|count"
)


def hurried(task: Task, rng: random.Random) -> Task:
    """`task` with its question typed in a hurry, in one of several ways."""
    small = rng.random() < 0.6
    mark = rng.random() < 0.7  # the last mark goes
    commas = rng.random() < 0.25

    def typed(text: str) -> str:
        question, gap, data = text.partition("\n\n")
        if commas:
            question = re.sub(r"\. ([A-Z][a-z]*)", lambda m: f", {_small(m.group(1))}", question)
        if small:
            names_too = task.family in _ALL_SMALL
            question = question.lower() if names_too else _SENTENCE.sub(lambda m: _small(m.group()), question)
        return (re.sub(r"(?: =)? ?[.?]$", "", question) if mark else question) + gap + data

    return replace(task, prompt=typed(task.prompt), prompt_without_tools=typed(task.prompt_without_tools))


def _small(word: str) -> str:
    """The first word of a sentence in small letters, unless it may be a name."""
    return word.lower() if _OPENERS.fullmatch(word.lower()) else word

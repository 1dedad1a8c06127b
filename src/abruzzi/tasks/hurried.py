"""The same question as somebody types it in a hurry: small letters, no question mark, commas for
full stops, slips.

Only the question is touched, not the table or the files below it, and names keep their capitals
where a tool has to be asked for them letter by letter. The answer stays what it was.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from .numbers import MEANINGS
from .task import Task

_WORD = re.compile(r"[^\W\d_]+")
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
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


def mistyped(task: Task, rng: random.Random, share: float = 0.2) -> Task:
    """`task` with about `share` of the longer words of its question typed wrongly, one slip each.

    Words that the solution or the data say, numbers and names are typed right. A model that reads
    such questions has met words that it does not know, and has answered from the others."""
    kept = {word.lower() for word in _WORD.findall(" ".join(_said(task)))} | MEANINGS.keys()
    slips: dict[str, str] = {}  # the same in both prompts

    def typed(match: re.Match[str]) -> str:
        word = match.group()
        if word not in slips:
            is_kept = len(word) < 4 or not word.islower() or word in kept
            slips[word] = word if is_kept or rng.random() >= share else _slip(word, rng)
        return slips[word]

    def of(text: str) -> str:
        question, gap, data = text.partition("\n\n")
        return _WORD.sub(typed, question) + gap + data

    return replace(task, prompt=of(task.prompt), prompt_without_tools=of(task.prompt_without_tools))


def _said(task: Task) -> list[str]:
    """Everything that the gold solutions say, what tools say to them, and what tools can look
    at."""
    said = [repr(task.environment), task.answer, task.sentence, task.alone, task.closing, *task.others]
    for move in task.moves:
        said += [move.thought, move.expect, *move.arguments.values()]
    return said


def _slip(word: str, rng: random.Random) -> str:
    """Two letters swapped, one left out, one doubled, or the key beside the right one."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    row = next(keys for keys in _KEYS if word[at] in keys)
    place = row.index(word[at])
    return word[:at] + row[place + 1 if place + 1 < len(row) else place - 1] + word[at + 1 :]


def _small(word: str) -> str:
    """The first word of a sentence in small letters, unless it may be a name."""
    return word.lower() if _OPENERS.fullmatch(word.lower()) else word

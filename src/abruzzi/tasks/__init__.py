"""Verifiable tasks with gold trajectories: what trains and measures a small thinking, tool-calling
model.

    task = make("word_problems", "trained", seed=7)
    with task.open_tools() as tools: ...           # fresh tools to answer task.prompt with
    task.reward("She has 42 marbles left.")        # 1.0 or 0.0
    task.gold(thinking=True, tools=True)           # the messages of a right answer, tools really run

`audit.audit(task)` raises GoldError where the gold does not hold.

Splits: `trained` (trained phrasings, new values for every seed), `held_out` (phrasings that
training never shows), `longer` (trained phrasings, more steps than trained). Everything is
deterministic in its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from .audit import GoldError
from .chains.chains import make as chain
from .dates.dates_and_units import make as date_or_unit
from .folders.folder_facts import make as folder_fact
from .hurried import hurried, mistyped
from .puzzles.puzzles import make as puzzle
from .stories.word_problems import make as word_problem
from .tables.table_questions import make as table_question
from .task import SPLITS, Move, Split, Task

__all__ = [
    "FAMILIES",
    "FIRST_FAMILIES",
    "SPLITS",
    "GoldError",
    "Move",
    "Split",
    "Task",
    "examples",
    "hurried",
    "make",
    "mistyped",
    "stream",
]

FAMILIES: Mapping[str, Callable[[Split, int, str], Task]] = MappingProxyType(
    {
        "word_problems": word_problem,
        "table_questions": table_question,
        "folder_facts": folder_fact,
        "dates_and_units": date_or_unit,
        "puzzles": puzzle,
        "chains": chain,
    }
)
# Those that are answered from a text, a table or a folder.
FIRST_FAMILIES = ("word_problems", "table_questions", "folder_facts")
# Chosen by reading: short, typical, with numbers to combine and without.
_EXAMPLES = (
    *(("word_problems", 17), ("word_problems", 8)),
    *(("table_questions", 20), ("table_questions", 29)),
    *(("folder_facts", 4), ("folder_facts", 3)),
    *(("dates_and_units", 15), ("chains", 2), ("puzzles", 27)),
)


def make(family: str, split: Split, seed: int) -> Task:
    """One task; its id is "family-split-seed". Raises ValueError for an unknown family or split.

    A family "reasoning_gym/NAME" is the generator NAME of that library; it has the split `trained`
    alone."""
    if family.startswith("reasoning_gym/"):
        return _of_library(family, split, seed)
    if family not in FAMILIES:
        raise ValueError(f"task family {family!r} is unknown; expected one of {', '.join(FAMILIES)}")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; expected one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; expected 0 or more")
    return FAMILIES[family](split, seed, f"{family}-{split}-{seed}")


def _of_library(family: str, split: Split, seed: int) -> Task:
    from . import reasoning_gym  # the library behind it is optional

    if split != "trained":
        raise ValueError(f"{family} has no split {split!r}; expected 'trained', hint: choose other seeds instead")
    return reasoning_gym.make(family.removeprefix(reasoning_gym.PREFIX), seed)


def stream(families: Sequence[str], split: Split, seed: int) -> Iterator[Task]:
    """Endless tasks, families drawn evenly, seeds from 2**32 up so that they never meet small ones
    by hand.

    Different seeds give different tasks, but a short question can come up twice: whoever measures
    on `trained` leaves out questions that training used, by their text."""
    rng = random.Random(f"stream/{seed}")
    while True:
        yield make(rng.choice(families), split, rng.randrange(2**32, 2**62))


def examples() -> list[Task]:
    """A few typical tasks of every family, to show what the model that ships can do."""
    return [make(family, "trained", seed) for family, seed in _EXAMPLES]

"""Countdown and short logic puzzles: problems to think about, where tools help little or not at
all.

    Pedro is stronger than Rafael. Rafael is stronger than Ana. Who is next after the strongest?
        Pedro > Rafael. Rafael > Ana, so Pedro > Rafael > Ana. After Pedro comes Rafael.

Countdown has the calculator, which works out the solution that the search has found, one call a
step. Comparisons, liars and seats have no tools: with and without them the task is the same, and
its steps are counted in clues. Trained puzzles take two or three steps, "longer" ones four or five.
The thinking searches and prunes in a compact notation, dead ends included; in some countdowns with
tools it starts from a try that misses. Every logic puzzle is proven to have one answer by trying
everything (Task.puzzle).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ..phrasing import Bank, banks
from ..task import Split, Task, Unfit
from . import comparisons, countdown, liars, seats
from .draft import PuzzleDraft

_WORDS = ("puzzles/countdown", "puzzles/compare", "puzzles/liars", "puzzles/seats", "stories/frames")
_STEPS: dict[Split, tuple[int, ...]] = {"trained": (2, 3), "held_out": (2, 3), "longer": (4, 5)}
_Draw = Callable[[random.Random, Bank, int], PuzzleDraft]
# Countdown with five numbers and four statements are the longest that fit a small model's thinking.
_LONGEST: dict[_Draw, int] = {countdown.draft: 4, liars.draft: 4}
_KINDS: tuple[_Draw, ...] = (
    *(countdown.draft, countdown.draft, countdown.draft, comparisons.draft, comparisons.draft),
    *(liars.draft, liars.draft, seats.draft),
)


def make(split: Split, seed: int, id: str) -> Task:
    """A puzzle. Same arguments, same task."""
    rng = random.Random(f"puzzles/{split}/{seed}")
    kind = rng.choice(_KINDS)
    steps = min(rng.choice(_STEPS[split]), _LONGEST.get(kind, 5))
    while True:
        bank = Bank(banks(*_WORDS), rng, split == "held_out")
        try:
            draft = kind(rng, bank, steps)
        except Unfit:
            continue
        question = bank.draw("frame").format(draft.question)
        return Task(
            id=id,
            family="puzzles",
            split=split,
            templates=tuple(bank.used),
            steps=draft.steps,
            prompt=question,
            prompt_without_tools=question,
            answer=draft.answer,
            others=(),
            environment=draft.environment,
            moves=tuple(draft.moves),
            closing=draft.closing,
            alone=draft.thinking,
            sentence=draft.sentence,
            verifier=draft.verifier,
            puzzle=draft.puzzle,
        )

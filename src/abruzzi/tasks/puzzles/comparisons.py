"""Comparison puzzles ("who is taller"): a chain of comparisons between neighbours in a hidden
order, told in any sequence.

    Ben > Omar. Mia > Ben, so Mia > Ben > Omar.

The trace writes every clue the same way round and joins the pieces as they fit.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from .. import language
from ..environments import NoTools
from ..phrasing import Bank
from ..verifiers import Named
from ..vocabulary import MEN, WOMEN
from .draft import PuzzleDraft

# plain, more, most, less, least
ADJECTIVES = (
    ("tall", "taller", "tallest", "shorter", "shortest"),
    ("old", "older", "oldest", "younger", "youngest"),
    ("fast", "faster", "fastest", "slower", "slowest"),
    ("heavy", "heavier", "heaviest", "lighter", "lightest"),
    ("strong", "stronger", "strongest", "weaker", "weakest"),
    ("rich", "richer", "richest", "poorer", "poorest"),
)
_ASKED = ("most", "least", "second", "order")


@dataclass(frozen=True)
class Comparison:
    """People and who stands above whom. Which order is it, and what is asked: one of most, least,
    second, order."""

    people: tuple[str, ...]
    above: tuple[tuple[str, str], ...]
    asked: str

    def solutions(self) -> set[str]:
        """The answers of every order that fits."""
        found = set()
        for order in itertools.permutations(self.people):
            if all(order.index(a) < order.index(b) for a, b in self.above):
                found.add(_answer(order, self.asked))
        return found

    def faults(self, answer: str) -> list[str]:
        found = self.solutions()
        return [] if found == {answer} else [f"the orders that fit give {sorted(found)}, not {answer!r} alone"]


def draft(rng: random.Random, bank: Bank, steps: int) -> PuzzleDraft:
    """A puzzle of `steps` comparisons between steps + 1 people."""
    order = tuple(rng.sample(WOMEN + MEN, steps + 1))
    plain, more, most, less, least = rng.choice(ADJECTIVES)
    words = {"plain": plain, "more": more, "most": most, "less": less, "least": least}
    asked = rng.choice(_ASKED)
    above = list(itertools.pairwise(order))
    rng.shuffle(above)
    clues = [bank.draw("pair").format(a=a, b=b, **words) for a, b in above]
    question = " ".join([*clues, bank.draw(asked).format_map(words)])
    answer = _answer(order, asked)
    right = order if asked == "order" else (answer,)
    said = {
        "most": f"First is {order[0]}, the {most}.",
        "least": f"Last is {order[-1]}, the {least}.",
        "second": f"After {order[0]} comes {order[1]}.",
        "order": f"That is the order from {most} to {least}.",
    }[asked]
    thinking = f"Write > for {more}. {_joined(above)} {said}"
    return PuzzleDraft(
        question=question,
        answer=answer,
        sentence=f"{', '.join(order)}." if asked == "order" else f"It is {answer}.",
        thinking=thinking,
        closing=thinking,
        steps=steps,
        environment=NoTools(),
        verifier=Named(right, tuple(p for p in order if p not in right), ordered=asked == "order"),
        puzzle=Comparison(tuple(sorted(order)), tuple(above), asked),
    )


def _answer(order: tuple[str, ...], asked: str) -> str:
    if asked == "order":
        return language.listed(list(order))
    return order[{"most": 0, "least": -1, "second": 1}[asked]]


def _joined(above: list[tuple[str, str]]) -> str:
    """The clues one after the other, each joined to the pieces that it touches."""
    pieces: list[list[str]] = []
    said = []
    for a, b in above:
        front = next((p for p in pieces if p[-1] == a), [a])
        back = next((p for p in pieces if p[0] == b), [b])
        joined = [*front, *back]
        pieces = [p for p in pieces if p not in (front, back)] + [joined]
        said.append(f"{a} > {b}." if len(joined) == 2 else f"{a} > {b}, so {' > '.join(joined)}.")
    return " ".join(said)

"""Draft of a puzzle, what each kind yields; puzzles.py makes the task of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..task import Environment, Move, Puzzle, Verifier


@dataclass(frozen=True)
class PuzzleDraft:
    """A puzzle with its solution. thinking: the whole of it, without tools; moves: none where tools
    are no help."""

    question: str
    answer: str
    sentence: str
    thinking: str
    closing: str
    steps: int
    environment: Environment
    verifier: Verifier
    puzzle: Puzzle
    moves: Sequence[Move] = ()

"""Draft of a table question, what each kind yields; table_questions.py makes the task of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..task import Move


@dataclass
class Draft:
    """What one kind of question yields; `moves` without slips."""

    question: str
    answer: str
    sentence: str
    alone: str
    closing: str
    others: tuple[str, ...] = ()
    moves: list[Move] = field(default_factory=list)

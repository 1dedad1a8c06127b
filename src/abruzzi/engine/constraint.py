"""What a sequence may say next: anything, one forced id, or a set of ids."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from abruzzi.tokenizer import ChatParser


class Constraint(Protocol):
    """Asked before every token, told of every token. One per sequence."""

    def allowed(self) -> int | np.ndarray | None:
        """None: anything. An id: this one, without sampling. bool [V]: one of these (at least one is true)."""
        ...

    def accept(self, token_id: int) -> None:
        """The token that came."""
        ...


class ThinkingBudget:
    """Closes the thought once it has `budget` tokens.

    parser: one of its own, fed with the header of the turn already."""

    def __init__(self, parser: ChatParser, close_id: int, budget: int) -> None:
        self._parser, self._close_id, self._budget = parser, close_id, budget

    def allowed(self) -> int | None:
        over = self._parser.in_thinking and self._parser.reasoning_tokens >= self._budget
        return self._close_id if over else None

    def accept(self, token_id: int) -> None:
        self._parser.feed(token_id)


class Both:
    """Two constraints of one sequence. The second is asked where the first allows anything."""

    def __init__(self, first: Constraint, second: Constraint) -> None:
        self._first, self._second = first, second

    def allowed(self) -> int | np.ndarray | None:
        allowed = self._first.allowed()
        return self._second.allowed() if allowed is None else allowed

    def accept(self, token_id: int) -> None:
        self._first.accept(token_id)
        self._second.accept(token_id)

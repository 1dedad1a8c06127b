"""Constraints on the next token (logit masks): anything, one forced id, or a set of ids."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Constraint(Protocol):
    """Asked before every token, told of every token. One per sequence."""

    def allowed(self) -> int | np.ndarray | None:
        """None: anything. An id: this one, without sampling. bool [V]: one of these (at least one
        is true)."""
        ...

    def accept(self, token_id: int) -> None:
        """The token that came."""
        ...


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

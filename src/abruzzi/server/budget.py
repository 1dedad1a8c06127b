"""How long a request may think: efforts and budgets, the share that is kept for the answer, "answer now"."""

from __future__ import annotations

from typing import Literal

from abruzzi.engine.constraint import ThinkingBudget
from abruzzi.engine.llm import ANSWER_SHARE
from abruzzi.tokenizer import ChatParser

# reasoning_effort -> share of the tokens that may be generated; None = all but the answer's share.
EFFORTS: dict[str, float | None] = {
    "minimal": 1 / 16,
    "low": 1 / 8,
    "medium": 3 / 8,
    "high": None,
    "xhigh": None,
    "max": None,
}
ClosedBy = Literal["model", "budget", "answer_now", "end_of_turn"]


def thinking_tokens(limit: int, budget: int | None, effort: str | None) -> int:
    """At most so many tokens of thought.

    limit: tokens that may be generated in all. A quarter of it (engine.llm.ANSWER_SHARE) is kept for the
    answer, whatever was asked for: a thought without an answer helps nobody."""
    room = max(0, limit - max(1, int(limit * ANSWER_SHARE)))
    share = EFFORTS[effort] if effort is not None else None
    caps = [room, *([budget] if budget is not None else []), *([int(limit * share)] if share is not None else [])]
    return min(caps)


class ThoughtLimit:
    """The engine's ThinkingBudget, and a way to spend what is left of it at once (`answer_now`).

    A Constraint of the engine; a grammar for calls and answers is asked after it, when it allows all (Both).
    parser: one of its own, fed with the header of the turn. `answer_now` may be called from any thread."""

    def __init__(self, parser: ChatParser, close_id: int, budget: int) -> None:
        self.closes_as: ClosedBy = "budget"
        self._parser, self._close_id = parser, close_id
        self._budget = ThinkingBudget(parser, close_id, budget)

    def answer_now(self, why: ClosedBy = "answer_now") -> bool:
        """Close the thought with the next token, or as soon as it opens. Whether one is open now."""
        self.closes_as = why
        self._budget = ThinkingBudget(self._parser, self._close_id, 0)
        return self._parser.in_thinking

    def allowed(self) -> int | None:
        return self._budget.allowed()

    def accept(self, token_id: int) -> None:
        self._budget.accept(token_id)

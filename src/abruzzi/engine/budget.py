"""Thinking budgets: how many tokens a thought may have, and the constraint that closes it.

A budget is a number of tokens or an effort (a share of what may be generated), and never takes what
is reserved for the answer. Example: with max_tokens=100, effort "low" allows 12 tokens of thought,
no effort 75.
"""

from __future__ import annotations

from typing import Literal

from abruzzi.tokenizer import ChatParser, Tokenizer

# Of the tokens that may be generated, the share that a thought leaves to the answer.
ANSWER_SHARE = 0.25
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
# How a thought ended: "cut" = the generation ended inside it; None = there was none.
ThoughtEnd = ClosedBy | Literal["cut"] | None


def thinking_tokens(limit: int, budget: int | None = None, effort: str | None = None) -> int:
    """At most so many tokens of thought.

    limit: tokens that may be generated in all. ANSWER_SHARE of it, and at least one, is kept for
    the answer, whatever was asked for: a thought without an answer helps nobody. effort: a key of
    EFFORTS. Raises ValueError for another effort."""
    if effort is not None and effort not in EFFORTS:
        raise ValueError(f"effort={effort!r:.80}; expected one of {', '.join(EFFORTS)}")
    room = max(0, limit - max(1, int(limit * ANSWER_SHARE)))
    share = EFFORTS[effort] if effort is not None else None
    caps = [room, *([budget] if budget is not None else []), *([int(limit * share)] if share is not None else [])]
    return min(caps)


def require_closable(tok: Tokenizer) -> None:
    """Raises ValueError for a tokenizer without a token that ends a thought: no budget can be kept.
    Where the chat format has no thoughts, every budget is."""
    if tok.marker_ids.spells_thinking:
        raise ValueError(
            "this model spells the end of a thought as text, so it cannot be forced; "
            "hint: leave the thinking budget and the effort out"
        )


class ThinkingBudget:
    """A Constraint that closes the thought once it has `budget` tokens, or at once when told to
    (`answer_now`).

    parser: one of its own, fed with the turn so far. `answer_now` may be called from any thread."""

    def __init__(self, parser: ChatParser, close_id: int, budget: int, closes_as: ClosedBy = "budget") -> None:
        self.closes_as: ClosedBy = closes_as
        self._parser, self._close_id, self._budget = parser, close_id, budget

    def answer_now(self) -> bool:
        """Close the thought with the next token, or as soon as it opens. Whether one is open
        now."""
        self.closes_as, self._budget = "answer_now", 0
        return self._parser.in_thinking

    def allowed(self) -> int | None:
        """The end of the thought where its budget is spent; otherwise anything."""
        over = self._parser.in_thinking and self._parser.reasoning_tokens >= self._budget
        return self._close_id if over else None

    def accept(self, token_id: int) -> None:
        """Follow the turn by one token."""
        self._parser.feed(token_id)

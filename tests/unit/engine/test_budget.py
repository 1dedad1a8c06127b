"""Thinking budgets: how much of a limit may be thought."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abruzzi.engine.answer import Answer, Asked
from abruzzi.engine.budget import EFFORTS, require_closable, thinking_tokens
from abruzzi.engine.sequence import Token
from abruzzi.types import SamplingParams
from tests import tiny


@pytest.mark.parametrize(
    ("limit", "budget", "effort", "expected"),
    [
        (100, None, None, 75),
        (100, 20, None, 20),
        (100, 99, None, 75),
        (100, 0, None, 0),
        (800, None, "low", 100),
        (800, None, "medium", 300),
        (800, None, "high", 600),
        (800, 10, "low", 10),
        (4, None, None, 3),
        (3, None, None, 2),  # never less than one token is kept for the answer
        (2, 9, None, 1),
        (1, None, None, 0),
    ],
)
def test_how_much_thought(limit: int, budget: int | None, effort: str | None, expected: int) -> None:
    assert thinking_tokens(limit, budget, effort) == expected


def test_an_effort_that_is_none_is_refused() -> None:
    assert all(thinking_tokens(100, None, effort) <= 75 for effort in EFFORTS)
    with pytest.raises(ValueError, match="effort='huge'; expected one of minimal, low"):
        thinking_tokens(100, None, "huge")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8])
def test_an_open_thought_is_closed_while_a_token_is_left(limit: int) -> None:
    """The prompt has opened the thought, and the model would never close it."""
    tok = tiny.vocabulary()
    opened, closed, letter = tok.control["<think>"], tok.control["</think>"], tok.encode("x")[0]
    answer = Answer(tok, Asked((5, opened), (opened,), SamplingParams(), limit, thinking_tokens(limit)))
    constraint = answer.submission.constraint
    assert constraint is not None
    for number in range(1, limit + 1):
        forced = constraint.allowed()
        token = Token(letter, -1.0) if forced is None else Token(closed, -1.0, sampled=False)
        constraint.accept(token.id)
        answer.feed(token, "length" if number == limit else None)
    assert [t.id for t in answer.tokens].index(closed) == limit - max(1, limit // 4)
    assert answer.thought_end == "budget"


def test_a_budget_needs_a_token_that_ends_the_thought() -> None:
    tok = tiny.vocabulary()
    require_closable(tok)
    spelling = object.__new__(type(tok))
    spelling.__dict__.update(vars(tok), marker_ids=replace(tok.marker_ids, think_close=None))
    with pytest.raises(ValueError, match="spells the end of a thought as text"):
        require_closable(spelling)

"""50 tool calls through clients that we did not write: the model sees what it sampled, whatever
they do to the history.

The openai and anthropic clients run here, one row per dialect and way of streaming; the others need
`make clients`, which runs all rows and writes the table.
"""

from __future__ import annotations

import pytest

from tests.clients import conversation
from tests.clients.matrix import ROWS, Row, run, same_growth

HERE = ("openai chat drop stream", "openai responses sealed whole", "anthropic drop stream")


def _marked(row: Row) -> object:
    marks = [pytest.mark.clients] if row.extra else [] if row.name in HERE else [pytest.mark.slow]
    return pytest.param(row, marks=marks, id=row.name)


@pytest.mark.parametrize("row", [_marked(row) for row in ROWS])
def test_every_step_has_the_prompt_that_it_would_have_without_a_client(row: Row) -> None:
    outcome = run(row)
    assert outcome.ok, (outcome.difference, outcome.refused)
    turns = conversation.STEPS if row.shell else conversation.STEPS + 1
    assert outcome.states in (f"kept={n} restored={turns - n} absent=0 expired=0" for n in (0, turns))
    assert outcome.steps == turns + 1
    assert outcome.first_same or row.shell or row.client == "llm"
    assert outcome.calls == (conversation.STEPS if row.shell else conversation.CALLS) >= 50


def test_one_id_that_differs_is_seen() -> None:
    prompts = [conversation.first_prompt()]
    for grown in conversation.growth():
        prompts.append(prompts[-1] + grown)
    assert same_growth(prompts) == (True, "")
    assert not same_growth(prompts[:-1])[0]
    retokenized = [*prompts[:3], *([*p[:700], p[700] + 1, *p[701:]] for p in prompts[3:])]
    identical, problem = same_growth(retokenized)
    assert not identical and problem.startswith("step 3: ")

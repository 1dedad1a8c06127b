"""The verifier's rule, case by case: the last number counts; a name must stand alone."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from abruzzi.tasks import make
from abruzzi.tasks.numbers import numbers_in, values_in

NUMBER = replace(make("word_problems", "trained", 0), answer="1250", others=())
NAME = replace(make("table_questions", "trained", 0), answer="lamp", others=("tent", "rope"))


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("She has 1250 marbles.", 1.0),
        ("1,250", 1.0),
        ("It is $1250.00!", 1.0),
        ("First 1251, no: 1250.", 1.0),
        ("The answer is **1250**", 1.0),
        ("1250kg", 1.0),
        ("1250, not 1251.", 0.0),
        ("-1250", 0.0),
        ("1250.5", 0.0),
        ("12500", 0.0),
        ("1 250", 0.0),
        ("x1250", 0.0),
        ("twelve hundred and fifty", 0.0),
        ("", 0.0),
    ],
)
def test_a_number(text: str, reward: float) -> None:
    assert NUMBER.reward(text) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("The lamp is the cheapest item.", 1.0),
        ("LAMP", 1.0),
        ("lamp, 12 dollars.", 1.0),
        ("lamps", 0.0),
        ("It is the lamp or the tent.", 0.0),
        ("Not the rope but the lamp.", 0.0),
        ("The tent.", 0.0),
        ("", 0.0),
    ],
)
def test_a_name(text: str, reward: float) -> None:
    assert NAME.reward(text) == reward


def test_numbers_are_read_as_a_person_reads_them() -> None:
    assert numbers_in("12-5 and 3 - -4, B52, 1,250.5, 7.") == [
        Decimal(n) for n in ("12", "5", "3", "-4", "1250.5", "7")
    ]
    assert numbers_in("(12)-5") == [Decimal(12), Decimal(5)]
    assert {Decimal(120), Decimal(581), Decimal(2)} <= values_in("Leeds,120,581 twice")

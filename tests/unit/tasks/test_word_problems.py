"""Word problems read a second time: an interpreter of its own takes the numbers from the question's
words.

It knows only which phrasings a question is made of, in order, and what each of them does to a
running value; it sees neither the generator's steps nor the tools' results. So a story that says
"gives away" and adds is caught here, which audit() cannot do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from abruzzi.tasks import SPLITS, Split, make

WORDS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
VALUES = {word: n for n, word in enumerate(WORDS, 2)} | {"twice": 2}

# What a phrasing does to the running value, one sign for each number that it mentions.
SIMPLE = {
    **dict.fromkeys(("gain", "together", "fee", "stock", "had", "more"), "+"),
    **dict.fromkeys(("lose", "more_than", "discount", "faulty", "free", "costs", "spend", "fewer"), "-"),
    **dict.fromkeys(("multiply", "price", "yield", "times"), "*"),
    **dict.fromkeys(("share", "pack", "split", "rest", "crates", "divide_fruits"), "/"),
    **dict.fromkeys(("change", "whole", "goal"), "from"),
}
HALVES = ("lose_half", "half")
PRODUCTS = {"gain_packs": "+", "lose_each": "-", "buy_more": "+", "go_on": "+"}
STARTS_WITH_A_PRODUCT = ("buy", "go", "make", "rows", "save")


def exactly(a: int, b: int) -> int:
    assert a % b == 0
    return a // b


OPERATIONS = {
    "+": lambda value, n: value + n,
    "-": lambda value, n: value - n,
    "*": lambda value, n: value * n,
    "/": exactly,
    "from": lambda value, n: n - value,
}


def numbers_read(question: str) -> Iterator[int]:
    text = question.replace("for the two of", "")
    for token in re.findall(r"\d+|[a-z]+", text.lower()):
        if token.isdigit() or token in VALUES:
            yield int(token) if token.isdigit() else VALUES[token]


def answer_read(question: str, templates: tuple[str, ...]) -> int:
    numbers = numbers_read(question)
    value, everybody = 0, []
    for kind in (template.split(".")[0] for template in templates):
        if kind in ("start", "first"):
            value = next(numbers)
        elif kind in STARTS_WITH_A_PRODUCT:
            value = next(numbers) * next(numbers)
        elif kind in PRODUCTS:
            several = next(numbers) * next(numbers)
            value += several if PRODUCTS[kind] == "+" else -several
        elif kind in HALVES:
            assert value % 2 == 0
            value //= 2
        elif kind == "how_long":
            first, second = next(numbers), next(numbers)  # the pace may be told before the whole
            value = exactly(max(first, second), min(first, second))
        elif kind == "goal_weeks":
            first, second = next(numbers), next(numbers)
            value = exactly(max(first, second) - value, min(first, second))
        elif kind == "all":
            value = sum(everybody)
        elif kind in SIMPLE:
            value = OPERATIONS[SIMPLE[kind]](value, next(numbers))
        if kind in ("first", "more", "fewer", "times", "half"):
            everybody.append(value)
    assert next(numbers, None) is None, "a number of the question was not used"
    return value


@pytest.mark.parametrize("split", SPLITS)
def test_the_question_read_again_gives_the_answer(split: Split) -> None:
    read, phrasings = 0, set()
    for seed in range(600):
        task = make("word_problems", split, seed)
        if any(template.startswith("aside") for template in task.templates):
            continue  # its number stands somewhere between the others
        assert answer_read(task.prompt, task.templates) == int(task.answer), task.prompt
        read += 1
        phrasings.update(task.templates)
    assert read > 450
    assert len(phrasings) > 50

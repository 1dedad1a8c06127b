"""Digit-wise workings against an independent reading: the result put together from the digits that
were written."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from abruzzi.tasks.workings import evaluate, exact, faults, sum_up, without_workings, work_out


def draw(rng: random.Random) -> tuple[int, str, int]:
    """Operands of every width, with the zeros and nines that carry and borrow far."""
    op = rng.choice("+-*/")
    a, b = (int("".join(rng.choices("0012345678999", k=rng.randint(1, 5)))) for _ in range(2))
    if op == "-":
        a, b = max(a, b), min(a, b)
    elif op in "*/":
        b = rng.randint(1, 99)
        a = a % 10_000 if op == "*" else a % 1_000 * b
    return a, op, b


def by_digits(working: str) -> int:
    """Reads one working without its '-> result': the digits that each column leaves, put
    together."""
    _, body = working.split(" -> ")[0].split(": ")
    columns = body.split("; ")
    if "rest" in body:
        return int("".join(re.findall(r"=(\d+) rest", body)))
    digits = []
    for column in columns[:-1]:
        written = re.search(r"write (\d)", column)
        value = re.sub(r" borrow 1", "", column).split("=")[-1]
        digits.append(written.group(1) if written else value)
    digits.append(re.sub(r" borrow 1", "", columns[-1]).split("=")[-1])
    return int("".join(reversed(digits)))


def test_every_working_is_right_and_its_columns_give_the_result() -> None:
    rng = random.Random(20)
    read = 0
    for _ in range(5000):
        a, op, b = draw(rng)
        text = work_out(a, op, b)
        expected = {"+": a + b, "-": a - b, "*": a * b, "/": a // max(b, 1)}[op]
        assert text.endswith(f" {expected}"), text
        assert faults(text) == [], text
        for head, working in re.findall(r"((\d+ [-+*/] \d+): [^:>]*-> \d+)", text):
            read += 1
            assert by_digits(head) == evaluate(working), head
    assert read > 4000


def test_a_changed_digit_is_a_fault() -> None:
    """Nearly every digit of a working matters; a changed one must be seen.

    Digits that stand alone in a column ("5" in "; 5 -> 512") are copies and are not recomputed
    here."""
    rng = random.Random(21)
    missed = tried = 0
    for _ in range(400):
        a, op, b = draw(rng)
        text = work_out(a, op, b)
        places = [m.start() for m in re.finditer(r"\d", text) if not re.search(r"(?:; |: )\d$", text[: m.end()])]
        at = rng.choice(places)
        digit = str((int(text[at]) + rng.randint(1, 9)) % 10)
        tried += 1
        missed += not faults(text[:at] + digit + text[at + 1 :])
    assert missed <= 0.05 * tried, f"{missed} of {tried} changed digits were not seen"


def test_notation() -> None:
    assert work_out(347, "+", 286) == ("347 + 286: 7+6=13 write 3 carry 1; 4+8+1=13 write 3 carry 1; 3+2+1=6 -> 633")
    assert work_out(503, "-", 286) == "503 - 286: 13-6=7 borrow 1; 10-8-1=1 borrow 1; 5-2-1=2 -> 217"
    assert work_out(347, "*", 6) == "347 * 6: 7*6=42 write 2 carry 4; 4*6+4=28 write 8 carry 2; 3*6+2=20 -> 2082"
    assert work_out(2082, "/", 6) == "2082 / 6: 20/6=3 rest 2; 28/6=4 rest 4; 42/6=7 rest 0 -> 347"
    assert work_out(7, "+", 6) == "7 + 6 = 13"
    assert sum_up([5]) == ""


def test_what_cannot_be_worked_out_is_refused() -> None:
    for a, op, b in ((3, "-", 5), (7, "/", 2), (7, "/", 0), (-3, "+", 5), (3, "^", 5)):
        with pytest.raises(ValueError, match=r"hint|expected"):
            work_out(a, op, b)
    with pytest.raises(ValueError, match="no whole result"):
        exact(1, "/", 3)
    for bad in ("2 ** 9", "__import__('os')", "2 +", "1 / 0", "abs(3)"):
        with pytest.raises(ValueError, match="cannot evaluate"):
            evaluate(bad)
    assert evaluate("(1.5 + 2) * 3 - -1") == Fraction(23, 2)


def test_workings_are_taken_out_of_prose() -> None:
    prose, taken = without_workings(f"Plan: add 12. {work_out(47, '+', 86)}. So 4 * 5 = 20.")
    assert prose == "Plan: add 12. #. So #."
    assert taken == [("47 + 86", "133"), ("4 * 5", "20")]

"""Answers that are neither one number nor one name: a time, a date, several names, an expression.

Each is a frozen dataclass with `accepts(text)` and `wrong()`, texts close to a right answer that
must get no reward (the audit tries them). As with numbers, the LAST answer in a text counts: "9:15,
no, 9:20" is 9:20. Nothing that a model writes is ever evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import workings

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
LONGEST_EXPRESSION = 200  # characters

_CLOCK = re.compile(r"(?<![\d:.])(\d{1,2}):([0-5]\d)(?![\d:])(?:\s*([ap])\.?m\b)?", re.IGNORECASE | re.ASCII)
_MONTH = "|".join(f"{month}|{month[:3]}" for month in MONTHS)
_DATE = re.compile(
    rf"(?<!\d)(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{_MONTH})\b"
    rf"|\b(?P<month2>{_MONTH})\.? (?:the )?(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?(?!\d)"
    r"|(?<!\d)\d{4}-(?P<iso_month>\d{2})-(?P<iso_day>\d{2})(?!\d)",
    re.IGNORECASE | re.ASCII,
)
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})
_RUN = re.compile(r"[0-9(][0-9+\-*/() ]*[0-9)]")
_CLAIM = re.compile(r"\s*(?:=|is|gives|equals)\s*(-?[0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class Clock:
    """A time of the day, in minutes since midnight. "14:35", "2:35 pm" and "02:35 PM" are the
    same."""

    minutes: int

    def accepts(self, text: str) -> bool:
        times = _CLOCK.findall(text)
        if not times:
            return False
        hour, minute, half = int(times[-1][0]), int(times[-1][1]), times[-1][2].lower()
        if half:
            if not 1 <= hour <= 12:
                return False
            hour = hour % 12 + (12 if half == "p" else 0)
        return hour * 60 + minute == self.minutes

    def wrong(self) -> Sequence[str]:
        near = [clock((self.minutes + apart) % 1440) for apart in (1, -1, 60, -60, 720)]
        hour, minute = divmod(self.minutes, 60)
        return (*near, f"{clock(self.minutes)}, no, {near[0]}", f"{clock(self.minutes)}:30", f"{hour} {minute}")


@dataclass(frozen=True)
class Day:
    """A day of a year, both counted from 1. "28 April", "April 28th, 2027", "2027-04-28" are the
    same."""

    month: int
    day: int

    def accepts(self, text: str) -> bool:
        found = list(_DATE.finditer(text))
        if not found:
            return False
        parts = found[-1].groupdict()
        if parts["iso_month"]:
            return (int(parts["iso_month"]), int(parts["iso_day"])) == (self.month, self.day)
        name, day = parts["month"] or parts["month2"], parts["day"] or parts["day2"]
        return name[:3].lower() == MONTHS[self.month - 1][:3].lower() and int(day) == self.day

    def wrong(self) -> Sequence[str]:
        name, after = MONTHS[self.month - 1], MONTHS[self.month % 12]
        near = (f"{self.day + 1} {name}", f"{name} {self.day - 1}", f"{self.day} {after}")
        return (*near, f"{self.day} {name}, no, {near[0]}", name, str(self.day), f"{self.day}{self.day} {name}")


@dataclass(frozen=True)
class Named:
    """Certain names out of some. All of `right` must be named and none of `others`; in this order
    if `ordered`.

    Whatever is said around the names is not read: "Mia and Ben lie" and "Mia, Ben" are the same."""

    right: tuple[str, ...]
    others: tuple[str, ...]
    ordered: bool = False

    def accepts(self, text: str) -> bool:
        names = "|".join(re.escape(name) for name in (*self.right, *self.others))
        found = [name.lower() for name in re.findall(rf"(?<!\w)(?:{names})(?!\w)", text, re.IGNORECASE)]
        right = [name.lower() for name in self.right]
        return found == right if self.ordered else set(found) == set(right)

    def wrong(self) -> Sequence[str]:
        listed = ", ".join(self.right)
        texts = [*self.others, *(f"{listed}, {name}" for name in self.others)]
        if len(self.right) > 1:
            texts += [", ".join(self.right[:-1]), ", ".join(self.right[1:])]
        if self.ordered:
            texts += [", ".join(reversed(self.right)), f"{listed}, {listed}"]
        return texts


@dataclass(frozen=True)
class Expression:
    """Any expression that gives `target` and uses each of `numbers` at most once; exact arithmetic.

    The last run of digits, + - * / and brackets that has an operator counts. What is claimed of it
    ("= 64") must be the target as well. Not read: a sign before the first number, decimals,
    powers."""

    numbers: tuple[int, ...]
    target: int

    def accepts(self, text: str) -> bool:
        text = text.translate(_SPELLINGS)
        runs = [run for run in _RUN.finditer(text) if re.search(r"[-+*/]", run.group())]
        if not runs:
            return False
        expression = runs[-1].group()
        claim = _CLAIM.match(text, runs[-1].end())
        if claim and float(claim.group(1)) != self.target:
            return False
        if len(expression) > LONGEST_EXPRESSION:
            return False
        left = list(self.numbers)
        for number in map(int, re.findall(r"[0-9]+", expression)):
            if number not in left:
                return False
            left.remove(number)
        try:
            return workings.evaluate(expression) == self.target
        except ValueError:
            return False

    def wrong(self) -> Sequence[str]:
        first, second = self.numbers[:2]
        again = f"{self.target} + {first} - {first}"
        sums = [f"{first} {op} {second}" for op in "+-*/"]
        unreached = [text for text in sums if workings.evaluate(text) != self.target]
        return (str(self.target), again, f"{self.target - 1} + 1", *unreached, f"({first} + {second}", "1 +", "()")


def clock(minutes: int) -> str:
    """'9:05' for 545 minutes since midnight."""
    return f"{minutes // 60}:{minutes % 60:02d}"

"""Numbers as they stand in English text: read them, compare them exactly, say small ones in words.

A number is written with digits, perhaps with commas between thousands and a decimal part ("1,250",
"-3", "7.50"); digits glued to a letter in front ("B52") are part of a name, not a number. Words
count only where they are listed here ("twelve", "twice", "half"): enough for the phrasings of this
room. Scientific notation, fractions ("1/2" is read as 1 and 2) and other scripts' digits are not
read.
"""

from __future__ import annotations

import re
from decimal import Decimal

IN_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

_NUMBER = re.compile(r"(?<![\w.])(?:(?<!\))-)?[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?")
MEANINGS = {
    **{word: Decimal(n) for n, word in enumerate(IN_WORDS)},
    "twice": Decimal(2),
    "double": Decimal(2),
    "doubles": Decimal(2),
    "doubled": Decimal(2),
    "half": Decimal(2),
    "couple": Decimal(2),
    "both": Decimal(2),
    "triple": Decimal(3),
    "triples": Decimal(3),
    "tripled": Decimal(3),
    "week": Decimal(7),
    "weekday": Decimal(5),
    "dozen": Decimal(12),
}
_WORD = re.compile(r"[a-z]+")


def numbers_in(text: str) -> list[Decimal]:
    """The numbers written with digits, in order. A minus counts as a sign only after a
    non-digit."""
    return [Decimal(found.replace(",", "")) for found in _NUMBER.findall(text)]


def values_in(text: str) -> set[Decimal]:
    """Every value that a reader can take from `text`: its numbers, and the words that mean one.

    A comma is read both ways, since "120,581" is two numbers in a line of CSV."""
    values = set(numbers_in(text)) | set(numbers_in(text.replace(",", " ")))
    values.update(MEANINGS[word] for word in _WORD.findall(text.lower()) if word in MEANINGS)
    return values


def in_words(n: int) -> str:
    """'three' for 3, up to twelve; digits above that."""
    return IN_WORDS[n] if 0 <= n < len(IN_WORDS) else str(n)


def plain(value: Decimal | int | float) -> str:
    """The shortest way to write an exact value: 14 for 14.0, 7.5 for 7.50."""
    text = format(Decimal(str(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

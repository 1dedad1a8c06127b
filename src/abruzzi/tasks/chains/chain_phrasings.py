"""The sentences of chains.py: arithmetic told as a chain of steps. Linked facts use the words of the plot `compare`."""

from __future__ import annotations

from ..phrasing import Say, extended
from ..trained import sums as wide

_THEN = ("That is {r}.", "Now {r}.", "So {r}.")

SUMS = {
    "begin": Say(
        (
            "Start with {a}.",
            "Take {a}.",
            "The first number is {a}.",
            "I have the number {a}.",
            "Begin at {a}.",
        ),
        ("Let us begin with the number {a}.", "My number is {a}."),
    ),
    "plus": Say(
        ("Add {b}.", "Then add {b}.", "Plus {b}.", "Now add {b} to it.", "Go up by {b}."),
        ("Put {b} on top of that.", "Make it {b} larger."),
        plan=("add {b}", "plus {b}"),
        why=("Add {b} to {a}", "{a} and {b} more"),
        then=_THEN,
    ),
    "minus": Say(
        ("Take away {b}.", "Then take {b} away.", "Minus {b}.", "Subtract {b}.", "Go down by {b}."),
        ("Take {b} off.", "Make it {b} smaller."),
        plan=("take away {b}", "minus {b}"),
        why=("Take {b} from {a}", "{a} without {b}"),
        then=_THEN,
    ),
    "by": Say(
        ("Multiply by {b}.", "Then multiply that by {b}.", "Times {b}.", "Take it {times}."),
        ("Make it {b} times as large.", "Then comes a multiplication by {b}."),
        plan=("multiply by {b}", "times {b}"),
        why=("Multiply {a} by {b}", "{b} times {a}"),
        then=_THEN,
    ),
    "over": Say(
        (
            "Divide by {b}.",
            "Then divide that by {b}.",
            "Divided by {b}.",
            "Split it into {b} equal parts and take one.",
        ),
        ("Take only one of {b} equal parts of it.", "Then comes a division by {b}."),
        plan=("divide by {b}",),
        why=("Divide {a} by {b}", "{a} in {b} equal parts"),
        then=_THEN,
    ),
    "result": Say(
        (
            "What do you get?",
            "What is the result?",
            "How much is that?",
            "What number is it now?",
            "Result?",
            "Which number comes out?",
        ),
        ("Where do you end up?", "What does it come to?"),
        then=("The result is {r}.", "That makes {r}.", "It is {r}."),
    ),
    # With digits and signs alone; only + and -, or one sign, so that no order has to be known.
    "written": Say(
        ("What is {chain}?", "{chain} = ?", "Calculate {chain}.", "How much is {chain}?", "Please work out {chain}."),
        ("Give me the value of {chain}.", "{chain} makes how much?"),
    ),
}

SUMS = extended(SUMS, wide.SUMS)

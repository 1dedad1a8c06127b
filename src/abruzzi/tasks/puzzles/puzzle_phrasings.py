"""The sentences of puzzles.py, written by hand: countdown, comparisons, liars, seats.

{numbers} and {target} belong to countdown; {a}, {b} are people in a comparison (a stands higher), {more},
{most}, {less}, {least}, {plain} the forms of its adjective; {p}, {q}, {r} are people who speak or sit.
"""

from __future__ import annotations

from ..phrasing import Say, extended
from ..trained import others as more
from ..trained import puzzles as wide
from ..trained import seats as wide_seats

COUNTDOWN = {
    "countdown": Say(
        (
            "Use the numbers {numbers}, each at most once, to make {target}.",
            "Reach {target} with {numbers}. You may add, subtract, multiply and divide, and use each number only once.",
            "Can you make {target} from {numbers}? Every number may be used once.",
            "I am playing countdown. The numbers are {numbers} and the target is {target}. What is a solution?",
        ),
        (
            "Find a calculation with the result {target}. You have {numbers}, and no number may be used twice.",
            "How can I get {target} out of {numbers} with + - * and /, using each number once at most?",
        ),
    ),
}

COMPARE = {
    "pair": Say(
        ("{a} is {more} than {b}.", "{b} is {less} than {a}."),
        ("{b} is not as {plain} as {a}.", "Compared with {b}, {a} is {more}."),
    ),
    "most": Say(
        ("Who is the {most}?", "Who is the {most} of them all?", "Which of them is the {most}?"),
        ("Do you know who is the {most}?",),
    ),
    "least": Say(("Who is the {least}?", "Which one is the {least}?"), ("Can you tell me who the {least} is?",)),
    "second": Say(
        ("Who is the second {most}?", "Who comes right after the {most}?"), ("Who is number two, after the {most}?",)
    ),
    "order": Say(
        ("Put them in order, from the {most} to the {least}.", "List them from {most} to {least}."),
        ("Sort the people, the {most} first and the {least} last.",),
    ),
}

LIARS = {
    "liars": Say(
        (
            "Each of {names} either always tells the truth or always lies.",
            "Of {names}, each one always lies or always tells the truth.",
            "You meet {names}. Each of them is a liar, who never says a true word, or a truth-teller, who never lies.",
        ),
        ("On an island people are either honest, and never lie, or they lie every time. You talk to {names}.",),
    ),
    "says": Say(('{p} says: "{said}"', '{p}: "{said}"'), ('{p} claims: "{said}"',)),
    "lies": Say(("{q} lies.", "{q} is a liar."), ("You cannot believe {q}, who always lies.",)),
    "honest": Say(("{q} tells the truth.", "{q} never lies."), ("You can believe {q}, who is honest.",)),
    "same": Say(
        ("{q} and I are of the same kind.", "Either {q} and I both lie, or neither of us does."),
        ("{q} is just as honest or dishonest as I am.",),
    ),
    "differ": Say(
        ("{q} and I are of different kinds.", "Exactly one of the two of us, {q} or I, lies."),
        ("One of {q} and me tells the truth, the other does not.",),
    ),
    "either": Say(
        ("At least one of {q} and {r} lies.", "{q} and {r} are not both truth-tellers."),
        ("A liar is among {q} and {r}.",),
    ),
    "who_lies": Say(("Who lies?", "Who are the liars? Name all of them."), ("Which of them lie?",)),
    "who_honest": Say(
        ("Who tells the truth?", "Who are the truth-tellers? Name all of them."), ("Whom can you believe?",)
    ),
}

SEATS = {
    "seats": Say(
        (
            "{names} sit in a row of {n} seats, numbered from left to right.",
            "{names} are in a row at the cinema; the {n} seats are numbered from the left.",
        ),
        ("There are {n} chairs in a row, counted from left to right, and {names} take one each.",),
    ),
    "at": Say(("{p} sits in seat {k}.", "Seat {k} is for {p}."), ("{p} has taken seat {k}.",)),
    "left_of": Say(
        ("{p} sits directly to the left of {q}.", "{q} sits directly to the right of {p}."),
        ("The neighbour on the left of {q} is {p}.",),
    ),
    "before": Say(
        ("{p} sits somewhere to the left of {q}.", "{q} sits further right than {p}."),
        ("{p} is further left than {q}.",),
    ),
    "beside": Say(("{p} sits next to {q}.", "{p} and {q} are neighbours."), ("Nobody sits between {p} and {q}.",)),
    "apart": Say(
        ("{p} does not sit next to {q}.", "{p} and {q} are not neighbours."), ("Somebody sits between {p} and {q}.",)
    ),
    "who_sits": Say(("Who sits in seat {k}?", "Whose seat is number {k}?"), ("Who has seat {k}?",)),
    "row": Say(
        ("Name them from left to right.", "In which order do they sit, from left to right?"),
        ("List everybody, beginning at the left.",),
    ),
}

# plain, more, most, less, least
ADJECTIVES = (
    ("tall", "taller", "tallest", "shorter", "shortest"),
    ("old", "older", "oldest", "younger", "youngest"),
    ("fast", "faster", "fastest", "slower", "slowest"),
    ("heavy", "heavier", "heaviest", "lighter", "lightest"),
    ("strong", "stronger", "strongest", "weaker", "weakest"),
    ("rich", "richer", "richest", "poorer", "poorest"),
)

COUNTDOWN = extended(COUNTDOWN, more.COUNTDOWN, wide.COUNTDOWN)
COMPARE = extended(COMPARE, more.COMPARE, wide.COMPARE)
LIARS = extended(LIARS, more.LIARS, wide.LIARS)
SEATS = extended(SEATS, more.SEATS, wide_seats.SEATS)

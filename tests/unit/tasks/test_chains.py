"""Chains read a second time: sums from the question's words, linked amounts as equations solved in
any order.

The reader of sums knows what each word does to a running value. That of linked facts makes a
pattern of each phrasing and an equation of what it matches; it sees neither the generator's order
nor its people.
"""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from abruzzi.tasks import SPLITS, Split, Task, make
from abruzzi.tasks.phrasing import bank
from tests.unit.tasks.bare import bare

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUMBER = rf"(?P<n>\d+|{'|'.join(WORDS)}|twice)"
MINUS = r"away|minus|subtract|down|off|smaller|less|reduce|decrease|remove|deduct|lower|back|from|leave out"
PLUS = r"add|plus|up|top|larger|more|increase|raise|grow|sum|count on"
EQUATIONS = {  # the other's amount from n and the one it is compared with
    "more": lambda n, amount: amount + n,
    "fewer": lambda n, amount: amount - n,
    "times": lambda n, amount: amount * n,
    "half": lambda n, amount: amount / 2,
}


def value(text: str | None) -> int:
    if text is None:
        return 0
    return int(text) if text.isdigit() else 2 if text == "twice" else WORDS.index(text) + 1


def pattern(phrasing: str) -> re.Pattern[str]:
    """What a phrasing of the plot `compare` looks like with its slots filled."""
    text = re.sub(r"\\([{} ])", r"\1", re.escape(phrasing))
    for slot, found in {"{a}": NUMBER, "{b}": NUMBER, "{times}": f"{NUMBER}(?: times)?", "{things}": r"\w+"}.items():
        text = text.replace(slot, found)
    for person in "AB":
        text = text.replace(f"{{{person}}}", f"(?P<{person}>[A-Z][a-z]+)", 1)
        text = text.replace(f"{{{person}}}", f"(?P={person})")
    return re.compile(text)


PATTERNS = [
    (kind, pattern(phrasing))
    for kind in ("first", *EQUATIONS)
    for phrasing in (*bank("stories/compare")[kind].trained, *bank("stories/compare")[kind].held_out)
]


def sentences(question: str) -> list[str]:
    """The sentences, what is asked for as the last one; some people ask first."""
    said = re.split(r"(?<=[.?!]) ", question)
    return [*said[1:], said[0]] if said[0].endswith("?") and len(said) > 1 else said


def linked_answer(question: str) -> Fraction:
    known: dict[str, Fraction] = {}
    links, asked = [], []
    for said in sentences(question):
        # "A has 6 fewer than B" is a phrasing of both "more" and "fewer": the same equation either
        # way.
        matches = [(kind, m.groupdict()) for kind, p in PATTERNS if (m := p.fullmatch(said))]
        if not matches:
            asked.append(said)
        for kind, found in matches:
            if kind == "first":
                known[found["A"]] = Fraction(value(found["n"]))
            else:
                links.append((kind, found["A"], found["B"], value(found.get("n"))))
    for _ in links:
        for kind, base, other, n in links:
            if base in known:
                known[other] = EQUATIONS[kind](n, known[base])
    assert len(asked) == 1, asked
    (person,) = [name for name in known if re.search(rf"\b{name}\b", asked[0])]
    return known[person]


def sums_answer(question: str) -> Fraction:
    if written := re.search(r"\d+(?: [-+] \d+)+", question):
        first, *others = re.findall(r"(?:[-+] )?\d+", written.group())
        return Fraction(int(first) + sum(int(n.replace(" ", "")) for n in others))
    first, *steps = (said for said in sentences(question) if re.search(r"\d|times|twice", said))
    result = Fraction(re.findall(r"\d+", first)[0])
    for step in (said.lower() for said in steps):
        n = value((re.search(r"\d+", step) or re.search(NUMBER, step)).group())  # type: ignore[union-attr]
        if re.search(r"parts|divi|split|share|pieces|groups", step):
            result /= n
        elif re.search(r"multipl|times|twice", step):
            result *= n
        elif re.search(MINUS, step):
            result -= n
        else:
            assert re.search(PLUS, step), step
            result += n
    return result


def is_linked(task: Task) -> bool:
    return any(template.startswith("first.") for template in task.templates)


@pytest.mark.parametrize("split", SPLITS)
def test_the_question_read_again_gives_the_answer(split: Split) -> None:
    read = [0, 0]
    for seed in range(300):
        task = make("chains", split, seed)
        question = re.sub(r"^Please work this out for me\. | Thanks!$", "", bare(task.prompt))
        linked = is_linked(task)
        answer = (linked_answer if linked else sums_answer)(question)
        assert answer == int(task.answer), question
        read[linked] += 1
    assert min(read) > 100


def test_the_order_of_linked_facts_says_nothing_and_others_are_told_of() -> None:
    """The amount that the chain begins with stands anywhere, and mostly there is another known
    amount."""
    places, several = set(), 0
    made = (make("chains", "trained", seed) for seed in range(200))
    tasks = [t for t in made if is_linked(t) and not t.mistakes()]
    for task in tasks:
        sentences = re.split(r"(?<=[.?!]) ", bare(task.prompt))
        start = task.moves[0].arguments["expression"]
        places.add(next((i for i, s in enumerate(sentences) if re.search(rf"\b{start.split()[0]}\b", s)), None))
        several += sum(t.startswith("first.") for t in task.templates) == 2
    assert len(places) >= 5
    assert 0.7 < several / len(tasks) < 0.95

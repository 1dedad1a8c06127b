"""A word problem while it is being told: sentences and steps in one voice and tense, then the
finished task.

The plots (plots/) tell it, the files under words/stories/ have the words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .. import language
from ..environments import Arithmetic
from ..language import SPEAKER, Person, told
from ..numbers import in_words
from ..phrasing import Bank, Say
from ..task import Move, Split, Task, Unfit
from ..vocabulary import MEN, MONEY, WOMEN
from ..workings import exact, work_out

LARGEST = 99_999
_ASIDE_SHARE, _SLIP_SHARE, _ASKED_FIRST_SHARE = 0.15, 0.10, 0.12

_OPERATOR_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_REVERSED = {"+": "-", "-": "+", "*": "/", "/": "*"}


@dataclass(frozen=True)
class Step:
    """One calculation of a story, and what thinking says around it."""

    a: int
    op: str
    b: int
    result: int
    plan: str
    why: str
    then: str


class Story:
    """Sentences and steps as a plot tells them, all in one voice and tense."""

    def __init__(self, rng: random.Random, says: Mapping[str, Say], held_out: bool, speaks: bool = True) -> None:
        """says: the plot's phrasings with those of frames, and of asides if there may be one.
        speaks: whether the protagonist may be the one who asks."""
        self.rng = rng
        self.bank = Bank(says, rng, held_out)
        self._asides, self._held_out = "aside" in says, held_out
        man = rng.random() < 0.5
        speaks = speaks and rng.random() < 0.2
        mine, theirs = (MEN, WOMEN) if man else (WOMEN, MEN)
        self.person: Person = SPEAKER if speaks else (language.he if man else language.she)(rng.choice(mine))
        self.friend = rng.choice(theirs)  # of the other sex, so that a pronoun is never ambiguous
        self.tense: language.Tense = "past" if rng.random() < 0.35 else "present"
        self.words = rng.random() < 0.3  # small numbers written out
        other = rng.choice([name for name in theirs if name != self.friend])
        self.slots: dict[str, object] = {
            "Q": self.friend,
            "R": other,
            "us": "us" if speaks else "them",
            "money": rng.choice(MONEY),
        }
        self.sentences: list[str] = []
        self.question = ""
        self.answer = ""
        self.steps: list[Step] = []
        self.trace = ""  # what thinking looks for before it plans

    def tell(self, kind: str, **slots: object) -> None:
        """Add a sentence, and the question if the phrasing holds one after a "|"."""
        shown = {k: self._written(v, k) for k, v in slots.items()}
        told_part, _, asked = self.bank.draw(kind).partition("|")
        if told_part:
            self.sentences.append(self._render(told_part, shown, self.tense))
        if asked:
            self.question = self._render(asked, shown, "present")

    def step(self, kind: str, a: int, op: str, b: int, **slots: object) -> int:
        """Add a calculation with the thinking of `kind`; gives its result. Raises Unfit."""
        if b < 2 and op in "*/":
            raise Unfit
        try:
            result = exact(a, op, b)
        except ValueError:
            raise Unfit from None
        if not 2 <= result <= LARGEST:
            raise Unfit
        facts = {"a": a, "b": b, "r": result, **slots}
        plan, why, then = (self._think(kind, part, facts) for part in ("plan", "why", "then"))
        self.steps.append(Step(a, op, b, result, plan, why, then))
        return result

    def ask(self, kind: str, **slots: object) -> None:
        """Add the question of `kind`, unless a terminal sentence brought its own, and the answer to
        it."""
        if not self.question:
            self.question = self._render(self.bank.draw(kind), slots, "present")
        result = self.steps[-1].result
        self.answer = self._think(kind, "then", {"r": result, **slots})

    def size(self, low: int = 2, high: int = 999) -> int:
        """A number for the story: small ones, two digits and three digits are all common."""
        top = self.rng.choices((12, 99, 999), (0.25, 0.5, 0.25))[0]
        return self.rng.randint(low, max(low, min(top, high)))

    def divisor(self, n: int, low: int = 2, high: int = 24) -> int:
        """A number that divides n exactly and leaves at least 2. Raises Unfit."""
        fitting = [d for d in range(low, high + 1) if n % d == 0 and n // d >= 2]
        if not fitting:
            raise Unfit
        return self.rng.choice(fitting)

    def part(self, n: int) -> int:
        """A number below n that leaves something. Raises Unfit."""
        if n < 4:
            raise Unfit
        return min(self.size(), self.rng.randint(2, n - 2))

    def unit(self) -> str:
        """What the story counts."""
        return str(self.slots.get("units") or self.slots.get("things") or self.slots["money"])

    def task(self, split: Split, id: str, family: str = "word_problems") -> Task:
        """The finished task, with a frame, perhaps an aside, and perhaps a slip."""
        rng = self.rng
        aside = self.trace
        free = [n for n in range(3, 13) if all(n not in (s.a, s.b, s.result) for s in self.steps)]
        if self._asides and self.sentences and free and rng.random() < _ASIDE_SHARE:
            facts = {"d": rng.choice(free)}
            told_aside = self._render(self.bank.draw("aside"), facts, self.tense)
            self.sentences.insert(rng.randint(1, len(self.sentences)), told_aside)
            aside = self._think("aside", "why", facts)
        said = [*self.sentences, self.question]
        if not self._held_out and self.sentences and self._stands_alone() and rng.random() < _ASKED_FIRST_SHARE:
            said = [self._named(self.question), *self.sentences]
        question = self.bank.draw("frame").format(" ".join(said))
        plan = _plan(self.steps, aside)
        return Task(
            id=id,
            family=family,
            split=split,
            templates=tuple(self.bank.used),
            steps=len(self.steps),
            prompt=question,
            prompt_without_tools=question,
            answer=str(self.steps[-1].result),
            others=(),
            environment=Arithmetic(),
            moves=tuple(_moves(self.steps, plan, self.unit(), rng)),
            closing=f"{self.steps[-1].then} {_check(self.steps[-1], rng)}",
            alone=_alone(self.steps, plan),
            sentence=self.answer,
        )

    def _stands_alone(self) -> bool:
        """Whether the question can come before the story: it tells nothing new and points at
        nothing."""
        return not re.search(r"\d|\b(?:that|then|it|after|still|left|more|they|them)\b|\b[a-z]+ -", self.question)

    def _named(self, question: str) -> str:
        """The question with the protagonist's name for the pronoun, which has nothing to point at
        yet."""
        pronoun, name = self.person.pronoun, self.person.name
        return re.sub(rf"\b{pronoun}\b", name, question, count=1) if self.person is not SPEAKER else question

    def _written(self, value: object, slot: str) -> object:
        spelled = self.words and slot in ("k", "h") and isinstance(value, int) and value <= 10
        return in_words(value) if spelled and isinstance(value, int) else value

    def _render(self, text: str, slots: Mapping[str, object], tense: language.Tense) -> str:
        return language.render(text, {**self.slots, **slots}, self.person, tense)

    def _think(self, kind: str, part: str, slots: Mapping[str, object]) -> str:
        text = self.bank.thought(kind, part)
        return language.render(text, {**self.slots, **slots}, told(self.person), opens=part != "plan")


def _plan(steps: list[Step], aside: str) -> str:
    """What is going to be done, said once at the beginning."""
    said = [aside] if aside else []
    if len(steps) > 1:
        said.append(f"Plan: {', then '.join(step.plan for step in steps)}.")
    return " ".join(said)


def _moves(steps: list[Step], plan: str, unit: str, rng: random.Random) -> list[Move]:
    moves = []
    before = plan
    for i, step in enumerate(steps):
        expression = f"{step.a} {step.op} {step.b}"
        thought = f"{before} {step.why}: {expression}.".strip()
        if i == 0 and rng.random() < _SLIP_SHARE:
            wrong, remark = _slip(step, unit, rng)
            moves.append(Move(thought, "calculator", {"expression": wrong}, "", planted=True))
            thought = f"{remark}: {expression}."
        moves.append(Move(thought, "calculator", {"expression": expression}, str(step.result)))
        before = step.then
    return moves


def _slip(step: Step, unit: str, rng: random.Random) -> tuple[str, str]:
    """A malformed expression, and what thinking says once the tool has refused it."""
    a, op, b = step.a, step.op, step.b
    return rng.choice(
        (
            (f"{a} {op} {b} {unit}", f"The calculator takes numbers only, without the word {unit.split()[0]}. Again"),
            (f"{a} {op} {b} =", "The expression must not end with an equals sign. Again"),
            (f"{a} {op}", f"The second number, {b}, was missing. Again"),
            (f"{a} {_OPERATOR_WORDS[op]} {b}", f"The calculator wants the sign {op} and no word. Again"),
            (f"({a} {op} {b}", "A bracket was left open. It is not needed"),
        )
    )


def _check(step: Step, rng: random.Random) -> str:
    """The last step backwards, or a look at the size."""
    if step.op == "*" or rng.random() < 0.7:
        back = step.a
        return f"Check: {step.result} {_REVERSED[step.op]} {step.b} = {back}."
    relation = "more" if step.result > step.a else "less"
    return f"Check: {step.result} is {relation} than {step.a}, as it should be."


def _alone(steps: list[Step], plan: str) -> str:
    said = [plan] if plan else []
    said += [f"{step.why}. {work_out(step.a, step.op, step.b)}. {step.then}" for step in steps]
    return " ".join(said)

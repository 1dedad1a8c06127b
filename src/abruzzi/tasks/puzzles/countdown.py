"""Countdown: make a target from a few numbers, each used at most once. The search goes backwards.

    63 from 25, 4, 3. 63 / 3 = 21 from 25, 4: 25+4=29, 25-4=21 yes.

To reach a target one number is taken as the last operand and what is left must be made from the
others; with two numbers their sum, difference, product and quotient are looked at. The trace is the
search as it ran, dead ends included; numbers whose search is long are drawn again. Any right
expression gets the reward (verifiers.Expression); the target is never reached by a smaller
calculation (`Countdown.faults`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .. import language
from ..environments import Arithmetic
from ..phrasing import Bank
from ..task import Move, Unfit
from ..verifiers import Expression
from .draft import PuzzleDraft

LONGEST_SEARCH = 700  # characters
_MOST = 400  # the largest target
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
_SLIP_SHARE = 0.30  # of countdown; about a tenth of the family
_LARGE = (15, 20, 25, 30, 40, 50, 75, 100)


@dataclass(frozen=True)
class Made:
    """A number that was made: how it is written, how tightly its last operator binds, the steps in
    order."""

    value: int
    text: str
    binds: int = 3
    steps: tuple[tuple[int, str, int], ...] = ()

    def joined(self, op: str, other: Made, value: int) -> Made:
        """`self op other`, with brackets where they are needed."""
        left = self.text if self.binds >= _BINDS[op] else f"({self.text})"
        loose = other.binds < _BINDS[op] or (op in "-/" and other.binds == _BINDS[op])
        right = f"({other.text})" if loose else other.text
        steps = (*self.steps, *other.steps, (self.value, op, other.value))
        return Made(value, f"{left} {op} {right}", _BINDS[op], steps)


class Search:
    """One search; `trace` is what thinking says. Raises Unfit when it gets long."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self._length = 0

    def find(self, target: int, numbers: Sequence[int]) -> Made | None:
        """`target` from all or some of `numbers`, which are in descending order."""
        if len(numbers) == 2:
            return self._pair(target, *numbers)
        ways = list(_ways(target, numbers))
        if not ways:
            self._say("no.")
        for n, op, left in ways:
            others = list(numbers)
            others.remove(n)
            self._say(f"{_backwards(target, n, op)} = {left} from {', '.join(map(str, others))}:")
            found = self.find(left, others)
            if found is not None:
                own = Made(n, str(n))
                return own.joined(op[0], found, target) if len(op) > 1 else found.joined(op, own, target)
        return None

    def _pair(self, target: int, a: int, b: int) -> Made | None:
        values = {"+": a + b, "-": a - b, "*": a * b, **({"/": a // b} if a % b == 0 else {})}
        said = []
        for op, value in values.items():
            said.append(f"{a}{op}{b}={value}")
            if value == target:
                self._say(f"{', '.join(said)} yes.")
                return Made(a, str(a)).joined(op, Made(b, str(b)), value)
        self._say(f"{', '.join(said)} no.")
        return None

    def _say(self, text: str) -> None:
        self.trace.append(text)
        self._length += len(text) + 1
        if self._length > LONGEST_SEARCH:
            raise Unfit


def _ways(target: int, numbers: Sequence[int]) -> Iterator[tuple[int, str, int]]:
    """(number, operator, what the others must make), the likely ones first.

    "+" means others + number, "-r" number - others. What the others cannot reach is left out: their
    product is the most that they give, as none of them is 1."""
    product = 1
    for n in numbers:
        product *= n
    ways = [(n, "*", target // n) for n in numbers if target % n == 0]
    ways += [(n, "+", target - n) for n in numbers]
    ways += [(n, "-", target + n) for n in numbers]
    ways += [(n, "-r", n - target) for n in numbers]
    ways += [(n, "/r", n // target) for n in numbers if n % target == 0]
    ways += [(n, "/", target * n) for n in numbers]
    return (way for way in dict.fromkeys(ways) if 2 <= way[2] <= product // way[0])


def _backwards(target: int, n: int, op: str) -> str:
    """The operation undone: what has to be made when `n` comes last."""
    undone = {"*": "/", "+": "-", "-": "+", "/": "*"}
    return f"{n} {op[0]} {target}" if len(op) > 1 else f"{target} {undone[op]} {n}"


@dataclass(frozen=True)
class Countdown:
    """Proof that a target needs more than `fewer` operations, by making everything that so few can
    make."""

    numbers: tuple[int, ...]
    target: int
    fewer: int

    def faults(self, answer: str) -> list[str]:
        for size in range(1, self.fewer + 2):
            for chosen in itertools.combinations(self.numbers, size):
                if Fraction(self.target) in makeable(chosen):
                    return [f"{self.target} can be made from {', '.join(map(str, chosen))} alone"]
        return []


def makeable(numbers: tuple[int, ...]) -> set[Fraction]:
    """Every value that uses each of `numbers` exactly once."""
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    values: set[Fraction] = set()
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in itertools.combinations(range(len(numbers)), size):
            left = makeable(tuple(numbers[i] for i in chosen))
            right = makeable(tuple(n for i, n in enumerate(numbers) if i not in chosen))
            for a, b in itertools.product(left, right):
                values.update((a + b, a - b, b - a, a * b, *((a / b,) if b else ()), *((b / a,) if a else ())))
    return values


def draft(rng: random.Random, bank: Bank, steps: int) -> PuzzleDraft:
    """A countdown of `steps` operations with steps + 1 numbers. Raises Unfit."""
    numbers = tuple(sorted((_number(rng) for _ in range(steps + 1)), reverse=True))
    target = _target(rng, numbers)
    search = Search()
    found = search.find(target, numbers)
    puzzle = Countdown(numbers, target, min(steps - 1, 2))
    if found is None or len(found.steps) != steps or puzzle.faults(found.text):
        raise Unfit
    shown = rng.sample(numbers, len(numbers))
    opening = f"{target} from {', '.join(map(str, numbers))}."
    trace = f"{opening} {' '.join(search.trace)}"
    values = [_value(step) for step in found.steps]
    forward = " ".join(f"{a} {op} {b} = {value}." for (a, op, b), value in zip(found.steps, values))
    moves = _moves(found, values, trace)
    if rng.random() < _SLIP_SHARE:
        moves = _with_try(moves, shown, target, rng)
    question = bank.draw("countdown").format(numbers=language.listed([str(n) for n in shown]), target=target)
    return PuzzleDraft(
        question=question,
        answer=found.text,
        sentence=f"{found.text} = {target}",
        thinking=f"{trace} Forward: {forward} That makes {found.text}.",
        closing=f"That is {values[-1]}, the target. So {found.text}.",
        steps=steps,
        moves=moves,
        environment=Arithmetic(),
        verifier=Expression(tuple(shown), target),
        puzzle=puzzle,
    )


def _number(rng: random.Random) -> int:
    return rng.choice(_LARGE) if rng.random() < 0.25 else rng.randint(2, 12)


def _target(rng: random.Random, numbers: Sequence[int]) -> int:
    """The result of a random calculation with all the numbers. Raises Unfit."""
    value, *others = rng.sample(numbers, len(numbers))
    for n in others:
        op = rng.choice("++-**/")
        if (op == "-" and value < n) or (op == "/" and value % n):
            raise Unfit
        value = {"+": value + n, "-": value - n, "*": value * n, "/": value // n}[op]
    if not 10 <= value <= _MOST or value in numbers:
        raise Unfit
    return value


def _value(step: tuple[int, str, int]) -> int:
    a, op, b = step
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]


def _moves(found: Made, values: Sequence[int], trace: str) -> list[Move]:
    """The solution step by step with the calculator, after the search."""
    moves, before = [], f"{trace} Now with the calculator"
    for (a, op, b), value in zip(found.steps, values):
        expression = f"{a} {op} {b}"
        moves.append(Move(f"{before}: {expression}.", "calculator", {"expression": expression}, str(value)))
        before = f"That is {value}. Then"
    return moves


def _with_try(moves: list[Move], shown: Sequence[int], target: int, rng: random.Random) -> list[Move]:
    """A first try that misses the target, before the search. No try where it would hit."""
    expression, value = str(shown[0]), shown[0]
    for n in shown[1:]:
        op = rng.choice("+*") if "+" not in expression and "-" not in expression else rng.choice("+-")
        value = {"+": value + n, "-": value - n, "*": value * n}[op]
        expression += f" {op} {n}"
    first = moves[0]
    if value in (target, int(first.expect)) or value < 0:
        return moves
    tried = Move(f"First a try: {expression}.", "calculator", {"expression": expression}, "", planted=True)
    after = Move(f"{value} is not {target}. Backwards then: {first.thought}", first.tool, first.arguments, first.expect)
    return [tried, after, *moves[1:]]

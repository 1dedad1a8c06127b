"""A solution while it is being worked out: calls for the tools and workings by hand, from the same
steps.

dates_and_units.py says what is computed; this writes it down twice, as moves and as thinking
without tools.
"""

from __future__ import annotations

import random

from ..task import Move, Unfit
from ..workings import divide, exact, work_out

LARGEST = 99_999


class Worksheet:
    """Moves in order, and what thinking says without tools; `before` opens the next thought."""

    def __init__(self, plan: str = "") -> None:
        self.moves: list[Move] = []
        self.said: list[str] = [plan] if plan else []
        self.before = plan

    def calculate(self, why: str, first: int, *terms: tuple[str, int], then: str) -> int:
        """One call with operations from left to right (sums with 0 left out); gives the result.
        Raises Unfit.

        then: what the result means, with {r} for it."""
        value, expression, workings, lowest = first, str(first), [], True
        for op, n in terms:
            if n == 0 and op in "+-":
                continue
            if op in "*/" and not lowest:
                expression = f"({expression})"
            lowest = op in "*/"
            expression += f" {op} {n}"
            try:
                result = exact(value, op, n)
            except ValueError:
                raise Unfit from None
            workings.append(work_out(value, op, n))
            value = result
        if not workings or not 1 <= value <= LARGEST:
            raise Unfit
        self._call(why, expression, value)
        self._say(why, ". ".join(workings), then.format(r=value))
        return value

    def split(self, why: str, total: int, by: int, rest: str, then: str) -> tuple[int, int]:
        """Whole part and rest of total / by: two calls, one working. `then` takes {q} and {r}.
        Raises Unfit."""
        if total < by:
            raise Unfit
        whole, left = divmod(total, by)
        self._call(why, f"{total} // {by}", whole)
        self.before = f"That is {whole}. {rest}"
        self._call("", f"{total} % {by}", left)
        self._say(why, divide(total, by), then.format(q=whole, r=left))
        return whole, left

    def rest(self, why: str, total: int, by: int, then: str) -> int:
        """The rest of total / by alone: one call. Raises Unfit."""
        if total < by:
            raise Unfit
        left = total % by
        self._call(why, f"{total} % {by}", left)
        self._say(why, divide(total, by), then.format(r=left))
        return left

    def look_up(self, why: str, sql: str, expect: str, says: str) -> None:
        """One query. says: what the table tells, for the thought after it and for thinking without
        tools."""
        self.moves.append(Move(f"{self.before} {why}.".strip(), "table", {"sql": sql}, expect))
        self.said.append(says)
        self.before = says

    def alone(self, end: str) -> str:
        """The whole thinking without tools; `end` is not said twice."""
        return " ".join(self.said if self.said[-1].endswith(end) else [*self.said, end])

    def with_slip(self, rng: random.Random, colon: str | None) -> list[Move]:
        """The moves, with a first call that the tool refuses. colon: a call with times as they are
        written."""
        first, *others = self.moves
        if colon is not None and rng.random() < 0.6:
            remark = f"The calculator cannot read a time with a colon. {first.thought}"
            return [
                Move(f"Take the times as they are: {colon}.", "calculator", {"expression": colon}, "", planted=True),
                Move(remark, first.tool, first.arguments, first.expect),
                *self.moves[1:],
            ]
        key, slip = ("sql", _wrong_query) if first.tool == "table" else ("expression", _wrong_expression)
        wrong, remark = slip(first.arguments[key], rng)
        return [
            Move(first.thought, first.tool, {key: wrong}, "", planted=True),
            Move(remark, first.tool, first.arguments, first.expect),
            *others,
        ]

    def _call(self, why: str, expression: str, result: int) -> None:
        thought = f"{self.before} {why}".strip() + f": {expression}."
        self.moves.append(Move(thought, "calculator", {"expression": expression}, str(result)))

    def _say(self, why: str, working: str, then: str) -> None:
        self.said.append(f"{why}. {working}. {then}")
        self.before = then


def _wrong_expression(right: str, rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            (f"{right} =", f"There must be no equals sign at the end. Again: {right}."),
            (f"({right}", f"A bracket was left open. Again: {right}."),
            (f"{right} in all", f"The calculator takes no words. Again: {right}."),
        )
    )


def _wrong_query(right: str, rng: random.Random) -> tuple[str, str]:
    """A column or a table that was guessed."""
    if "FROM units" in right:
        guessed = rng.choice(("value", "number", "amount"))
        return right.replace("factor", guessed), f"There is no column {guessed}. It is called factor."
    guessed = rng.choice(("calendar", "year", "dates"))
    return right.replace("FROM months", f"FROM {guessed}"), f"There is no table {guessed}. It is called months."

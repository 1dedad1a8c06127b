"""Questions about units: one, two or three conversions with the factors of a small table.

The table `units` holds the factors of a whole chain of units and two of another one, shuffled. Each
function draws a question with its solution (asking.Draft) or raises Unfit.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import language
from ..environments import OneTable
from ..task import Unfit
from .amounts import Chain, chains
from .asking import Asking, Draft, counted, number_draft, plural
from .worksheet import LARGEST, Worksheet


@dataclass(frozen=True)
class Path:
    """Neighbouring units of a chain, from the large one down, with a table that has their
    factors."""

    chain: Chain
    start: int
    length: int
    table: OneTable

    def unit(self, i: int) -> str:
        return self.chain.units[self.start + i][0]

    def factor(self, i: int) -> int:
        return self.chain.factor(self.start + i)


def _drawn_path(asking: Asking, length: int) -> Path:
    """A path of `length` conversions, and a table with these, more of the same chain, and some of
    another one."""
    rng = asking.rng
    chain = rng.choice([c for c in chains() if len(c.units) > length])
    start = rng.randint(0, len(chain.units) - 1 - length)
    words = {unit for unit, _ in chain.units}
    others = [c for c in chains() if not words & {unit for unit, _ in c.units}]
    rows = [*_rows(chain), *rng.sample(_rows(rng.choice(others)), 2)]
    rng.shuffle(rows)
    return Path(chain, start, length, OneTable("units", ("big", "factor", "small"), tuple(rows)))


def _rows(chain: Chain) -> list[tuple[str, int, str]]:
    return [(big, factor, small) for (big, factor), (small, _) in zip(chain.units, chain.units[1:])]


def _look_up_factors(asking: Asking, sheet: Worksheet, path: Path, order: list[int], joint: bool) -> None:
    """The factors of a path: in one query (rows come as the table has them), or one after the
    other."""
    says = {i: f"One {path.unit(i)} is {counted(path.factor(i), path.unit(i + 1))}." for i in order}
    if joint and len(order) > 1:
        units = ", ".join(f"'{path.unit(i)}'" for i in order)
        wanted = [(path.unit(i), path.factor(i), path.unit(i + 1)) for i in order]
        rows = "\n".join("|".join(map(str, row)) for row in path.table.rows if row in wanted)
        sql = f"SELECT big, factor, small FROM units WHERE big IN ({units})"
        why = f"I need the factors of {language.listed([path.unit(i) for i in order])}"
        return sheet.look_up(why, sql, rows, " ".join(says.values()))
    for i in order:
        sql = f"SELECT factor FROM units WHERE big = '{path.unit(i)}' AND small = '{path.unit(i + 1)}'"
        why = f"I need the factor from {path.unit(i)} to {path.unit(i + 1)}"
        sheet.look_up(why, sql, str(path.factor(i)), says[i])
    return None


def _told(asking: Asking, path: Path, amount: str) -> str:
    return asking.bank.draw(path.chain.kind).format(x=amount)


def _ask_units(asking: Asking, kind: str, path: Path, amount: str, target: str, **slots: object) -> str:
    """A question about units; the chain's sentence is drawn only where the phrasing tells it."""
    text = asking.bank.draw(kind)
    if "{told}" in text:
        slots["told"] = _told(asking, path, amount)
    return language.sentence_case(text.format(x=amount, smalls=plural(target), **slots))


def _convert(asking: Asking, length: int, joint: bool, kind: str) -> Draft:
    """From a large unit to a small one. kind: convert, mixed (a second unit added) or left (one
    taken away)."""
    rng, path = asking.rng, _drawn_path(asking, length)
    n, target = rng.randint(2, 60), path.unit(length)
    sheet = Worksheet(f"Plan: {', then '.join(plural(path.unit(i)) for i in range(length + 1))}.")
    _look_up_factors(asking, sheet, path, list(range(length)), joint)
    amount, value, more = counted(n, path.unit(0)), n, 0
    slots: dict[str, object] = {}
    if kind == "mixed":
        if path.factor(0) < 3:
            raise Unfit  # nobody says "3 gallons and 4 half gallons"
        more = rng.randint(2, path.factor(0) - 1)
        amount = f"{amount} and {counted(more, path.unit(1))}"
    elif kind == "left":
        more = rng.randint(2, 99)
        slots["y"] = counted(more, target)
    check = ""
    for i in range(length):
        terms = [("*", path.factor(i))]
        if kind == "mixed" and i == 0:
            terms.append(("+", more))
        if kind == "left" and i == length - 1:
            terms.append(("-", more))
        unit = plural(path.unit(i + 1))
        before = value
        value = sheet.calculate(
            f"{counted(value, path.unit(i))} in {unit}", value, *terms, then=f"That is {{r}} {unit}."
        )
        check = f"Check: {value} / {path.factor(i)} = {before}."
        if len(terms) > 1:
            back = {"+": "-", "-": "+"}[terms[1][0]]
            check = f"Check: {value} {back} {more} = {before * path.factor(i)}."
    question = _ask_units(asking, kind, path, amount, target, **slots)
    return number_draft(question, sheet, value, target, check, table=path.table)


def _convert_up(asking: Asking, length: int, joint: bool) -> Draft:
    """From a small unit to a large one, without a rest."""
    path = _drawn_path(asking, length)
    value = result = asking.rng.randint(2, 60)
    for i in range(length):
        value *= path.factor(i)
    if value > LARGEST:
        raise Unfit
    amount, order = counted(value, path.unit(length)), list(reversed(range(length)))
    sheet = Worksheet(f"Plan: {', then '.join(plural(path.unit(i)) for i in (length, *order))}.")
    _look_up_factors(asking, sheet, path, order, joint)
    check = ""
    for i in order:
        unit = plural(path.unit(i))
        before = value
        value = sheet.calculate(
            f"{counted(value, path.unit(i + 1))} in {unit}",
            value,
            ("/", path.factor(i)),
            then=f"That is {{r}} {unit}.",
        )
        check = f"Check: {value} * {path.factor(i)} = {before}."
    question = _ask_units(asking, "convert", path, amount, path.unit(0))
    return number_draft(question, sheet, result, path.unit(0), check, table=path.table)


def unit_question(asking: Asking) -> Draft:
    """One or two conversions, with a second amount or without."""
    length, joint = asking.rng.choice((1, 2)), asking.rng.random() < 0.6
    if asking.rng.random() < 0.3:
        return _convert_up(asking, length, joint)
    return _convert(asking, length, joint, asking.rng.choice(("convert", "mixed", "left")))


def unit_chain(asking: Asking) -> Draft:
    """Three conversions."""
    if asking.rng.random() < 0.3:
        return _convert_up(asking, 3, joint=False)
    return _convert(asking, 3, False, asking.rng.choice(("convert", "mixed", "left")))

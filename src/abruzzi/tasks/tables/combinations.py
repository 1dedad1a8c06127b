"""Questions about a table that combine its numbers: SQL looks them up, the calculator computes.

    What is the difference between the lamp and the tent in price?     two lookups, then 90 - 34

Each function draws a question with its solution (draft.Draft) or raises Unfit.
"""

from __future__ import annotations

from .. import language
from ..phrasing import text_id
from ..task import Move, Unfit
from ..workings import exact, sum_up, work_out
from .draft import Draft
from .queries import sum_of
from .sheet import Row, Sheet


def difference(sheet: Sheet) -> Draft:
    """How far two rows are apart."""
    low, high = sorted(sheet.rng.sample(sheet.rows, 2), key=sheet.number)
    a, b, noun = sheet.number(high), sheet.number(low), sheet.words.noun
    move, result = _calculate(f"{sheet.capital(sheet.the(high))} has {a}, {sheet.the(low)} {b}", a, "-", b)
    return Draft(
        question=sheet.ask("difference", x=sheet.the(high), y=sheet.the(low)),
        answer=str(result),
        sentence=f"The difference in {noun} is {result}.",
        alone=f"{sheet.says(high)} {sheet.says(low)} {work_out(a, '-', b)}. The difference is {result}.",
        closing=f"The difference is {result}. Check: {result} + {b} = {a}.",
        moves=[*sheet.lookups([high, low]), move],
    )


def spread(sheet: Sheet) -> Draft:
    """How far the highest and the lowest number are apart."""
    low, high = (pick(sheet.rows, key=sheet.number) for pick in (min, max))
    a, b, column = sheet.number(high), sheet.number(low), sheet.measure.column
    move, result = _calculate(f"The highest is {a} and the lowest {b}", a, "-", b)
    thought = f"I need the highest and the lowest {sheet.words.noun}."
    said = f"{sheet.read_out(sheet.rows)}. The highest is {a} and the lowest {b}."
    return Draft(
        question=sheet.ask("range"),
        answer=str(result),
        sentence=f"The highest and the lowest {sheet.words.noun} differ by {result}.",
        alone=f"{said} {work_out(a, '-', b)}. They differ by {result}.",
        closing=f"They differ by {result}. Check: {result} + {b} = {a}.",
        moves=[Move(thought, "table", sheet.select(f"MAX({column}), MIN({column})"), f"{a}|{b}"), move],
    )


def groups_apart(sheet: Sheet) -> Draft:
    """How far the sums of two groups are apart."""
    members: dict[str, list[Row]] = {}
    for row in sheet.rows:
        members.setdefault(str(row[sheet.theme.group]), []).append(row)
    if len(members) < 2:
        raise Unfit
    totals = {g: sum(map(sheet.number, rows)) for g, rows in members.items()}
    low, high = sorted(sheet.rng.sample(sorted(totals), 2), key=totals.__getitem__)
    a, b = totals[high], totals[low]
    if a == b:
        raise Unfit
    move, result = _calculate(f"The group {low} has {b}. Take that from {a}", a, "-", b)
    said = [
        f"{g}: {sheet.read_out(members[g])}. "
        + (f"{sum_up(list(map(sheet.number, members[g])))}. " if len(members[g]) > 1 else "")
        for g in (high, low)
    ]
    return Draft(
        question=sheet.ask("groups_apart", group=sheet.of_group(high), group2=sheet.of_group(low)),
        answer=str(result),
        sentence=f"The difference between the two totals is {result}.",
        alone=f"{''.join(said)}{work_out(a, '-', b)}. The difference is {result}.",
        closing=f"The difference is {result}. Check: {result} + {b} = {a}.",
        moves=[
            sum_of(sheet, high, a, "Two totals and their difference."),
            sum_of(sheet, low, b, f"The group {high} has {a}."),
            move,
        ],
    )


def follow_up(sheet: Sheet) -> Draft:
    """A question of the theme's own that goes on with a row's number."""
    row, measure = sheet.rng.choice(sheet.rows), sheet.measure
    kind, text = sheet.rng.choice(measure.follow_up)
    value = sheet.number(row)
    if value < 4:
        raise Unfit
    if kind == "times":
        n = sheet.rng.randint(2, 15)
        (a, op, b), why = (n, "*", value), f"{n} times that"
    elif kind == "minus":
        n = sheet.rng.randint(2, value - 2)
        (a, op, b), why = (value, "-", n), f"Take {n} away"
    else:
        n = value + sheet.rng.randint(3, max(9, value))
        (a, op, b), why = (n, "-", value), f"From {value} up to {n}"
    sheet.bank.used.append(f"follow_up.{text_id(text)}")
    move, result = _calculate(f"The {sheet.words.noun} is {value}. {why}", a, op, b)
    unit = "" if measure.unit == "pieces" else f" {measure.unit}"
    return Draft(
        question=language.sentence_case(text.format(x=sheet.the(row), n=n)),
        answer=str(result),
        sentence=f"That is {result}{unit}." if kind == "times" else f"It is {result}{unit}.",
        alone=f"The {sheet.words.noun} of {sheet.the(row)} is {value}. {why}. {work_out(a, op, b)}. So it is {result}.",
        closing=f"That gives {result}.",
        moves=[sheet.lookup(row), move],
    )


def three(sheet: Sheet) -> Draft:
    """Three rows added up, and a number taken away."""
    rows = sheet.rng.sample(sheet.rows, 3)
    x, y, z = (sheet.number(row) for row in rows)
    n = sheet.rng.randint(2, x + y + z - 2)
    first, both = _calculate(f"{sheet.says(rows[2])} Now add them up", x, "+", y)
    second, total = _calculate(f"That is {both}. Add the third number", both, "+", z)
    third, result = _calculate(f"The sum is {total}. Take {n} away", total, "-", n)
    said = " ".join(map(sheet.says, rows))
    labels = {k: sheet.the(row) for k, row in zip("xyz", rows)}
    moves = sheet.lookups(rows)
    if len(moves) > 1:
        raise Unfit  # six calls: more than this split means
    return Draft(
        question=sheet.ask("three", n=n, **labels),
        answer=str(result),
        sentence=f"What remains is {result}.",
        alone=f"{said} {sum_up([x, y, z])}. {work_out(total, '-', n)}. What remains is {result}.",
        closing=f"That leaves {result}. Check: {result} + {n} = {total}.",
        moves=[*moves, first, second, third],
    )


def extremes(sheet: Sheet) -> Draft:
    """The highest and the lowest number, each several times."""
    low, high = (pick(map(sheet.number, sheet.rows)) for pick in (min, max))
    n, m = sheet.rng.sample(range(2, 13), 2)
    column, noun = sheet.measure.column, sheet.words.noun
    first, top = _calculate(f"The highest is {high} and the lowest {low}. First {n} times {high}", n, "*", high)
    second, bottom = _calculate(f"That is {top}. Then {m} times {low}", m, "*", low)
    third, result = _calculate(f"That is {bottom}. Both together", top, "+", bottom)
    query = Move(
        f"I need the highest and the lowest {noun}.",
        "table",
        sheet.select(f"MAX({column}), MIN({column})"),
        f"{high}|{low}",
    )
    said = f"{sheet.read_out(sheet.rows)}. The highest is {high} and the lowest {low}."
    sums = f"{work_out(n, '*', high)}. {work_out(m, '*', low)}. {work_out(top, '+', bottom)}."
    return Draft(
        question=sheet.ask("extremes", n=n, m=m),
        answer=str(result),
        sentence=f"Together that is {result}.",
        alone=f"{said} {sums} Together that is {result}.",
        closing=f"Together that is {result}. Check: {result} - {bottom} = {top}.",
        moves=[query, first, second, third],
    )


def weighted(sheet: Sheet) -> Draft:
    """Two rows, each several times."""
    rows = sheet.rng.sample(sheet.rows, 2)
    x, y = (sheet.number(row) for row in rows)
    n, m = sheet.rng.sample(range(2, 13), 2)
    first, nx = _calculate(f"{sheet.says(rows[1])} First {n} times {x}", n, "*", x)
    second, my = _calculate(f"That is {nx}. Then {m} times {y}", m, "*", y)
    third, result = _calculate(f"That is {my}. Both together", nx, "+", my)
    sums = f"{work_out(n, '*', x)}. {work_out(m, '*', y)}. {work_out(nx, '+', my)}."
    return Draft(
        question=sheet.ask("weighted", n=n, m=m, x=sheet.the(rows[0]), y=sheet.the(rows[1])),
        answer=str(result),
        sentence=f"The sum is {result}.",
        alone=f"{' '.join(map(sheet.says, rows))} {sums} The sum is {result}.",
        closing=f"The sum is {result}. Check: {result} - {my} = {nx}.",
        moves=[*sheet.lookups(rows), first, second, third],
    )


def _calculate(thought: str, a: int, op: str, b: int) -> tuple[Move, int]:
    try:
        result = exact(a, op, b)
    except ValueError:
        raise Unfit from None
    return Move(f"{thought}: {a} {op} {b}.", "calculator", {"expression": f"{a} {op} {b}"}, str(result)), result

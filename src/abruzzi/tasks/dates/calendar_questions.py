"""Questions about the calendar: weekdays by whole weeks, dates by the number of the day in its
year.

The table `months` of a year says how many days lie before each month. Each function draws a
question with its solution (asking.Draft) or raises Unfit. The days of a month come from Python's
calendar; everything else is computed from the table, as the tools do.
"""

from __future__ import annotations

import calendar

from .. import language
from ..environments import OneTable
from ..task import Unfit
from ..verifiers import MONTHS, Day, Named
from .asking import WEEKDAYS, Asking, Draft, number_draft
from .worksheet import Worksheet


def months_of(year: int) -> OneTable:
    """The table months of a year: how many days each has, and how many lie before it."""
    rows, before = [], 0
    for number, name in enumerate(MONTHS, 1):
        days = calendar.monthrange(year, number)[1]
        rows.append((name, days, before))
        before += days
    return OneTable("months", ("month", "days", "days_before"), tuple(rows))


def weekday(asking: Asking, back: bool = False) -> Draft:
    today, n = asking.rng.randrange(7), asking.rng.randint(8, 150)
    sheet = Worksheet()
    sheet.rest("Whole weeks change nothing, the rest of a division by 7 counts", n, 7, "The rest is {r}.")
    question = asking.ask("weekday_ago" if back else "weekday", w=WEEKDAYS[today], n=n)
    return _falls_on(question, sheet, today, n % 7, -1 if back else 1)


def weekday_ago(asking: Asking) -> Draft:
    return weekday(asking, back=True)


def _falls_on(question: str, sheet: Worksheet, today: int, rest: int, way: int, table: OneTable | None = None) -> Draft:
    """The draft of a question whose answer is a weekday, counted from `today` by `rest` days."""
    steps = [WEEKDAYS[(today + way * n) % 7] for n in range(1, rest + 1)]
    day = steps[-1] if steps else WEEKDAYS[today]
    verb = "After" if way > 0 else "Before"
    comes = "comes" if rest == 1 else "come"
    end = f"{verb} {WEEKDAYS[today]} {comes} {', '.join(steps)}." if steps else f"So it is {day} again."
    closing = f"The rest is {rest}. {end}"
    verifier = Named((day,), tuple(w for w in WEEKDAYS if w != day))
    return Draft(question, sheet, day, f"It is a {day}.", closing, end, verifier, table, constants=(7,))


def _drawn_dates(asking: Asking) -> tuple[int, OneTable, tuple[int, int], tuple[int, int]]:
    """A year, its months, and two days in different months of it, in order."""
    year = asking.rng.randint(2021, 2039)
    table = months_of(year)
    first, second = ((m, asking.rng.randint(1, int(table.rows[m][1]))) for m in sorted(asking.rng.sample(range(12), 2)))
    return year, table, first, second


def _dated(month: int, day: int) -> str:
    return f"{day} {MONTHS[month]}"


def _day_before(table: OneTable, month: int) -> int:
    return int(table.rows[month][2])


def _look_up_months(sheet: Worksheet, table: OneTable, months: list[int], joint: bool) -> None:
    """How many days lie before each month: in one query, or one after the other."""
    says = [f"Before {MONTHS[m]} lie {_day_before(table, m)} days." for m in months]
    if joint:
        names = ", ".join(f"'{MONTHS[m]}'" for m in months)
        rows = "\n".join(f"{MONTHS[m]}|{_day_before(table, m)}" for m in months)
        sql = f"SELECT month, days_before FROM months WHERE month IN ({names})"
        why = f"I need the days before {language.listed([MONTHS[m] for m in months])}"
        return sheet.look_up(why, sql, rows, " ".join(says))
    for m, said in zip(months, says):
        sql = f"SELECT days_before FROM months WHERE month = '{MONTHS[m]}'"
        sheet.look_up(f"I need the days before {MONTHS[m]}", sql, str(_day_before(table, m)), said)
        sheet.before = said
    return None


def _apart(asking: Asking, joint: bool) -> tuple[Worksheet, int, OneTable, tuple[int, int], tuple[int, int], int, int]:
    """Two dates and the days between them: sheet, year, table, dates, the first one's number, the
    difference."""
    year, table, first, second = _drawn_dates(asking)
    sheet = Worksheet("Plan: number the days of the year, then take the difference.")
    _look_up_months(sheet, table, [first[0], second[0]], joint)
    numbers = [_day_before(table, m) for m, _ in (first, second)]
    if first[0] == 0:  # nothing lies before January
        start = first[1]
        sheet.before = f"{sheet.before} {_dated(*first)} is day {start}."
        sheet.said.append(f"{_dated(*first)} is day {start}.")
    else:
        start = sheet.calculate(
            f"The number of {_dated(*first)}",
            numbers[0],
            ("+", first[1]),
            then=f"{_dated(*first)} is day {{r}}.",
        )
    apart = sheet.calculate(
        f"The number of {_dated(*second)}, minus {start}",
        numbers[1],
        *(("+", second[1]), ("-", start)),
        then="That is {r} days later.",
    )
    return sheet, year, table, first, second, start, apart


def days_between(asking: Asking) -> Draft:
    sheet, year, table, first, second, start, apart = _apart(asking, joint=asking.rng.random() < 0.6)
    question = asking.ask("days_between", d=_dated(*first), e=_dated(*second), y=year)
    check = f"Check: {start} + {apart} = {start + apart}."
    return number_draft(question, sheet, apart, "day", check, table=table)


def weekday_of(asking: Asking) -> Draft:
    sheet, year, table, first, second, _, apart = _apart(asking, joint=False)
    today = calendar.weekday(year, first[0] + 1, first[1])
    sheet.rest("Whole weeks change nothing, the rest of a division by 7 counts", apart, 7, "The rest is {r}.")
    question = asking.ask("weekday_of", d=_dated(*first), e=_dated(*second), y=year, w=WEEKDAYS[today])
    return _falls_on(question, sheet, today, apart % 7, 1, table=table)


def date_after(asking: Asking) -> Draft:
    year, table, (month, day), _ = _drawn_dates(asking)
    n = asking.rng.randint(8, 200)
    before = _day_before(table, month)
    total = before + day + n
    if not before or total > 365:
        raise Unfit
    sheet = Worksheet("Plan: the number of the day in the year, add, then find the month.")
    _look_up_months(sheet, table, [month], joint=False)
    then = "It is day {r} of the year."
    sheet.calculate(f"Add the {day} and the {n}", before, ("+", day), ("+", n), then=then)
    at = max(m for m in range(12) if _day_before(table, m) < total)
    sql = f"SELECT month, days_before FROM months WHERE days_before < {total} ORDER BY days_before DESC LIMIT 1"
    says = f"The last month with fewer days before it is {MONTHS[at]}, with {_day_before(table, at)}."
    sheet.look_up(f"I need the month of day {total}", sql, f"{MONTHS[at]}|{_day_before(table, at)}", says)
    result = sheet.calculate("The day of that month", total, ("-", _day_before(table, at)), then="That leaves {r}.")
    date = _dated(at, result)
    question = asking.ask("date_after", n=n, d=_dated(month, day), y=year)
    check = f"Check: {_day_before(table, at)} + {result} = {total}."
    end = f"So it is {date}."
    verifier = Day(at + 1, result)
    return Draft(question, sheet, date, f"It is {date}.", f"{end} {check}", end, verifier, table)

"""Questions about the clock: how many minutes between two times, what time it is after or before.

Every time is counted in minutes since midnight; a result goes back by a division with a rest. Each
function draws a question with its solution (asking.Draft) or raises Unfit.
"""

from __future__ import annotations

from ..task import Unfit
from ..verifiers import Clock, clock
from .asking import DAY, WEEKDAYS, Asking, Draft, counted, number_draft
from .worksheet import Worksheet


def _span(hours: int, minutes: int) -> str:
    parts = [counted(n, unit) for n, unit in ((hours, "hour"), (minutes, "minute")) if n]
    return " and ".join(parts)


def _minute_of_day(sheet: Worksheet, time: int, *more: tuple[str, int], why: str = "", then: str = "") -> int:
    """`time` as minutes since midnight, perhaps with something added or taken away in the same
    call."""
    why = why or f"{clock(time)} in minutes of the day"
    then = then or f"{clock(time)} is minute {{r}}."
    return sheet.calculate(why, time // 60, ("*", 60), ("+", time % 60), *more, then=then)


def _timed(question: str, sheet: Worksheet, total: int, colon: str | None = None, extra: tuple[int, ...] = ()) -> Draft:
    """The draft of a question whose answer is a time of day, with the calls that turn minutes into
    it."""
    sheet.split("Full hours", total, 60, "The rest are minutes", "So {q} hours and {r} minutes.")
    time, end = clock(total), f"So it is {clock(total)}."
    check = f"Check: {total // 60} * 60 + {total % 60} = {total}."
    sentence, constants = f"It is {time}.", (*extra, 24, 60)
    return Draft(question, sheet, time, sentence, f"{end} {check}", end, Clock(total), None, constants, colon)


def minutes_in(asking: Asking) -> Draft:
    hours, minutes = asking.rng.randint(2, 29), asking.rng.randint(1, 59)
    sheet = Worksheet()
    total = sheet.calculate(
        f"{hours} hours of 60 minutes, and {minutes} more", hours, ("*", 60), ("+", minutes), then="That makes {r}."
    )
    question = asking.ask("minutes_in", span=_span(hours, minutes))
    return number_draft(
        question, sheet, total, "minute", f"Check: {total} - {minutes} = {hours * 60}.", constants=(60,)
    )


def days_in(asking: Asking) -> Draft:
    weeks, days = asking.rng.randint(3, 60), asking.rng.randint(2, 6)
    sheet = Worksheet()
    total = sheet.calculate(
        f"{weeks} weeks of 7 days, and {days} more", weeks, ("*", 7), ("+", days), then="That makes {r}."
    )
    question = asking.ask("days_in", span=f"{weeks} weeks and {days} days")
    return number_draft(question, sheet, total, "day", f"Check: {total} - {days} = {weeks * 7}.", constants=(7,))


def until(asking: Asking) -> Draft:
    start = asking.time(6 * 60, 20 * 60)
    end = asking.time(start + 10)
    sheet = Worksheet("Plan: both times in minutes of the day, then the difference.")
    first = _minute_of_day(sheet, start)
    length = _minute_of_day(
        sheet, end, ("-", first), why=f"{clock(end)} in minutes, minus {first}", then="That is {r}."
    )
    question = asking.ask("until", t=clock(start), u=clock(end))
    check, colon = f"Check: {first} + {length} = {end}.", f"{clock(end)} - {clock(start)}"
    return number_draft(question, sheet, length, "minute", check, constants=(24, 60), colon=colon)


def overnight(asking: Asking) -> Draft:
    start, end = asking.time(19 * 60, 23 * 60 + 55), asking.time(4 * 60, 10 * 60)
    sheet = Worksheet("Plan: the minutes until midnight, then those after it.")
    first = _minute_of_day(sheet, start)
    rest = sheet.calculate("A day has 24 hours", 24, ("*", 60), ("-", first), then="{r} minutes until midnight.")
    length = _minute_of_day(
        sheet, end, ("+", rest), why=f"{clock(end)} in minutes, and the {rest}", then="Together {r}."
    )
    question = asking.ask("overnight", t=clock(start), u=clock(end))
    check, colon = f"Check: {length} - {rest} = {end}.", f"{clock(end)} - {clock(start)}"
    return number_draft(question, sheet, length, "minute", check, constants=(24, 60), colon=colon)


def _drawn_span(asking: Asking, most: int) -> tuple[int, int, bool]:
    """A duration of 10 to `most` minutes: hours, minutes, and whether it is told in minutes alone.
    Raises Unfit."""
    length = asking.time(10, most)
    if length < 180 and asking.rng.random() < 0.6:
        return 0, length, True
    return length // 60, length % 60, length < 60


def _in_minutes(sheet: Worksheet, hours: int, minutes: int, then: str = "That takes {r} minutes.") -> int:
    """A duration told in hours as minutes; no call when it was told in minutes."""
    if not hours:
        return minutes
    return sheet.calculate(f"{_span(hours, minutes)} in minutes", hours, ("*", 60), ("+", minutes), then=then)


def after(asking: Asking) -> Draft:
    start = asking.time(6 * 60, 22 * 60)
    hours, minutes, _ = _drawn_span(asking, min(5 * 60, DAY - 1 - start))
    sheet = Worksheet("Plan: count minutes of the day, add, then back to hours.")
    length = _in_minutes(sheet, hours, minutes)
    why, then = f"{clock(start)} in minutes, and {length} more", "The time is minute {r}."
    total = _minute_of_day(sheet, start, ("+", length), why=why, then=then)
    question = asking.ask("after", t=clock(start), span=_span(hours, minutes))
    return _timed(question, sheet, total, colon=None if hours else f"{clock(start)} + {length}")


def before(asking: Asking) -> Draft:
    end = asking.time(first=6 * 60)
    hours, minutes, _ = _drawn_span(asking, min(5 * 60, end - 60))
    sheet = Worksheet("Plan: count minutes of the day, take away, then back to hours.")
    length = _in_minutes(sheet, hours, minutes)
    why, then = f"{clock(end)} in minutes, less {length}", "The time is minute {r}."
    total = _minute_of_day(sheet, end, ("-", length), why=why, then=then)
    question = asking.ask("before", t=clock(end), span=_span(hours, minutes))
    return _timed(question, sheet, total, colon=None if hours else f"{clock(end)} - {length}")


def past_midnight(asking: Asking) -> Draft:
    start, total = asking.time(17 * 60), asking.time(60, 11 * 60)
    length = DAY + total - start
    if not 60 <= length < 600:
        raise Unfit
    sheet = Worksheet("Plan: minutes of the day, add, take away the 24 * 60 = 1440 of a whole day.")
    why, then = f"{clock(start)} in minutes, and {length} more, less 1440", "It is minute {r} of the next day."
    _minute_of_day(sheet, start, ("+", length), ("-", DAY), why=why, then=then)
    question = asking.ask("past_midnight", t=clock(start), span=f"{length} minutes")
    return _timed(question, sheet, total, colon=f"{clock(start)} + {length}", extra=(DAY,))


def moments(asking: Asking) -> Draft:
    first, last = sorted(asking.rng.sample(range(7), 2))
    start, end = asking.time(), asking.time()
    days = last - first
    sheet = Worksheet(_days_later(first, last))
    minute = _minute_of_day(sheet, start)
    why, number, *factors = (f"{days} days of 24 hours", days, 24, 60) if days > 1 else ("A day of 24 hours", 24, 60)
    whole = sheet.calculate(why, number, *(("*", n) for n in factors), then="That is {r} minutes.")
    why, then = f"{clock(end)} in minutes, and the {whole}", "Up to there {r} minutes."
    upto = _minute_of_day(sheet, end, ("+", whole), why=why, then=then)
    length = sheet.calculate(f"Take {minute} away", upto, ("-", minute), then="That leaves {r}.")
    question = asking.ask("moments", w=WEEKDAYS[first], t=clock(start), v=WEEKDAYS[last], u=clock(end))
    return number_draft(
        question,
        sheet,
        length,
        "minute",
        f"Check: {length} + {minute} = {upto}.",
        constants=(24, 60, days),  # days are counted on one's fingers; see _days_later
        colon=f"{clock(end)} - {clock(start)}",
    )


def _days_later(first: int, last: int) -> str:
    """The days after `first` up to `last`, named one after the other, and how many they are."""
    named, days = [WEEKDAYS[n] for n in range(first + 1, last + 1)], last - first
    return f"After {WEEKDAYS[first]} {'comes' if days == 1 else 'come'} {', '.join(named)}: {counted(days, 'day')}."


def shift(asking: Asking) -> Draft:
    rng = asking.rng
    k, n, b = rng.randint(3, 8), rng.choice((25, 30, 35, 40, 45, 50, 60, 75, 90)), rng.randint(5, 25)
    start = asking.time(7 * 60 + 30, 10 * 60)
    if start + k * n + (k - 1) * b >= DAY:
        raise Unfit
    sheet = Worksheet("Plan: the time of all parts, the breaks, the sum, then back to hours.")
    parts = sheet.calculate(f"{k} times {n} minutes", k, ("*", n), then="The parts take {r} minutes.")
    breaks = sheet.calculate("One break fewer than parts", k, ("-", 1), ("*", b), then="The breaks take {r}.")
    total = _minute_of_day(
        sheet,
        start,
        *(("+", parts), ("+", breaks)),
        why=f"{clock(start)} in minutes, and both",
        then="The end is minute {r}.",
    )
    return _timed(asking.ask("shift", t=clock(start), k=k, n=n, b=b), sheet, total, extra=(1,))


def sessions(asking: Asking) -> Draft:
    a, b, c, d = sorted(asking.time(6 * 60, 22 * 60) for _ in range(4))
    if min(b - a, c - b, d - c) < 15:
        raise Unfit
    sheet = Worksheet("Plan: the minutes of each part, then the sum.")
    lengths = []
    for start, end in ((a, b), (c, d)):
        first = _minute_of_day(sheet, start)
        why = f"{clock(end)} in minutes, minus {first}"
        lengths.append(_minute_of_day(sheet, end, ("-", first), why=why, then="That part is {r} minutes."))
    total = sheet.calculate("Both parts", lengths[0], ("+", lengths[1]), then="Together {r}.")
    question = asking.ask("sessions", t=clock(a), u=clock(b), v=clock(c), w=clock(d))
    check, colon = f"Check: {total} - {lengths[1]} = {lengths[0]}.", f"{clock(b)} - {clock(a)}"
    return number_draft(question, sheet, total, "minute", check, constants=(24, 60), colon=colon)


def legs(asking: Asking) -> Draft:
    start, n = asking.time(6 * 60, 14 * 60), asking.rng.randint(5, 45)
    spans = [_drawn_span(asking, 280)[:2] for _ in range(2)]
    sheet = Worksheet("Plan: all parts in minutes, their sum, then the time.")
    lengths = [_in_minutes(sheet, *span) for span in spans]
    way = sheet.calculate("All parts", lengths[0], ("+", n), ("+", lengths[1]), then="The whole takes {r} minutes.")
    why, then = f"{clock(start)} in minutes, and {way} more", "The time is minute {r}."
    total = _minute_of_day(sheet, start, ("+", way), why=why, then=then)
    if total >= DAY:
        raise Unfit
    question = asking.ask("legs", t=clock(start), span=_span(*spans[0]), n=n, span2=_span(*spans[1]))
    return _timed(question, sheet, total)

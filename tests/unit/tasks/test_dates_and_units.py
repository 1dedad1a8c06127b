"""Dates, times and units read a second time: from the question's words, with datetime and Fraction.

The reader knows which phrasing a question is made of and takes its times, dates and amounts from
the slots; it sees neither the generator's steps nor its tables. Factors between units are stated
here once more.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, timedelta
from fractions import Fraction

import pytest

from abruzzi.tasks import SPLITS, GoldError, Split, Task, make
from abruzzi.tasks.audit import audit
from abruzzi.tasks.dates.amounts import chains
from abruzzi.tasks.dates.calendar_questions import months_of
from abruzzi.tasks.phrasing import bank
from abruzzi.tasks.verifiers import Clock, Day, Named
from tests.unit.tasks.filled import phrasing, slots

CLOCK, CALENDAR, UNITS = (bank(f"dates/{name}") for name in ("clock", "calendar", "units"))
SEEDS = 250
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
# Every unit in the smallest of its kind. A pound is money beside shillings and pence, else weight.
SIZES = {
    **{"league": 190080, "mile": 63360, "furlong": 7920, "chain": 792, "yard": 36, "feet": 12, "foot": 12, "inch": 1},
    **{"kilometre": 1000000, "metre": 1000, "centimetre": 10, "millimetre": 1},
    **{"hundredweight": 1792, "stone": 224, "pound": 16, "ounce": 1},
    **{"tonne": 1000000, "kilogram": 1000, "gram": 1},
    **{"bushel": 6144, "peck": 1536, "gallon": 768, "quart": 192, "pint": 96, "cup": 48, "tablespoon": 3},
    **{"teaspoon": 1, "fortnight": 1209600, "week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1},
    **{
        "shilling": 12,
        "penny": 1,
        "pence": 1,
        "ream": 500,
        "quire": 25,
        "sheet": 1,
        "gross": 144,
        "dozen": 12,
        "egg": 1,
    },
}
UNIT = re.compile(rf"\b({'|'.join(SIZES)})(?:s|es)?\b")


def minutes(text: str) -> list[int]:
    return [int(h) * 60 + int(m) for h, m in re.findall(r"(\d+):(\d\d)", text)]


def spans(text: str) -> list[int]:
    found = re.findall(r"(\d+) hours?(?: and (\d+) minutes?)?|(?<!and )\b(\d+) minutes?", text)
    return [int(h or 0) * 60 + int(m or alone or 0) for h, m, alone in found]


def number(text: str) -> int:
    (found,) = re.findall(r"\d+", text)  # a frame may stand before it
    return int(found)


def day(text: str, year: str) -> date:
    found = re.search(r"\d+ [A-Z][a-z]+", text)
    assert found
    return datetime.strptime(f"{found[0]} {year}", "%d %B %Y").date()


def weekday(text: str) -> int:
    (found,) = re.findall("|".join(WEEKDAYS), text)
    return WEEKDAYS.index(found)


def time_after(start: int, length: int) -> str:
    moment = datetime(2030, 1, 1) + timedelta(minutes=start + length)
    return f"{moment.hour}:{moment:%M}"


def clock_answer(kind: str, slot: dict[str, str]) -> str:
    times = {name: minutes(text)[0] for name, text in slot.items() if re.search(r"\d:\d\d", text)}
    lengths = {name: spans(slot[name])[0] for name in ("span", "span2") if name in slot and kind != "days_in"}
    if kind == "minutes_in":
        return str(lengths["span"])
    if kind == "days_in":
        weeks, extra = map(int, re.findall(r"(\d+) (?:weeks|days)", slot["span"]))
        return str(timedelta(weeks=weeks, days=extra).days)
    if kind in ("until", "overnight"):
        apart = timedelta(minutes=times["u"]) - timedelta(minutes=times["t"]) + timedelta(days=kind == "overnight")
        return str(apart // timedelta(minutes=1))
    if kind == "sessions":
        return str(times["u"] - times["t"] + times["w"] - times["v"])
    if kind == "moments":
        first, second = (timedelta(days=weekday(slot[w]), minutes=times[t]) for w, t in (("w", "t"), ("v", "u")))
        return str((second - first) // timedelta(minutes=1))
    if kind == "shift":
        k, n, b = (number(slot[name]) for name in "knb")
        return time_after(times["t"], k * n + (k - 1) * b)
    length = sum(lengths.values()) + number(slot.get("n", "0"))
    return time_after(times["t"], -length if kind == "before" else length)


def calendar_answer(kind: str, slot: dict[str, str]) -> str:
    n = number(slot.get("n", "0"))
    if kind in ("weekday", "weekday_ago"):
        today = date(2024, 1, 1) + timedelta(weekday(slot["w"]))
        return WEEKDAYS[(today + timedelta(-n if kind == "weekday_ago" else n)).weekday()]
    first = day(slot["d"], slot["y"])
    if kind == "date_after":
        due = first + timedelta(n)
        assert due.year == first.year
        return f"{due.day} {due:%B}"
    second = day(slot["e"], slot["y"])
    if kind == "days_between":
        return str((second - first).days)
    assert weekday(slot["w"]) == first.weekday()
    return WEEKDAYS[second.weekday()]


def size(unit: str, words: set[str]) -> int:
    return 240 if unit == "pound" and words & {"shilling", "pence", "penny"} else SIZES[unit]


def amounts(text: str) -> list[tuple[int, str]]:
    return [(int(a[1]), m[1]) for a in re.finditer(r"(\d+) (\w+)", text) if (m := UNIT.match(a[2]))]


def unit_answer(kind: str, slot: dict[str, str]) -> str:
    words = {m[1] for text in slot.values() for m in UNIT.finditer(text)}
    told = amounts(slot.get("x") or slot["told"])
    assert len(told) == (2 if kind == "mixed" else 1)
    if kind == "left":
        told += [(-n, unit) for n, unit in amounts(slot["y"])]
    (target,) = UNIT.findall(slot["smalls"])
    return str(sum(Fraction(n) * size(unit, words) for n, unit in told) / size(target, words))


def answer_read(task: Task) -> str:
    template = task.templates[0]
    kind = template.split(".")[0]
    (slot,) = slots([phrasing({**CLOCK, **CALENDAR, **UNITS}, template)], task.prompt)
    if kind in CLOCK:
        return clock_answer(kind, slot)
    return calendar_answer(kind, slot) if kind in CALENDAR else unit_answer(kind, slot)


@pytest.mark.parametrize("split", SPLITS)
def test_the_question_read_again_gives_the_answer(split: Split) -> None:
    read: Counter[str] = Counter()
    for seed in range(SEEDS):
        task = make("dates_and_units", split, seed)
        assert answer_read(task) == task.answer, task.prompt
        read[task.templates[0].split(".")[0]] += 1
    assert len(read) == (7 if split == "longer" else 15), read


def test_the_tables_are_right() -> None:
    for year in (2023, 2024, 2100):
        rows = months_of(year).rows
        for number, (name, length, before) in enumerate(rows, 1):
            first = date(year, number, 1)
            assert first.strftime("%B") == name and (first - date(year, 1, 1)).days == before
            assert ((date(year, number + 1, 1) if number < 12 else date(year + 1, 1, 1)) - first).days == length
    for chain in chains():
        words = {unit for unit, _ in chain.units}
        for (big, factor), (small, _) in zip(chain.units, chain.units[1:]):
            assert factor * size(small, words) == size(big, words), (big, small)


@pytest.mark.parametrize("split", SPLITS)
def test_only_the_gold_is_rewarded(split: Split) -> None:
    for seed in range(SEEDS):
        task = make("dates_and_units", split, seed)
        assert task.reward(task.sentence) == task.reward(task.answer) == 1.0
        other = make("dates_and_units", split, seed + 1)
        assert task.reward(other.answer) == float(task.answer == other.answer)


@pytest.mark.parametrize(
    ("verifier", "right", "wrong"),
    [
        (Clock(875), ("It ends at 14:35.", "2:35 pm", "2:35 P.M.", "14:30, no, 14:35"), ("2:35", "14:35, not 15:35")),
        (Clock(545), ("9:05", "09:05", "9:05 am"), ("9:5", "905", "9.05", "19:05", "13:05 am", "9:05:30")),
        (Clock(0), ("0:00", "00:00", "12:00 am"), ("12:00", "24:00", "")),
        (Day(4, 28), ("28 April", "April 28th, 2027", "the 28th of April", "2027-04-28", "28 Apr"), ("28", "April")),
        (Day(5, 3), ("3 May", "May 3"), ("13 May", "3 March", "30 May", "May 30", "3 May or 4 May")),
        (Named(("Ben", "Mia"), ("Leo",)), ("Mia and Ben lie", "BEN, MIA"), ("Ben", "Ben, Mia, Leo", "Benno, Mia")),
        (Named(("Ben", "Mia"), (), True), ("Ben, then Mia",), ("Mia, Ben", "Ben, Mia, Ben")),
    ],
)
def test_verifiers(verifier: Clock | Day | Named, right: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    assert [text for text in right if not verifier.accepts(text)] == []
    assert [text for text in (*wrong, *verifier.wrong()) if verifier.accepts(text)] == []


def test_there_are_enough_phrasings_and_some_are_held_out() -> None:
    says = [say for one in (CLOCK, CALENDAR, UNITS, bank("dates/introductions")) for say in one.values()]
    trained, held_out = ({text for s in says for text in getattr(s, pool)} for pool in ("trained", "held_out"))
    told = (
        {text for chain in chains() for text in chain.told.trained},
        {text for chain in chains() for text in chain.told.held_out},
    )
    assert not trained & held_out and not told[0] & told[1]
    sizes = len(trained), len(held_out), len(told[0])
    assert sizes[0] >= 300 and sizes[1] >= 20 and sizes[2] >= 80


def _first(kind: str, split: Split = "trained") -> Task:
    return next(
        task
        for task in (make("dates_and_units", split, seed) for seed in range(300))
        if task.templates[0].startswith(f"{kind}.") and not task.mistakes()
    )


def test_planted_mistakes_are_seen() -> None:
    clock = _first("after")
    audit(clock)
    with pytest.raises(GoldError, match="gets no reward"):
        audit(replace(clock, answer="0:01"))
    with pytest.raises(GoldError, match="a leap"):  # 24 and 60 are not in the question
        audit(replace(clock, constants=()))
    *moves, last = clock.moves
    with pytest.raises(GoldError, match="returned"):
        audit(replace(clock, moves=(*moves, replace(last, expect="61"))))
    early = replace(clock, verifier=Clock(1), answer="0:01", sentence="It is 0:01.")
    with pytest.raises(GoldError, match=r"a leap|is not the answer"):
        audit(early)
    weekday = _first("weekday")
    wrong = re.sub(r"-> (\d+) rest", lambda found: f"-> {int(found[1]) + 1} rest", weekday.alone)
    with pytest.raises(GoldError, match="wrong arithmetic"):
        audit(replace(weekday, alone=wrong))
    date_task = _first("date_after")
    query = next(i for i, move in enumerate(date_task.moves) if "LIMIT" in move.arguments.get("sql", ""))
    swapped = list(date_task.moves)
    swapped[query] = replace(swapped[query], arguments={"sql": swapped[query].arguments["sql"].replace("DESC", "ASC")})
    with pytest.raises(GoldError, match="returned"):
        audit(replace(date_task, moves=tuple(swapped)))

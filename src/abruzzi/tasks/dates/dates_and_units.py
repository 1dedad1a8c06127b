"""Dates, times and units: how long, when, which day, how much in another unit.

    The guests come at 12:35; that is in 3 hours and 50 minutes. What time is it now?
        calculator: 3 * 60 + 50  -> 230;  12 * 60 + 35 - 230  -> 525;  525 // 60  -> 8;  525 % 60  -> 45;  so 8:45

Times of day are counted in minutes since midnight with the calculator. Dates and units are
converted with a table beside it: of the months of the year in question, or of factors between
units. Trained questions take one to four calls, "longer" ones five or six. About one trace in ten
begins with a call that the tool refuses (a time with its colon, a unit, a column that was guessed)
and then does it right. Without tools the table stands in the question as CSV and everything is
worked out digit by digit.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ..environments import Arithmetic
from ..task import Split, Task, Unfit
from . import calendar_questions as calendars
from . import clock_questions as clocks
from . import unit_questions as units
from .asking import Asking, Draft

_SLIP_SHARE = 0.10
_STEPS: dict[Split, range] = {"trained": range(1, 5), "held_out": range(1, 5), "longer": range(5, 7)}


def make(split: Split, seed: int, id: str) -> Task:
    """A question about dates, times or units. Same arguments, same task."""
    rng = random.Random(f"dates_and_units/{split}/{seed}")
    while True:
        asking = Asking(rng, split)
        try:
            draft = rng.choice(_LONGER if split == "longer" else _TRAINED)(asking)
        except Unfit:
            continue
        if len(draft.sheet.moves) in _STEPS[split]:
            return _task(id, asking, draft)


def _task(id: str, asking: Asking, draft: Draft) -> Task:
    rng, sheet, table = asking.rng, draft.sheet, draft.table
    slips = rng.random() < _SLIP_SHARE
    framed = asking.bank.draw("frame").format(draft.question)
    introduction = f" {asking.bank.draw(table.name)}" if table else ""
    return Task(
        id=id,
        family="dates_and_units",
        split=asking.split,
        templates=tuple(asking.bank.used),
        steps=len(sheet.moves),
        prompt=framed + introduction,
        prompt_without_tools=f"{framed}\n\nTable {table.name}:\n{table.as_text()}" if table else framed,
        answer=draft.answer,
        others=(),
        environment=table or Arithmetic(),
        moves=tuple(sheet.with_slip(rng, draft.colon) if slips else sheet.moves),
        closing=draft.closing,
        alone=sheet.alone(draft.end),
        sentence=draft.sentence,
        verifier=draft.verifier,
        constants=draft.constants,
    )


_TRAINED: tuple[Callable[[Asking], Draft], ...] = (
    *(clocks.minutes_in, clocks.days_in, clocks.until, clocks.overnight, clocks.after, clocks.after),
    *(clocks.before, clocks.past_midnight, clocks.moments),
    *(calendars.weekday, calendars.weekday_ago, calendars.days_between, calendars.date_after),
    *(units.unit_question,) * 5,
)
_LONGER: tuple[Callable[[Asking], Draft], ...] = (
    *(clocks.shift, clocks.sessions, clocks.legs, clocks.legs),
    *(calendars.weekday_of, units.unit_chain, units.unit_chain),
)

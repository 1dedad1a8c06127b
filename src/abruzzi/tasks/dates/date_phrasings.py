"""The sentences of dates_and_units.py, written by hand: questions about clocks, calendars and units.

In questions {t}, {u} are times, {d}, {e} dates, {w} a weekday, {span} a duration, {x} an amount with its
unit and {smalls} the unit that is asked for. A unit's chain brings its own sentence as {told}.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..phrasing import Say, extended
from ..trained import clock as wide_clock
from ..trained import dates as wide
from ..trained import others as more

CLOCK = {
    "minutes_in": Say(
        (
            "How many minutes are {span}?",
            "A film runs for {span}. How many minutes is that?",
            "I slept for {span}. How long is that in minutes?",
        ),
        ("What is {span} in minutes?",),
    ),
    "days_in": Say(
        ("How many days are {span}?", "We will be away for {span}. How many days is that?"),
        ("The trip takes {span}. How long is that in days?",),
    ),
    "until": Say(
        (
            "How many minutes are there from {t} to {u}?",
            "A lesson starts at {t} and ends at {u}. How many minutes does it last?",
            "It is {t} now and my train leaves at {u}. How many minutes do I have?",
            "The shop opens at {t} and closes at {u} on the same day. For how many minutes is it open?",
        ),
        (
            "I worked from {t} until {u} today. How many minutes is that?",
            "It is {t}. In how many minutes will it be {u}?",
        ),
    ),
    "overnight": Say(
        (
            "A night bus leaves at {t} and arrives at {u} the next morning. How many minutes is the ride?",
            "I fell asleep at {t} and woke up at {u} the next morning. How many minutes did I sleep?",
        ),
        ("The night shift goes from {t} to {u} the next day. How many minutes is that?",),
    ),
    "after": Say(
        (
            "It is {t} now. What time will it be in {span}?",
            "A film starts at {t} and runs for {span}. When does it end?",
            "A train leaves at {t} and the ride takes {span}. What time does it arrive?",
            "The bread goes into the oven at {t} and needs {span}. When is it done?",
        ),
        (
            "I put on the washing machine at {t}; the programme takes {span}. When will it be finished?",
            "What time is it {span} after {t}?",
        ),
    ),
    "before": Say(
        (
            "It is {t} now. What time was it {span} ago?",
            "I have to be at work at {t} and the way takes {span}. When do I have to leave?",
            "The meeting ended at {t} after {span}. When did it begin?",
        ),
        ("Dinner is at {t} and cooking takes {span}. What time should I start?",),
    ),
    "past_midnight": Say(
        (
            "A ferry leaves at {t} and needs {span}. What time does it arrive the next day?",
            "The party began at {t} and went on for {span}. What time was it over, on the next day?",
        ),
        ("We set off at {t} and drive for {span} through the night. At what time do we get there?",),
    ),
    "moments": Say(
        (
            "How many minutes is it from {w} {t} to {v} {u} of the same week?",
            "A parcel was sent on {w} at {t} and came on {v} at {u} of that week. How many minutes did it take?",
        ),
        ("The power went off on {w} at {t} and was back on {v} at {u} that week. For how many minutes was it off?",),
    ),
    "shift": Say(
        (
            "School starts at {t}. There are {k} lessons of {n} minutes with {b} minutes of break in between. "
            "When does the last lesson end?",
            "The first of {k} talks begins at {t}. Each takes {n} minutes, and between two talks there are {b} minutes "
            "of break. What time is the last one over?",
        ),
        (),
    ),
    "sessions": Say(
        (
            "I worked from {t} to {u} and again from {v} to {w}. How many minutes is that in all?",
            "The library was open from {t} to {u} and from {v} to {w}. How many minutes was it open altogether?",
        ),
        (),
    ),
    "legs": Say(
        (
            "I leave at {t}. The train takes {span}, then I wait {n} minutes, and the bus takes {span2}. "
            "When do I arrive?",
            "We start walking at {t} and walk for {span}. After {n} minutes of rest we walk on for {span2}. "
            "What time is it then?",
        ),
        (),
    ),
}

CALENDAR = {
    "weekday": Say(
        (
            "Today is {w}. What day of the week will it be in {n} days?",
            "The parcel was sent on a {w} and takes {n} days. On which day of the week does it arrive?",
            "It is {w}. Which weekday is it {n} days from now?",
        ),
        ("My holiday begins in {n} days and today is {w}. On what day of the week does it begin?",),
    ),
    "weekday_ago": Say(
        (
            "Today is {w}. What day of the week was it {n} days ago?",
            "On this {w} the baby is {n} days old. On which day of the week was it born?",
        ),
        ("It is {w} and the last rain was {n} days ago. Which day of the week was that?",),
    ),
    "days_between": Say(
        (
            "How many days are there from {d} to {e}, {y}?",
            "It is {d}, {y}. How many days are left until {e} of this year?",
            "A plant was put in on {d}, {y} and flowered on {e} of the same year. How many days did that take?",
        ),
        (
            "The exhibition opens on {d} and closes on {e}, {y}. How many days later is that?",
            "How many days after {d} comes {e} in {y}?",
        ),
    ),
    "date_after": Say(
        (
            "What is the date {n} days after {d}, {y}?",
            "A library book was lent on {d}, {y} for {n} days. On what date is it due?",
            "Today is {d}, {y}. Which date is it in {n} days?",
        ),
        ("The warranty starts on {d}, {y} and ends {n} days later. What date is that?",),
    ),
    "weekday_of": Say(
        (
            "{d}, {y} is a {w}. What day of the week is {e} of that year?",
            "In {y}, {d} falls on a {w}. On which day of the week does {e} fall?",
        ),
        (),
    ),
}

UNITS = {
    "convert": Say(
        (
            "How many {smalls} are {x}?",
            "Convert {x} to {smalls}.",
            "{told} How many {smalls} is that?",
        ),
        ("What is {x} in {smalls}?", "{told} What is that in {smalls}?"),
    ),
    "mixed": Say(
        (
            "{told} What does that come to in {smalls}?",
            "Write {x} as {smalls} only. How many {smalls} is it?",
        ),
        ("Express {x} in {smalls}.",),
    ),
    "left": Say(
        (
            "{told} How many {smalls} are left if you take {y} away?",
            "Take {y} away from {x}. How many {smalls} remain?",
        ),
        ("How many {smalls} are {x} minus {y}?",),
    ),
}

INTRODUCTIONS = {
    "units": Say(
        (
            "The factors are in the table units (big, factor, small).",
            "Use the table units: it says how many of the small unit make one of the big unit.",
            "The table units has the columns big, factor and small.",
        ),
        ("You can look up the factors in the table units with big, factor and small.",),
    ),
    "months": Say(
        (
            "The table months has the columns month, days and days_before for that year.",
            "Use the table months (month, days, days_before) of that year.",
        ),
        ("You can look into the table months of that year; its columns are month, days and days_before.",),
    ),
}


@dataclass(frozen=True)
class Chain:
    """Units of one kind, from large to small: (unit, how many of the next one it holds).

    told, held_out: sentences with an amount {x}, for trained and for held-out questions."""

    units: tuple[tuple[str, int], ...]
    told: tuple[str, ...]
    held_out: tuple[str, ...]

    def factor(self, i: int) -> int:
        return self.units[i][1]


CHAINS = (
    Chain(
        (("league", 3), ("mile", 1760), ("yard", 3), ("foot", 12), ("inch", 0)),
        ("The path is {x} long.", "We have marked {x} of the road."),
        ("The wall is {x} long.",),
    ),
    Chain(
        (("mile", 8), ("furlong", 10), ("chain", 22), ("yard", 0)),
        ("The race goes over {x}.", "A field is {x} long."),
        ("The canal is {x} long.",),
    ),
    Chain(
        (("kilometre", 1000), ("metre", 100), ("centimetre", 10), ("millimetre", 0)),
        ("The cable is {x} long.", "I need {x} of ribbon."),
        ("The trail is {x} long.",),
    ),
    Chain(
        (("hundredweight", 8), ("stone", 14), ("pound", 16), ("ounce", 0)),
        ("The load weighs {x}.", "A farmer brings {x} of flour."),
        ("The anchor weighs {x}.",),
    ),
    Chain(
        (("tonne", 1000), ("kilogram", 1000), ("gram", 0)),
        ("The crate weighs {x}.", "The kitchen ordered {x} of rice."),
        ("The statue weighs {x}.",),
    ),
    Chain(
        (("bushel", 4), ("peck", 2), ("gallon", 4), ("quart", 2), ("pint", 2), ("cup", 0)),
        ("The tank holds {x}.", "We picked {x} of berries."),
        ("The barrel takes {x}.",),
    ),
    Chain(
        (("cup", 16), ("tablespoon", 3), ("teaspoon", 0)),
        ("The recipe asks for {x} of milk.", "I have {x} of sugar."),
        ("The cake needs {x} of oil.",),
    ),
    Chain(
        (("fortnight", 2), ("week", 7), ("day", 24), ("hour", 60), ("minute", 60), ("second", 0)),
        ("The repair took {x}.", "The voyage took {x}."),
        ("The experiment ran for {x}.",),
    ),
    Chain(
        (("pound", 20), ("shilling", 12), ("penny", 0)),
        ("In old money the coat cost {x}.", "A clock was sold for {x} of the old money."),
        ("The rent was {x} in the old money.",),
    ),
    Chain(
        (("ream", 20), ("quire", 25), ("sheet", 0)),
        ("The office has {x} of paper.", "The printer used up {x} of paper."),
        ("The school bought {x} of paper.",),
    ),
    Chain(
        (("gross", 12), ("dozen", 12), ("egg", 0)),
        ("The bakery ordered {x}.", "A farm sells {x}."),
        ("The hotel bought {x}.",),
    ),
)
# One pound is money or weight, one cup and one mile stand in two chains: only one of them in a table.
PLURALS = {"foot": "feet", "inch": "inches", "hundredweight": "hundredweight", "stone": "stone", "penny": "pence"} | {
    word: word for word in ("gross", "dozen")
}
CLOCK = extended(CLOCK, more.CLOCK, wide_clock.CLOCK)
CALENDAR = extended(CALENDAR, more.CALENDAR, wide.CALENDAR)
UNITS = extended(UNITS, more.UNITS, wide.UNITS)
INTRODUCTIONS = extended(INTRODUCTIONS, more.TABLES_OF_DATES, wide.INTRODUCTIONS)
CHAINS = tuple(replace(c, told=c.told + wide.TOLD[c.units[0][0], c.units[1][0]]) for c in CHAINS)

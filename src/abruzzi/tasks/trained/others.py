"""More trained phrasings of tables, folders, dates, units and puzzles; those of word problems: stories.py.

The slots are those of the files that join them: table_themes, folder_scenes, date_phrasings, puzzle_phrasings.
None of these is held out.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import More

TABLES: More = {
    "value": (
        "I need the {noun} of {x}.",
        "What does the table say about the {noun} of {x}?",
        "Can you look up the {noun} of {x} for me?",
        "How much is it for {x}? I mean the {noun}.",
        "{noun} of {x}?",
    ),
    "count": (
        "How many {rows} are there {who} {cond}?",
        "I want to know how many {rows} {cond}.",
        "Please count all {rows} {who} {cond}.",
        "Among the {rows}, how many {cond}?",
    ),
    "total": (
        "What is the {noun} of all {rows} {group} in total?",
        "For the {rows} {group}, give me the total {noun}.",
        "I want the {noun} of all {rows} {group} added up.",
        "Total {noun} of the {rows} {group}?",
    ),
    "most": (
        "Which of the {rows} is the {most}?",
        "The {most} {row}, which one is that?",
        "Tell me which {row} is the {most}.",
        "Look for the {most} of all {rows}.",
        "{most} {row}?",
    ),
    "second": (
        "Which {row} comes right after the one with the highest {noun}?",
        "Which {row} is number two by {noun}?",
        "Leave out the {row} with the highest {noun}. Which one is highest then?",
    ),
    "average": (
        "What {noun} do the {rows} {group} have on average?",
        "Work out the average {noun} of all {rows} {group}.",
        "I need the average {noun} for the {rows} {group}.",
        "Average {noun} of the {rows} {group}?",
    ),
    "total_if": (
        "Look at the {rows} {who} {cond}. What is the total {noun}?",
        "For all {rows} {who} {cond}, what is the sum of the {noun}?",
        "Total {noun} of the {rows} {who} {cond}?",
    ),
    "group_of": (
        "Find the {most} {row} and tell me its {group_name}.",
        "Which {group_name} does the table give for the {most} {row}?",
        "I know what the {most} {row} is, but not its {group_name}. Which is it?",
        "The {most} {row}: which {group_name}?",
    ),
    "difference": (
        "{x} and {y}: how far apart are they in {noun}?",
        "Take the {noun} of {y} from that of {x}. What is left?",
        "What do you get for the {noun} of {x} minus the {noun} of {y}?",
        "{y} has a lower {noun} than {x}. What is the difference?",
        "Difference in {noun} between {x} and {y}?",
    ),
    "range": (
        "What is the difference between the highest and the lowest {noun}?",
        "From the lowest {noun} up to the highest, how much is that?",
        "Take the lowest {noun} from the highest. What do you get?",
        "Highest minus lowest {noun}?",
    ),
    "groups_apart": (
        "What is the total {noun} of the {rows} {group} minus that of the {rows} {group2}?",
        "Take the total {noun} of the {rows} {group2} from the total of the {rows} {group}. What is left?",
        "The {rows} {group} against the {rows} {group2}: how much higher is the total {noun}?",
    ),
    "three": ("What is the {noun} of {x}, {y} and {z} together, minus {n}?",),
    "extremes": ("I need {n} times the highest {noun} plus {m} times the lowest. How much is that?",),
    "weighted": ("{n} times the {noun} of {x} and {m} times the {noun} of {y}: what is that together?",),
}
TABLE_INTRODUCTIONS: More = {
    "intro": (
        "The table is called {table} and has {columns}.",
        "Please use the table {table}. It has {columns}.",
        "I keep this in a table named {table} ({columns}).",
        "See the table {table} with {columns}.",
    ),
}
FOLDER_INTRODUCTIONS: More = {
    "intro": (
        "{} It is in my files.",
        "Please look into the folder. {}",
        "I have a folder with some files. {}",
        "{} Search the files.",
    ),
}

FOLDERS: Mapping[str, More] = {
    "staff": {
        "name": ("{who} is in a team. Who leads it?", "Who is the lead of the team with {who} in it?"),
        "number": (
            "How big is the team of {who}? I need the number of members.",
            "How many people are in the team that {who} works in?",
        ),
        "calc": (
            "{n} badges for each member of the team of {who}: how many is that?",
            "The team of {who} gets {n} badges per member. How many badges in all?",
        ),
        "link": (
            "{who} works in a team. How many members does its partner team have?",
            "The team of {who} has a partner team. How many members are in that one?",
        ),
        "pair": ("Add up the members of the team of {who} and of the team of {who2}.",),
    },
    "parcels": {
        "name": ("Who brings the parcel for {who}?", "I look for the driver with the parcel for {who}. Who is that?"),
        "number": (
            "The parcel for {who} is in one of the vans. How many stops does that van have?",
            "How many stops are there for the van with the parcel for {who}?",
        ),
        "calc": (
            "How many stops are left after {n} for the van with the parcel for {who}?",
            "The parcel for {who} is in a van that has made {n} stops. How many more does it make?",
        ),
        "link": (
            "After the van with the parcel for {who} comes another van. How many stops does that one make?",
            "Find the van with the parcel for {who}. How many stops does the next van have?",
        ),
        "pair": ("Add up the stops of the van with the parcel for {who} and the one with the parcel for {who2}.",),
    },
    "loans": {
        "name": ("Who is the author of the book that {who} took?", "{who} reads a book. Who wrote it?"),
        "number": (
            "{who} has one of our books. How many pages are in it?",
            "The book that {who} has borrowed, how many pages is it?",
        ),
        "calc": (
            "{who} has done {n} pages of the borrowed book. How many are still to read?",
            "{n} pages are read. How many are left in the book that {who} took?",
        ),
        "link": (
            "{who} has borrowed a book. How many pages does its sequel have?",
            "How long is the sequel of the book that {who} took, in pages?",
        ),
        "pair": ("Add up the pages of the book that {who} took and the one that {who2} took.",),
    },
    "lent": {
        "name": ("I need the {who} back. In which street is it?", "To which street do I go for the {who}?"),
        "number": (
            "I want to get the {who} back. How many minutes by bike is that?",
            "How long is the bike ride to the person with the {who}, in minutes?",
        ),
        "calc": (
            "{n} times I go by bike to the person with the {who}. How many minutes in all?",
            "{n} bike rides to the person who has the {who}: how many minutes?",
        ),
        "link": (
            "The person with the {who} has a neighbour. How many minutes by bike is it to that neighbour?",
            "How long do I bike to the neighbour of the person with the {who}, in minutes?",
        ),
        "pair": ("The {who} is with one person, the {who2} with another. How many minutes by bike is that in all?",),
    },
    "repairs": {
        "name": ("Which town do I go to with the {who}?", "Where is the mechanic for the {who}? I need the town."),
        "number": (
            "The {who} is broken. How many dollars an hour does its mechanic take?",
            "What is the price of an hour with the mechanic for the {who}, in dollars?",
        ),
        "calc": (
            "The mechanic works on the {who} for {n} hours. How many dollars is that?",
            "{n} hours of work on the {who}: what is to pay, in dollars?",
        ),
        "link": (
            "The mechanic for the {who} has a helper. How many dollars an hour does that helper take?",
            "What does the helper of the mechanic for the {who} take an hour, in dollars?",
        ),
        "pair": ("One hour of work on the {who} plus one hour on the {who2}: how many dollars?",),
    },
    "beds": {
        "name": ("Which kind of soil is there for the {who}?", "I look for the bed with the {who}. What is its soil?"),
        "number": (
            "How many litres of water a day for the {who}?",
            "The bed with the {who} gets water every day. How many litres?",
        ),
        "calc": (
            "I water the bed with the {who} for {n} days in a row. How many litres do I need?",
            "How much water does the bed with the {who} get in {n} days, in litres?",
        ),
        "link": (
            "There is a bed next to the {who}. How many litres a day does it take?",
            "Find the bed beside the one with the {who}. How many litres a day does it need?",
        ),
        "pair": ("The bed with the {who} and the one with the {who2}: how many litres a day is that in all?",),
    },
    "hikes": {
        "name": ("{who} is in a group. Who is its guide?", "Which guide does the group of {who} have?"),
        "number": (
            "How far does the group of {who} go, in kilometres?",
            "The group of {who} is out walking. How many kilometres do they do?",
        ),
        "calc": (
            "The group of {who} stops after {n} kilometres. How many more are there to walk?",
            "{n} kilometres are done by the group of {who}. How many are still to go?",
        ),
        "link": (
            "Find the group of {who}. How many kilometres are there for its sister group?",
            "{who} walks with a group. How many kilometres does its sister group do?",
        ),
        "pair": ("The group of {who} and the group of {who2}: how many kilometres do both walk in all?",),
    },
    "tenants": {
        "name": ("{who} has a flat in a house. Who owns that house?", "Who is the owner of the house of {who}?"),
        "number": (
            "What rent does {who} pay, in dollars?",
            "{who} lives in one of the houses. How many dollars is the rent there?",
        ),
        "calc": (
            "{n} months of rent for {who}: how many dollars is that?",
            "What is the rent of {who} for {n} months, in dollars?",
        ),
        "link": (
            "Next door to the house of {who} is another house. How many dollars is the rent there?",
            "{who} lives in a house. How many dollars is the rent in the one next door?",
        ),
        "pair": ("The rent of {who} plus the rent of {who2}: how many dollars for one month?",),
    },
}

CLOCK: More = {
    "minutes_in": (
        "{span}, how many minutes is that?",
        "The ride takes {span}. How many minutes is that?",
        "Convert {span} to minutes.",
    ),
    "days_in": (
        "{span}: how many days is that?",
        "There are {span} until the holidays. How many days do I have to wait?",
    ),
    "until": (
        "From {t} to {u}, how many minutes is that?",
        "I start work at {t} and stop at {u}. How many minutes do I work?",
        "The game began at {t} and was over at {u}. How many minutes did it take?",
        "The bus leaves at {t} and gets there at {u}. How many minutes does it need?",
    ),
    "overnight": (
        "We left at {t} and came home at {u} the next morning. How many minutes were we out?",
        "The light was on from {t} in the evening until {u} in the morning. How many minutes is that?",
    ),
    "after": (
        "First it is {t}, and then {span} go by. What time is it?",
        "I start at {t} and need {span}. When am I done?",
        "It starts at {t} and takes {span}. At what time does it end?",
    ),
    "before": (
        "What time was it {span} before {t}?",
        "The film ended at {t}. It took {span}. When did it start?",
        "We have to be there at {t}, and the ride is {span}. When do we have to go?",
    ),
    "past_midnight": (
        "A night train leaves at {t} and takes {span}. At what time does it arrive the next day?",
        "I go to bed at {t} and get up after {span}. What time is it then, on the next day?",
    ),
    "moments": (
        "From {w} {t} to {v} {u} in the same week, how many minutes is that?",
        "It started on {w} at {t} and stopped on {v} at {u} that week. How many minutes did it run?",
    ),
    "shift": (
        "There are {k} lessons of {n} minutes, with {b} minutes between two of them. The first starts at {t}. "
        "When is the last one over?",
    ),
    "sessions": ("Open from {t} to {u} and from {v} to {w}: how many minutes is that together?",),
    "legs": ("It is {t}. First {span} by train, {n} minutes of waiting, then {span2} by bus. When do I get there?",),
}
CALENDAR: More = {
    "weekday": (
        "If today is {w}, which day of the week is it in {n} days?",
        "Which weekday comes {n} days after {w}?",
        "I count {n} days from {w} on. What day of the week do I get?",
    ),
    "weekday_ago": (
        "It is {w}. Which weekday was it {n} days before?",
        "What day of the week was it {n} days before {w}?",
    ),
    "days_between": (
        "From {d} to {e} in {y}, how many days is that?",
        "The course starts on {d}, {y} and ends on {e}. How many days later is that?",
    ),
    "date_after": (
        "I ordered it on {d}, {y} and it takes {n} days. On what date does it come?",
        "It is {d}, {y}. What is the date {n} days later?",
    ),
    "weekday_of": ("If {d}, {y} is a {w}, which weekday is {e} in the same year?",),
}
UNITS: More = {
    "convert": (
        "I have {x}. How many {smalls} do I have?",
        "How many {smalls} do I get for {x}?",
        "Change {x} into {smalls}.",
    ),
    "mixed": (
        "{told} How many is that in all, in {smalls}?",
        "Change {x} into {smalls}. How many is it as {smalls}?",
    ),
    "left": (
        "{told} We use {y}. How many {smalls} are left?",
        "{told} Then {y} of that go away. How many {smalls} remain?",
    ),
}
TABLES_OF_DATES: More = {
    "units": (
        "There is a table units with the columns big, factor and small.",
        "Look it up in the table units (big, factor, small).",
    ),
    "months": ("Look it up in the table months (month, days, days_before) of that year.",),
}

COUNTDOWN: More = {
    "countdown": (
        "Make {target} out of {numbers}, using each number once at most.",
        "How do I get {target} with {numbers}? Each number may be used once.",
        "My numbers are {numbers}, and I need {target}. How?",
        "Find a way to {target} from {numbers}, with every number used at most once.",
    ),
}
COMPARE: More = {
    "most": ("Tell me who is the {most}.", "Who of them is the {most}?"),
    "least": ("Tell me who is the {least}.", "Who of them is the {least}?"),
    "second": ("Who is the second {most} of them?",),
    "order": ("Tell me the order, from {most} to {least}.",),
}
LIARS: More = {
    "who_lies": ("Tell me all who lie.", "Name all the liars."),
    "who_honest": ("Tell me all who tell the truth.", "Name all the truth-tellers."),
}
SEATS: More = {
    "at": ("{p} took seat {k}.",),
    "left_of": ("{p} sits just left of {q}.",),
    "who_sits": ("Tell me who is in seat {k}.",),
    "row": ("Tell me the order from left to right.",),
}

"""What the tables are about: names, columns and the words that go with them, and how a question is put.

Every theme has one column that names the rows, one of groups, and two of numbers. A Measure says how
people speak of a number: "the price", "the cheapest", "items that cost more than 30 dollars".
"""

from __future__ import annotations

from dataclasses import dataclass

from ..phrasing import Say, extended
from ..trained import others as more
from ..trained import tables as wide
from ..trained.table_sums import TABLE_SUMS


@dataclass(frozen=True)
class Measure:
    """A column of numbers. noun: "the {noun} of ..."; more, less: what rows do ("cost more than {n} dollars").

    wrong: a column name that one might guess instead. follow_up: (kind, text) of questions that go on with
    one row's number, where {x} is the row and {n} another number; kind is times, minus (n is taken away)
    or until (the number is taken from n). unit: what stands behind the number in an answer."""

    column: str
    noun: str
    most: str
    least: str
    more: str
    less: str
    low: int
    high: int
    unit: str
    wrong: str
    follow_up: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Theme:
    """One kind of table. the: article before a row's name. of_group: "{rows} {of_group}", with {g}."""

    tables: tuple[str, ...]
    key: str
    row: str
    rows: str
    the: str
    names: tuple[str, ...]
    group: str
    groups: tuple[str, ...]
    of_group: str
    measures: tuple[Measure, Measure]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.key, self.group, *(m.column for m in self.measures))


THEMES = (
    Theme(
        ("stock", "shop"), "item", "item", "items", "the ",
        ("lamp", "tent", "rope", "kettle", "mirror", "clock", "ladder", "carpet", "radio", "vase", "bench", "rake",
         "stool", "basket"),
        "section", ("garden", "kitchen", "camping", "office"), "in the {g} section",
        (
            Measure("price", "price", "most expensive", "cheapest", "cost more than {n} dollars",
                    "cost less than {n} dollars",
                    4, 180, "dollars", "cost", (("times", "A customer buys {n} of {x}. How many dollars is that?"),)),
            Measure("in_stock", "number in stock", "best stocked", "worst stocked",
                    "are in stock more than {n} times",
                    "are in stock fewer than {n} times", 3, 95, "pieces", "amount",
                    (("minus", "{n} pieces of {x} are sold today. How many are left?"),)),
        ),
    ),
    Theme(
        ("athletes", "results"), "athlete", "athlete", "athletes", "",
        ("Mia", "Omar", "Lena", "Kofi", "Priya", "Hugo", "Ines", "Tariq", "Greta", "Luca", "Yuki", "Pedro", "Nora",
         "Jonas"),
        "club", ("Falcons", "Otters", "Comets", "Badgers"), "of the {g}",
        (
            Measure("points", "number of points", "best", "weakest", "have more than {n} points",
                    "have fewer than {n} points",
                    12, 240, "points", "score", (("until",
                        "{x} wants to reach {n} points. How many points are missing?"),)),
            Measure("age", "age", "oldest", "youngest", "are older than {n}", "are younger than {n}", 15, 44,
                    "years", "years",
                    (("until", "In how many years will {x} be {n} years old?"),)),
        ),
    ),
    Theme(
        ("books", "library"), "title", "book", "books", "",
        ("Night Ferry", "Red Harbour", "Salt Road", "Paper Moon", "Iron Garden", "Blue Letters", "Winter Bees",
         "Last Lantern",
         "Glass River", "Stone Bread", "Quiet Hill", "Green Door"),
        "genre", ("crime", "travel", "history", "poetry"), "in the genre {g}",
        (
            Measure("pages", "number of pages", "longest", "shortest", "have more than {n} pages",
                    "have fewer than {n} pages",
                    60, 890, "pages", "length", (("minus",
                        "I have read {n} pages of {x}. How many pages are left?"),)),
            Measure("copies", "number of copies", "most available", "least available", "have more than {n} copies",
                    "have fewer than {n} copies",
                    2, 60, "copies", "count", (("minus",
                        "{n} copies of {x} are lent out. How many are still there?"),)),
        ),
    ),
    Theme(
        ("towns", "places"), "town", "town", "towns", "",
        ("Aldmoor", "Calderby", "Dunwick", "Elmford", "Farrowell", "Gorston", "Hartby", "Ostrow", "Pellham",
         "Quenby", "Redmere",
         "Stonely", "Tarnby", "Westhorpe"),
        "coast", ("north", "south", "east", "west"), "on the {g} coast",
        (
            Measure("streets", "number of streets", "largest", "smallest", "have more than {n} streets",
                    "have fewer than {n} streets", 12, 780, "streets", "street_count",
                    (("minus", "I have walked through {n} streets of {x}. How many streets are left?"),)),
            Measure("rain_days", "number of rainy days", "rainiest", "driest", "have more than {n} rainy days",
                    "have fewer than {n} rainy days", 20, 230, "days", "rain",
                    (("until", "On how many of {n} days is it not raining in {x}?"),)),
        ),
    ),
    Theme(
        ("plants", "garden"), "plant", "plant", "plants", "the ",
        ("fern", "cactus", "lily", "basil", "ivy", "orchid", "palm", "mint", "aloe", "violet", "clover", "thyme",
         "jasmine"),
        "room", ("bathroom", "kitchen", "hall", "greenhouse"), "in the {g}",
        (
            Measure("height_cm", "height", "tallest", "smallest", "are taller than {n} centimetres",
                    "are smaller than {n} centimetres",
                    6, 210, "centimetres", "size", (("until",
                        "How many centimetres must {x} grow to reach {n} centimetres?"),)),
            Measure("water_ml", "amount of water a day", "thirstiest", "least thirsty",
                    "need more than {n} millilitres of water",
                    "need less than {n} millilitres of water", 20, 480, "millilitres", "water",
                    (("times", "How many millilitres of water does {x} need in {n} days?"),)),
        ),
    ),
    Theme(
        ("trains", "departures"), "destination", "train", "trains", "the train to ",
        ("Dover", "Leeds", "Turin", "Basel", "Ghent", "Malmo", "Graz", "Nantes", "Seville", "Verona", "Krakow",
         "Bremen", "Dijon"),
        "line", ("coast", "valley", "border", "lake"), "of the {g} line",
        (
            Measure("minutes", "travel time", "slowest", "fastest", "take more than {n} minutes",
                    "take less than {n} minutes",
                    18, 420, "minutes", "time", (("minus",
                        "{x} has been under way for {n} minutes. How many minutes are left?"),)),
            Measure("seats", "number of seats", "largest", "smallest", "have more than {n} seats",
                    "have fewer than {n} seats",
                    48, 640, "seats", "capacity", (("minus",
                        "{n} seats in {x} are taken. How many seats are free?"),)),
        ),
    ),
    Theme(
        ("films", "cinema"), "film", "film", "films", "",
        ("Cold Tea", "Two Suns", "Lost Key", "Wild Geese", "Slow Train", "Black Swan", "Old Friends", "High Tide",
         "No Signal",
         "Dry Season", "Silver Coin", "Long Shadow"),
        "screen", ("Astra", "Lux", "Rex", "Orion"), "on the screen {g}",
        (
            Measure("minutes", "running time", "longest", "shortest", "run for more than {n} minutes",
                    "run for less than {n} minutes",
                    61, 198, "minutes", "length", (("minus",
                        "I have watched {n} minutes of {x}. How many minutes are left?"),)),
            Measure("visitors", "number of visitors", "most popular", "least popular", "had more than {n} visitors",
                    "had fewer than {n} visitors", 14, 760, "visitors", "guests",
                    (("times", "If {x} had {n} times as many visitors, how many would that be?"),)),
        ),
    ),
    Theme(
        ("animals", "zoo"), "animal", "animal", "animals", "the ",
        ("zebra", "lynx", "otter", "camel", "llama", "ibex", "moose", "panda", "tapir", "bison", "hyena", "jaguar",
         "walrus"),
        "house", ("red", "green", "blue", "yellow"), "in the {g} house",
        (
            Measure("weight_kg", "weight", "heaviest", "lightest", "weigh more than {n} kilograms",
                    "weigh less than {n} kilograms",
                    7, 900, "kilograms", "mass", (("until", "How many kilograms is {x} short of {n} kilograms?"),)),
            Measure("food_kg", "amount of food a day", "hungriest", "least hungry",
                    "eat more than {n} kilograms a day",
                    "eat less than {n} kilograms a day", 2, 48, "kilograms", "food",
                    (("times", "How many kilograms does {x} eat in {n} days?"),)),
        ),
    ),
    Theme(
        ("staff", "team"), "person", "person", "people", "",
        ("Selma", "Bruno", "Wanda", "Emil", "Paula", "Georg", "Fatima", "Nils", "Clara", "Samir", "Vera", "Theo",
         "Amina", "Lars"),
        "office", ("Rome", "Delhi", "Cairo", "Lagos"), "in the {g} office",
        (
            Measure("hours", "number of hours", "busiest", "least busy", "work more than {n} hours",
                    "work fewer than {n} hours",
                    8, 44, "hours", "time", (("times", "How many hours does {x} work in {n} weeks?"),)),
            Measure("holidays", "number of holidays", "most rested", "least rested", "have more than {n} holidays",
                    "have fewer than {n} holidays", 11, 62, "days", "days_off",
                    (("minus", "{x} has taken {n} days off so far. How many are left?"),)),
        ),
    ),
    Theme(
        ("trails", "hikes"), "trail", "trail", "trails", "the ",
        ("Fox Path", "Eagle Walk", "Mill Way", "Lake Loop", "Ridge Climb", "Pine Round", "Chapel Path",
         "Canyon Walk", "River Way",
         "Summit Climb", "Moor Loop", "Forest Round"),
        "valley", ("Upper Glen", "Broad Vale", "Deep Hollow"), "in {g}",
        (
            Measure("length_km", "length", "longest", "shortest", "are longer than {n} kilometres",
                    "are shorter than {n} kilometres",
                    3, 64, "kilometres", "distance", (("times",
                        "Somebody walks {x} {n} times. How many kilometres is that?"),)),
            Measure("climb_m", "climb", "steepest", "flattest", "climb more than {n} metres",
                    "climb less than {n} metres",
                    40, 990, "metres", "height", (("minus",
                        "On {x} I have climbed {n} metres. How many metres are still above me?"),)),
        ),
    ),
)  # fmt: skip

# {x}, {y}: rows with their article; {noun}: the measure; {cond}: what rows do; {group}: which rows.
QUESTIONS = {
    "value": Say(
        ("What is the {noun} of {x}?", "Look up the {noun} of {x}.", "Which {noun} does the table give for {x}?"),
        ("Tell me the {noun} of {x}.",),
    ),
    "count": Say(
        ("How many {rows} {cond}?", "Count the {rows} {who} {cond}.", "How many of the {rows} {cond}?"),
        ("What is the number of {rows} {who} {cond}?",),
    ),
    "total": Say(
        (
            "What is the total {noun} of all {rows} {group}?",
            "Add up the {noun} of all {rows} {group}.",
            "Taking all {rows} {group} together, what is the {noun}?",
        ),
        ("What does the {noun} of all the {rows} {group} sum up to?",),
    ),
    "most": Say(
        ("Which {row} is the {most}?", "Find the {most} {row}.", "I am looking for the {most} {row}. Which one is it?"),
        ("Can you name the {most} {row}?",),
    ),
    "second": Say(
        (
            "Which {row} has the second highest {noun}?",
            "Sorted by {noun} from high to low, which {row} comes second?",
        ),
        ("Only one {row} has a higher {noun} than this one. Which {row} is meant?",),
    ),
    "average": Say(
        ("What is the average {noun} of the {rows} {group}?", "On average, what is the {noun} of the {rows} {group}?"),
        ("Give me the mean {noun} of the {rows} {group}.",),
    ),
    "total_if": Say(
        (
            "What is the total {noun} of the {rows} {who} {cond}?",
            "Add up the {noun} of all {rows} {who} {cond}.",
        ),
        ("Take only the {rows} {who} {cond}. What is their {noun} together?",),
    ),
    "group_of": Say(
        (
            "Look at the {most} {row}. Which {group_name} is given for it?",
            "Which {group_name} belongs to the {most} {row}?",
        ),
        ("What is the {group_name} of the {most} {row}?",),
    ),
    "difference": Say(
        (
            "What is the difference between {x} and {y} in {noun}?",
            "Compare {x} with {y}: how much higher is the {noun} of {x}?",
            "By how much does the {noun} of {x} exceed that of {y}?",
        ),
        ("How much lower is the {noun} of {y} than that of {x}?",),
    ),
    "range": Say(
        ("How far apart are the highest and the lowest {noun}?", "What is the highest {noun} minus the lowest?"),
        ("By how much does the highest {noun} exceed the lowest one?",),
    ),
    "groups_apart": Say(
        (
            "How much more is the total {noun} of the {rows} {group} than that of the {rows} {group2}?",
            "Compare the {rows} {group} with those {group2}: by how much is the total {noun} higher?",
        ),
        ("By how much does the {noun} of all {rows} {group} exceed that of all {rows} {group2}?",),
    ),
    "three": Say(
        (
            "What do {x}, {y} and {z} come to if you add up the {noun} of each and then take away {n}?",
            "Add up the {noun} of {x}, {y} and {z}, and take {n} away from the sum. What is left?",
        ),
        (),
    ),
    "extremes": Say(
        (
            "What do {n} times the highest {noun} and {m} times the lowest come to together?",
            "Take the highest {noun} {n} times and the lowest {m} times. What is the sum?",
        ),
        (),
    ),
    "weighted": Say(
        (
            "Take {n} times the {noun} of {x} and {m} times that of {y}. What is the sum?",
            "What is {n} times the {noun} of {x} plus {m} times the {noun} of {y}?",
        ),
        (),
    ),
}

INTRODUCTIONS = {
    "intro": Say(
        (
            "The table {table} has the columns {columns}.",
            "There is a table {table} with the columns {columns}.",
            "Use the table {table} ({columns}).",
        ),
        (
            "You can query the table {table}; its columns are {columns}.",
            "The data are in the table {table} with {columns}.",
        ),
    ),
}

QUESTIONS = extended(QUESTIONS, more.TABLES, wide.TABLES, TABLE_SUMS)
INTRODUCTIONS = extended(INTRODUCTIONS, more.TABLE_INTRODUCTIONS, wide.TABLE_INTRODUCTIONS)

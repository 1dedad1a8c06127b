"""The small worlds behind folder facts: who is listed where, what the files say, and how one asks.

A scene has a list (who belongs to which place, team, person ...) and one entry per entity with a name,
a number and a link to another entity. Questions start from somebody on the list.

Slots of questions: {who}, {who2} from the list, {n} a number of the question's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..phrasing import Say, extended
from ..trained import folders as wide
from ..trained import others as more


@dataclass(frozen=True)
class Scene:
    """One world. Empty pools of names mean people.

    listing: the list's file. lines: how it says that {who} belongs to the entity {t}; the first is a full sentence,
    which thinking uses too. listed: the things on the list. folder: where the entries live. title: an entity {e}
    in a sentence. entities: their names. name_label, names: the entry's name and its pool. number_label, low,
    high, unit: the entry's number. op: what a question's {n} does to it ("*": n times, "-": take n away), and
    result_unit. link_label: how an entry points to another. notes: lines of a file that says nothing. asks: the
    questions by kind."""

    listing: str
    lines: tuple[str, ...]
    listed: tuple[str, ...]
    folder: str
    title: str
    entities: tuple[str, ...]
    name_label: str
    names: tuple[str, ...]
    number_label: str
    low: int
    high: int
    unit: str
    op: str
    result_unit: str
    link_label: str
    notes: tuple[str, ...]
    asks: dict[str, Say]


SCENES = {
    "staff": Scene(
        "staff.txt", ("{who} works in the {t}", "{who}: {t}", "{who} belongs to the {t}"), (),
        "teams", "{e} team", ("north", "south", "harbour", "garden", "night", "river", "tower", "bridge"),
        "Lead", (), "Members", 3, 60, "members", "*", "badges", "Partner",
        ("Please keep the list of staff up to date.", "The canteen is closed on Sunday."),
        {
            "name": Say(
                ("Who leads the team that {who} works in?",
                 "{who} wants to talk to the team lead. Who is that?"),
                ("Whom does {who} have as team lead?",),
            ),
            "number": Say(
                ("How many members does the team of {who} have?",
                 "What is the number of members in the team of {who}?"),
                ("With the team of {who} complete, how many members are there?",),
            ),
            "calc": Say(
                (
                    "Every member of the team of {who} gets {n} badges. How many badges is that?",
                    "I need {n} badges for each member of the team that {who} belongs to. How many badges is that?",
                ),
                ("If all members in the team of {who} are handed {n} badges each, how many badges are needed?",),
            ),
            "link": Say(
                ("How many members does the partner team of the team of {who} have?",),
                ("The team of {who} has a partner team. What is its number of members?",),
            ),
            "pair": Say(
                ("How many members do the teams of {who} and {who2} have together?",
                 "Take the team of {who} and the team of {who2}. How many members is that in all?"),
                (),
            ),
        },
    ),
    "parcels": Scene(
        "parcels.txt", ("The parcel for {who} is in the {t}", "Parcel for {who}: {t}"), (),
        "vans", "{e} van", ("red", "blue", "green", "white", "yellow", "silver", "black"),
        "Driver", (), "Stops", 5, 90, "stops", "-", "stops", "Next van",
        ("All vans are washed on Friday.", "Parcels without a name go back to the office."),
        {
            "name": Say(
                ("Who drives the van with the parcel for {who}?",
                 "{who} is waiting for a parcel. Who is the driver that brings it?"),
                ("Which driver has the parcel for {who} on board?",),
            ),
            "number": Say(
                ("How many stops does the van with the parcel for {who} make?",),
                ("The parcel for {who} is on a van. How many stops are on its tour?",),
            ),
            "calc": Say(
                ("The van with the parcel for {who} has made {n} stops so far. How many stops are left?",
                 "{n} stops are done for the van that carries the parcel for {who}. How many are still to come?"),
                ("How many stops remain for the van with the parcel of {who} after the first {n}?",),
            ),
            "link": Say(
                ("How many stops does the van make that comes next after the one with the parcel for {who}?",),
                ("Find the van with the parcel for {who} and then the next van. How many stops has that one?",),
            ),
            "pair": Say(
                ("How many stops do the vans with the parcels for {who} and {who2} make together?",
                 "One van has the parcel for {who}, another the one for {who2}. How many stops do both make in all?"),
                (),
            ),
        },
    ),
    "loans": Scene(
        "loans.txt", ("{who} has borrowed {t}", "{who} took {t}", "Lent to {who}: {t}"), (),
        "books", "{e}", ("Salt Road", "Night Ferry", "Iron Garden", "Paper Moon", "Winter Bees", "Quiet Hill",
        "Glass River"),
        "Author", (), "Pages", 80, 890, "pages", "-", "pages", "Sequel",
        ("Books come back after four weeks at the latest.", "The reading room is open all day."),
        {
            "name": Say(
                ("Who wrote the book that {who} has borrowed?", "{who} has a book from us. Who is its author?"),
                ("Name the author of the book that is lent to {who}.",),
            ),
            "number": Say(
                ("How many pages does the book have that {who} has borrowed?",
                 "How long is the book that {who} took, in pages?"),
                ("What is the number of pages of the book lent to {who}?",),
            ),
            "calc": Say(
                ("{who} has read {n} pages of the borrowed book. How many pages are left?",
                 "After {n} pages of the book from the library, how many pages does {who} still have to read?"),
                ("{who} is on page {n} of the book that is on loan. How many pages are still to come?",),
            ),
            "link": Say(
                ("How many pages does the sequel of the book have that {who} has borrowed?",),
                ("{who} would like to go on with the sequel of the borrowed book. How many pages is it long?",),
            ),
            "pair": Say(
                ("How many pages do the books that {who} and {who2} have borrowed have together?",
                 "{who} and {who2} each have a book from us. How many pages is that for both books?"),
                (),
            ),
        },
    ),
    "lent": Scene(
        "lent_out.txt", ("The {who} is with {t}", "The {who} was lent to {t}", "The {who}: {t} has it"),
        ("ladder", "drill", "tent", "saw", "wheelbarrow", "projector", "kayak", "hammock", "trailer"),
        "people", "{e}", (),
        "Street", ("Mill Street", "Park Lane", "Church Road", "Station Street", "Garden Lane", "Bridge Road",
        "Market Street"),
        "Minutes by bike", 4, 58, "minutes", "*", "minutes", "Neighbour",
        ("Whoever lends something out writes it down.", "Please clean everything before it comes back."),
        {
            "name": Say(
                ("In which street can I pick up the {who}?",
                 "Somebody has the {who}. In which street does that person live?"),
                ("I want the {who} back. What is the street I have to go to?",),
            ),
            "number": Say(
                ("How many minutes by bike is it to the person who has the {who}?",),
                ("By bike, how many minutes away is the {who}?",),
            ),
            "calc": Say(
                ("I bike {n} times to the person who has the {who}. How many minutes is that, one way each?",
                 "How many minutes do {n} bike rides to the person with the {who} take?"),
                ("What do {n} rides to whoever has the {who} come to in minutes by bike?",),
            ),
            "link": Say(
                ("How many minutes by bike is it to the neighbour of the person who has the {who}?",),
                ("The neighbour of whoever has the {who} is how many minutes away by bike?",),
            ),
            "pair": Say(
                ("How many minutes by bike is it to the person with the {who} plus to the person with the {who2}?",
                 "One person has the {who}, another the {who2}. Add up the minutes by bike to both."),
                (),
            ),
        },
    ),
    "repairs": Scene(
        "repairs.txt", ("The {who} is repaired by {t}", "The {who}: ask {t}", "The {who} goes to {t}"),
        ("pump", "crane", "printer", "boiler", "tractor", "freezer", "elevator", "generator", "mower"),
        "mechanics", "{e}", (),
        "Town", ("Aldmoor", "Calderby", "Dunwick", "Elmford", "Gorston", "Redmere", "Tarnby"),
        "Dollars an hour", 18, 96, "dollars", "*", "dollars", "Helper",
        ("Keep every bill for the tax office.", "Spare parts are in the cellar."),
        {
            "name": Say(
                ("In which town is the mechanic who repairs the {who}?",
                 "The {who} has to be taken to its mechanic. To which town?"),
                ("Which town does the mechanic for the {who} come from?",),
            ),
            "number": Say(
                ("How many dollars an hour does the mechanic take who repairs the {who}?",),
                ("What does one hour of the mechanic for the {who} cost in dollars?",),
            ),
            "calc": Say(
                ("The repair of the {who} takes {n} hours. How many dollars does the mechanic get?",
                 "How many dollars do {n} hours of work on the {who} cost?"),
                ("What is the bill in dollars if the mechanic works on the {who} for {n} hours?",),
            ),
            "link": Say(
                ("How many dollars an hour does the helper of the mechanic take who repairs the {who}?",),
                ("The mechanic for the {who} has a helper. What does that one take in dollars an hour?",),
            ),
            "pair": Say(
                ("How many dollars are one hour of work on the {who} and one hour on the {who2} together?",
                 "The {who} and the {who2} each need one hour of their mechanics. How many dollars is that?"),
                (),
            ),
        },
    ),
    "beds": Scene(
        "plan.txt", ("The {who} grow in the {t}", "{Who}: {t}", "We put the {who} into the {t}"),
        ("tomatoes", "beans", "carrots", "roses", "melons", "herbs", "onions", "lilies", "peppers"),
        "beds", "{e} bed", ("east", "west", "long", "round", "upper", "lower", "corner"),
        "Soil", ("sand", "clay", "peat", "loam", "gravel", "chalk", "compost"),
        "Litres a day", 3, 75, "litres", "*", "litres", "Bed beside it",
        ("The hose hangs behind the shed.", "Snails are collected in the evening."),
        {
            "name": Say(
                ("What kind of soil do the {who} grow in?", "Which soil is in the bed with the {who}?"),
                ("In what soil are the {who} planted?",),
            ),
            "number": Say(
                ("How many litres a day does the bed with the {who} get?",),
                ("How much water in litres does one day mean for the bed with the {who}?",),
            ),
            "calc": Say(
                ("How many litres of water does the bed with the {who} need in {n} days?",
                 "I have to water the {who} for {n} days. How many litres does their bed take?"),
                ("{n} days of water for the bed of the {who}: how many litres?",),
            ),
            "link": Say(
                ("How many litres a day does the bed get that is beside the one with the {who}?",),
                ("Beside the bed with the {who} there is another one. How many litres a day does it take?",),
            ),
            "pair": Say(
                ("How many litres a day do the beds with the {who} and with the {who2} need together?",
                 "Add up the litres a day for the bed with the {who} and the bed with the {who2}."),
                (),
            ),
        },
    ),
    "hikes": Scene(
        "members.txt", ("{who} walks with the {t}", "{who}: {t}", "{who} is in the {t}"), (),
        "groups", "{e} group", ("fox", "eagle", "bear", "otter", "hawk", "badger", "lynx"),
        "Guide", (), "Kilometres", 6, 95, "kilometres", "-", "kilometres", "Sister group",
        ("Take water and a hat.", "In case of rain we meet in the hut."),
        {
            "name": Say(
                ("Who is the guide of the group that {who} walks with?",
                 "{who} has a question for the guide of the group. Who is that?"),
                ("Which guide does {who} follow?",),
            ),
            "number": Say(
                ("How many kilometres does the group of {who} walk?",),
                ("What distance in kilometres is planned for the group of {who}?",),
            ),
            "calc": Say(
                ("The group of {who} has done {n} kilometres. How many kilometres are left?",
                 "{who} has walked {n} kilometres with the group. How many kilometres are still ahead?"),
                ("With {n} kilometres behind it, how many does the group of {who} still have to go?",),
            ),
            "link": Say(
                ("How many kilometres does the sister group of the group of {who} walk?",),
                ("The group of {who} has a sister group. How many kilometres are planned for that one?",),
            ),
            "pair": Say(
                ("How many kilometres do the groups of {who} and {who2} walk together?",
                 "Add up the kilometres of the group of {who} and the group of {who2}."),
                (),
            ),
        },
    ),
    "tenants": Scene(
        "tenants.txt", ("{who} lives in {t}", "{who}: {t}", "{who} rents a flat in {t}"), (),
        "houses", "{e}", ("Mill House", "Oak House", "Lake House", "Corner House", "Tower House", "Garden House"),
        "Owner", (), "Rent in dollars", 210, 980, "dollars", "*", "dollars", "House next door",
        ("Keys are kept at the office.", "The stairs are cleaned every week."),
        {
            "name": Say(
                ("Who owns the house that {who} lives in?", "To whom does the house of {who} belong?"),
                ("Name the owner of the house where {who} is a tenant.",),
            ),
            "number": Say(
                ("How many dollars is the rent in the house of {who}?",),
                ("What does the house of {who} cost in dollars of rent?",),
            ),
            "calc": Say(
                ("How many dollars does {who} pay in {n} months of rent?",
                 "{who} stays for {n} months. How many dollars of rent is that in all?"),
                ("After {n} months, how many dollars of rent has {who} paid?",),
            ),
            "link": Say(
                ("How many dollars is the rent in the house next door to the house of {who}?",),
                ("Next door to the house of {who} there is another one. What is the rent there in dollars?",),
            ),
            "pair": Say(
                ("How many dollars of rent do {who} and {who2} pay together for one month?",
                 "Add up the rents in the houses of {who} and {who2}. How many dollars is that?"),
                (),
            ),
        },
    ),
}  # fmt: skip

INTRODUCTIONS = {
    "intro": Say(
        (
            "The facts are in the files of the folder. {}",
            "Look through the files for this one: {}",
            "{} You will find it in the folder.",
        ),
        ("My notes are in the folder, please have a look. {}", "{} The folder should tell."),
    ),
}

SCENES = {
    key: replace(scene, asks=extended(scene.asks, more.FOLDERS[key], wide.FOLDERS[key]))
    for key, scene in SCENES.items()
}
INTRODUCTIONS = extended(INTRODUCTIONS, more.FOLDER_INTRODUCTIONS, wide.INTRODUCTIONS)

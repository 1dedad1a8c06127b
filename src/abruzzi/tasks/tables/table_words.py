"""Other words for what a theme speaks of, for training alone: "the priciest item" beside "the most expensive item".

Held-out questions keep to the words that stand with the themes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What can stand for a Measure's words of the same names; see there."""

    noun: tuple[str, ...] = ()
    most: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    follow_up: tuple[tuple[str, str], ...] = ()


# By the first of a theme's tables and the measure's column.
WORDS: Mapping[tuple[str, str], Words] = {
    ("stock", "price"): Words(
        noun=("cost", "sales price"),
        most=("priciest", "dearest", "costliest"),
        least=("least expensive", "lowest-priced"),
        more=("cost over {n} dollars", "are priced above {n} dollars", "are more expensive than {n} dollars"),
        less=("cost under {n} dollars", "are priced below {n} dollars", "are cheaper than {n} dollars"),
        follow_up=(
            ("times", "How many dollars do {n} pieces of {x} cost?"),
            ("times", "A school orders {n} of {x}. How many dollars will the school pay?"),
            ("until", "Somebody buys {x} and pays with {n} dollars. How many dollars does the shop give back?"),
            ("until", "I have saved {n} dollars. How many dollars will be left if I purchase {x}?"),
        ),
    ),
    ("stock", "in_stock"): Words(
        noun=("stock", "number of pieces"),
        most=("most plentiful",),
        least=("scarcest", "least plentiful"),
        more=("have more than {n} pieces in stock", "have over {n} pieces left"),
        less=("have fewer than {n} pieces in stock", "have under {n} pieces left"),
        follow_up=(
            ("minus", "We sell {n} pieces of {x}. How many remain?"),
            ("until", "How many pieces of {x} have to be ordered so that there are {n}?"),
        ),
    ),
    ("athletes", "points"): Words(
        noun=("score",),
        most=("most successful", "top-scoring"),
        least=("least successful", "lowest-scoring"),
        more=("scored over {n} points", "have got more than {n} points", "have a score above {n}"),
        less=("scored under {n} points", "have got fewer than {n} points", "have a score below {n}"),
        follow_up=(
            ("until", "How many more points does {x} need to get to {n}?"),
            ("minus", "{x} loses {n} points for a false start. How many points are left?"),
        ),
    ),
    ("athletes", "age"): Words(
        more=("are over {n} years old", "are older than {n} years", "are above the age of {n}"),
        less=("are under {n} years old", "are younger than {n} years", "are below the age of {n}"),
        follow_up=(
            ("until", "How many years will it take until {x} turns {n}?"),
            ("minus", "{x} moved here {n} years ago. How old was {x} then?"),
        ),
    ),
    ("books", "pages"): Words(
        noun=("page count",),
        most=("thickest",),
        least=("thinnest",),
        more=("are longer than {n} pages", "run to over {n} pages", "have over {n} pages"),
        less=("are shorter than {n} pages", "have under {n} pages", "have less than {n} pages"),
        follow_up=(
            ("minus", "I have got through {n} pages of {x}. How many pages do I still have to read?"),
            ("times", "How many pages do {n} copies of {x} have together?"),
        ),
    ),
    ("books", "copies"): Words(
        noun=("copy count", "number of volumes"),
        most=("most plentiful",),
        least=("scarcest", "rarest"),
        more=("exist in more than {n} copies", "have over {n} copies"),
        less=("exist in fewer than {n} copies", "have under {n} copies"),
        follow_up=(
            ("minus", "Readers have borrowed {n} copies of {x}. How many copies remain?"),
            ("until", "How many copies of {x} must be bought to have {n} in all?"),
        ),
    ),
    ("towns", "streets"): Words(
        noun=("street count", "number of roads"),
        most=("biggest",),
        least=("tiniest",),
        more=("have over {n} streets", "have got more than {n} streets"),
        less=("have under {n} streets", "have got fewer than {n} streets"),
        follow_up=(("minus", "In {x}, {n} streets have been cleaned. How many have not?"),),
    ),
    ("towns", "rain_days"): Words(
        noun=("number of days with rain", "number of wet days"),
        most=("wettest",),
        least=("least rainy",),
        more=("have over {n} days of rain", "see rain on more than {n} days"),
        less=("have under {n} days of rain", "see rain on fewer than {n} days"),
        follow_up=(("minus", "{x} has had {n} rainy days so far. How many are still to come?"),),
    ),
    ("plants", "height_cm"): Words(
        noun=("size",),
        most=("highest", "biggest"),
        least=("shortest", "lowest"),
        more=("are over {n} centimetres tall", "are higher than {n} centimetres"),
        less=("are under {n} centimetres tall", "are shorter than {n} centimetres"),
        follow_up=(
            ("minus", "I cut {n} centimetres off {x}. How many centimetres are left?"),
            ("until", "By how many centimetres is {x} too small to be {n} centimetres tall?"),
        ),
    ),
    ("plants", "water_ml"): Words(
        noun=("daily amount of water", "water per day"),
        more=("use over {n} millilitres of water", "drink more than {n} millilitres of water"),
        less=("use under {n} millilitres of water", "drink less than {n} millilitres of water"),
        follow_up=(
            ("times", "I will be away for {n} days. How many millilitres of water does {x} use in that time?"),
            ("minus", "{x} has got {n} millilitres of water today. How many millilitres are still missing?"),
        ),
    ),
    ("trains", "minutes"): Words(
        noun=("journey time", "duration"),
        least=("quickest",),
        more=("need more than {n} minutes", "take over {n} minutes", "travel for longer than {n} minutes"),
        less=("need less than {n} minutes", "take under {n} minutes", "travel for less than {n} minutes"),
        follow_up=(
            ("minus", "I have been on {x} for {n} minutes. How many minutes is it to the end?"),
            ("times", "Somebody takes {x} {n} times. How many minutes of travel is that?"),
        ),
    ),
    ("trains", "seats"): Words(
        noun=("seat count", "number of places"),
        most=("biggest", "roomiest"),
        least=("least roomy",),
        more=("offer more than {n} seats", "have over {n} seats"),
        less=("offer fewer than {n} seats", "have under {n} seats"),
        follow_up=(
            ("minus", "{n} passengers sit in {x}. How many seats are empty?"),
            ("until", "There are {n} people who want to sit in {x}. How many seats are missing?"),
        ),
    ),
    ("films", "minutes"): Words(
        noun=("length", "duration"),
        more=("are longer than {n} minutes", "last over {n} minutes", "last more than {n} minutes"),
        less=("are shorter than {n} minutes", "last under {n} minutes", "last less than {n} minutes"),
        follow_up=(
            ("minus", "{x} began {n} minutes ago. In how many minutes will it end?"),
            ("times", "Today {x} is shown {n} times. How many minutes is that in all?"),
        ),
    ),
    ("films", "visitors"): Words(
        noun=("number of guests", "audience"),
        most=("best attended", "most watched"),
        least=("worst attended", "least watched"),
        more=("were seen by more than {n} people", "drew over {n} visitors", "attracted more than {n} visitors"),
        less=("were seen by fewer than {n} people", "drew under {n} visitors", "attracted fewer than {n} visitors"),
        follow_up=(
            ("minus", "{n} of the visitors of {x} were children. How many were adults?"),
            ("until", "How many more visitors does {x} need for a total of {n}?"),
        ),
    ),
    ("animals", "weight_kg"): Words(
        noun=("body weight", "mass"),
        more=("are heavier than {n} kilograms", "weigh over {n} kilograms"),
        less=("are lighter than {n} kilograms", "weigh under {n} kilograms"),
        follow_up=(
            ("until", "How many kilograms would {x} have to gain to weigh {n} kilograms?"),
            ("minus", "After an illness {x} is {n} kilograms lighter. How many kilograms does it weigh now?"),
        ),
    ),
    ("animals", "food_kg"): Words(
        noun=("daily amount of food", "food per day"),
        more=("get more than {n} kilograms a day", "eat over {n} kilograms a day", "need over {n} kilograms a day"),
        less=("get less than {n} kilograms a day", "eat under {n} kilograms a day", "need under {n} kilograms a day"),
        follow_up=(
            ("times", "We buy food for {x} that must last {n} days. How many kilograms do we need?"),
            ("minus", "Today {x} has eaten {n} kilograms. How many kilograms of food are left?"),
        ),
    ),
    ("staff", "hours"): Words(
        noun=("hours of work", "working time"),
        most=("hardest-working",),
        more=("are at work for more than {n} hours", "work over {n} hours", "work longer than {n} hours"),
        less=("are at work for fewer than {n} hours", "work under {n} hours", "work less than {n} hours"),
        follow_up=(
            ("minus", "This week {x} has worked {n} hours already. How many hours are left to work?"),
            ("times", "{x} works the same hours every week. How many hours is that in {n} weeks?"),
        ),
    ),
    ("staff", "holidays"): Words(
        noun=("number of days off", "number of free days"),
        more=("get more than {n} days off", "have over {n} holidays", "get over {n} free days"),
        less=("get fewer than {n} days off", "have under {n} holidays", "get under {n} free days"),
        follow_up=(
            ("minus", "So far {x} has been away for {n} days. How many days off remain?"),
            ("until", "{x} would like to have {n} days off. How many days are missing?"),
        ),
    ),
    ("trails", "length_km"): Words(
        noun=("distance",),
        more=("go on for more than {n} kilometres", "are over {n} kilometres long"),
        less=("are under {n} kilometres long", "are less than {n} kilometres long"),
        follow_up=(
            ("minus", "We have gone {n} kilometres on {x}. How many kilometres are still ahead?"),
            ("times", "How many kilometres does a runner cover who runs {x} {n} times?"),
        ),
    ),
    ("trails", "climb_m"): Words(
        noun=("ascent",),
        least=("least steep",),
        more=("go up more than {n} metres", "rise more than {n} metres", "climb over {n} metres"),
        less=("go up less than {n} metres", "rise less than {n} metres", "climb under {n} metres"),
        follow_up=(
            ("times", "Somebody climbs {x} {n} times. How many metres is that in total?"),
            ("minus", "I am {n} metres above the start of {x}. How many metres must I still climb?"),
        ),
    ),
    ("players", "goals"): Words(
        noun=("goal count",),
        most=("top-scoring",),
        least=("lowest-scoring",),
        more=("have over {n} goals", "have more than {n} goals"),
        less=("have under {n} goals", "have fewer than {n} goals"),
    ),
    ("players", "matches"): Words(
        noun=("number of games", "match count"),
        more=("took part in more than {n} matches", "have played over {n} matches"),
        less=("took part in fewer than {n} matches", "have played under {n} matches"),
    ),
    ("recipes", "cook_minutes"): Words(
        least=("fastest",),
        more=("cook for more than {n} minutes", "need over {n} minutes"),
        less=("cook for less than {n} minutes", "need under {n} minutes"),
    ),
    ("recipes", "calories"): Words(
        noun=("calorie count",),
        most=("most filling",),
        least=("least filling",),
        more=("contain more than {n} calories", "have over {n} calories"),
        less=("contain fewer than {n} calories", "have under {n} calories"),
    ),
    ("rivers", "depth_m"): Words(
        noun=("water depth",),
        least=("least deep",),
        more=("are over {n} metres deep",),
        less=("are shallower than {n} metres", "are under {n} metres deep"),
    ),
    ("buildings", "height_m"): Words(
        most=("highest",),
        least=("shortest",),
        more=("are higher than {n} metres", "rise above {n} metres"),
        less=("are under {n} metres tall", "stay below {n} metres"),
    ),
    ("students", "score"): Words(
        noun=("test result",),
        most=("strongest", "most successful"),
        least=("least successful",),
        more=("got more than {n} points", "reached over {n} points", "did better than {n} points"),
        less=("got fewer than {n} points", "reached under {n} points", "did worse than {n} points"),
    ),
    ("cars", "daily_rent"): Words(
        noun=("rent per day", "price per day"),
        most=("priciest", "dearest"),
        least=("least expensive",),
        more=("cost over {n} dollars a day", "rent for more than {n} dollars a day"),
        less=("cost under {n} dollars a day", "rent for less than {n} dollars a day"),
    ),
    ("phones", "weight_g"): Words(
        noun=("mass",),
        more=("are heavier than {n} grams", "weigh over {n} grams"),
        less=("are lighter than {n} grams", "weigh under {n} grams"),
    ),
    ("phones", "battery_hours"): Words(
        noun=("running time",),
        most=("most enduring",),
        least=("least enduring",),
        more=("run for more than {n} hours", "last over {n} hours"),
        less=("run for less than {n} hours", "last under {n} hours"),
    ),
    ("rivers", "length_km"): Words(
        most=("most extensive",),
        more=("are over {n} kilometres long", "flow for more than {n} kilometres"),
        less=("are under {n} kilometres long", "flow for less than {n} kilometres"),
    ),
    ("buildings", "steps"): Words(
        noun=("number of stairs", "step count"),
        more=("have over {n} steps", "have more than {n} stairs"),
        less=("have under {n} steps", "have fewer than {n} stairs"),
    ),
    ("students", "missed_days"): Words(
        noun=("number of days missed", "number of absent days"),
        more=("were absent on more than {n} days", "were missing for over {n} days"),
        less=("were absent on fewer than {n} days", "were missing for under {n} days"),
    ),
    ("songs", "seconds"): Words(
        noun=("duration", "playing time"),
        more=("are longer than {n} seconds", "go on for over {n} seconds"),
        less=("are shorter than {n} seconds", "go on for under {n} seconds"),
    ),
    ("songs", "plays"): Words(
        noun=("play count",),
        most=("most popular",),
        least=("least popular",),
        more=("were heard more than {n} times", "have over {n} plays"),
        less=("were heard fewer than {n} times", "have under {n} plays"),
    ),
    ("games", "play_minutes"): Words(
        noun=("duration", "time needed"),
        least=("quickest",),
        more=("last over {n} minutes", "need more than {n} minutes"),
        less=("last under {n} minutes", "need less than {n} minutes"),
    ),
    ("games", "pieces"): Words(
        noun=("number of parts", "piece count"),
        more=("come with more than {n} pieces", "have over {n} pieces"),
        less=("come with fewer than {n} pieces", "have under {n} pieces"),
    ),
    ("hotels", "rooms"): Words(
        noun=("room count",),
        most=("biggest",),
        least=("tiniest",),
        more=("offer more than {n} rooms", "have over {n} rooms"),
        less=("offer fewer than {n} rooms", "have under {n} rooms"),
    ),
    ("hotels", "night_price"): Words(
        noun=("cost per night", "room price"),
        most=("priciest", "costliest"),
        least=("least expensive", "most affordable"),
        more=("charge more than {n} dollars a night", "ask for over {n} dollars a night"),
        less=("charge less than {n} dollars a night", "ask for under {n} dollars a night"),
    ),
}

"""More trained phrasings of word problems: other verbs, other orders, terser and more casual than the first ones.

The marks are those of language.py, the slots those of word_phrasings.py, which joins both. None of these is held out.
"""

from __future__ import annotations

from . import More

COLLECT: More = {
    "start": (
        "{P} [keep] {a} {things} at home.",
        "At first {P} [have] {a} {things}.",
        "In the morning {P} [have] {a} {things}.",
        "{P} [have] exactly {a} {things}.",
        "There ^be^ {a} {things} on {Ps} desk.",
        "{P} [get] {a} {things} as a present.",
    ),
    "gain": (
        "{p} [win] {b} more in a game.",
        "{b} more ^come^ from {Q}.",
        "{Q} <have> {b} to spare and <give> them to {him}.",
        "Then {b} more ^be^ added.",
        "After that {p} [receive] {b} new ones.",
        "{his} {relative} <send> {him} {b} more.",
        "Plus {b} from {Q}.",
    ),
    "lose": (
        "{p} [let] {Q} have {b} of them.",
        "Then {b} of them ^break^.",
        "{Q} <get> {b} of them from {him}.",
        "{p} [throw] {b} of them away.",
        "{p} [use] {b} of them.",
        "On the way {b} of them ^fall^ out of the bag.",
        "Minus {b} that {p} [give] away.",
    ),
    "lose_half": (
        "{p} [sell] one half of them and [keep] the other.",
        "{Q} <get> half of them from {him}.",
        "After that only half of them ^be^ left.",
    ),
    "gain_packs": (
        "{p} [open] {k} {boxes}, each with {n} {things} inside.",
        "Then {p} [order] {k} {boxes}, {n} {things} per {box}.",
        "{his} {relative} <give> {him} {k} {boxes} of {n}.",
        "{p} [get] {k} {boxes} more, and {n} {things} ^be^ in each.",
    ),
    "lose_each": (
        "{k} children ^get^ {n} each from {him}.",
        "{p} [give] {k} people {n} each.",
        "{p} [send] {n} to each of {k} friends.",
        "{k} friends ^come^ by and ^take^ {n} each.",
    ),
    "multiply": (
        "A year later {p} [have] {times} as many.",
        "Then the number of {things} <become> {times} as large.",
        "After some time it <be> {times} as many.",
    ),
    "now": (
        "How many {things} is that now?",
        "How many [do] {p} have at the end?",
        "How many {things} [do] {P} have after all that?",
        "So how many {things} are there?",
        "Number of {things} now?",
    ),
    "share": (
        "{b} children ^get^ all of them, each the same number.|How many {things} per child?",
        "{p} [split] the {things} evenly among {b} friends.|How many for each of them?",
        "The {things} ^go^ to {b} people in equal parts.|How many are there for one person?",
        "{p} [hand] them out to {b} friends, and all of them ^get^ the same.|How many is that for each?",
    ),
    "pack": (
        "{b} of them ^fit^ into one {box}.|How many {boxes} [do] {p} need for all of them?",
        "They ^be^ put into {boxes} with {b} each.|How many {boxes} is that?",
        "{p} [put] {b} into each {box}.|How many {boxes} does that make?",
    ),
    "together": (
        "|{R} has {b}. How many {things} do {we} have in all?",
        "|And {R} has {b}. What do {we} have together?",
        "|{R} brings {b} {things}. How many {things} are there together?",
        "|Now add the {b} {things} of {R}. How many is that?",
    ),
    "more_than": (
        "|{R} has {b} {things}. What is the difference?",
        "|How many more [do] {P} have than {R}, who has {b}?",
        "|{R} has {b}. How many more does {R} need to have as many as {P}?",
    ),
}

SHOP: More = {
    "buy": (
        "{P} [want] {k} {things}, {n} {money} each.",
        "{P} [get] {k} {things}. Each one <cost> {n} {money}.",
        "In a shop {P} [see] {things} for {n} {money} each and [buy] {k} of them.",
        "{P} [order] {k} {things}, and each <be> {n} {money}.",
        "{P} [need] {k} {things}. The price <be> {n} {money} for each.",
    ),
    "buy_more": (
        "On top of that {p} [buy] {k} {things} for {n} {money} each.",
        "And {k} {things} at {n} {money} each.",
        "{p} also [order] {k} {things}, {n} {money} apiece.",
        "Then {p} [go] back for {k} {things}, {n} {money} each.",
    ),
    "fee": (
        "There <be> a fee of {b} {money} on top.",
        "{p} [pay] {b} {money} extra for delivery.",
        "To have it sent <cost> another {b} {money}.",
        "Plus {b} {money} for the bag.",
    ),
    "discount": (
        "There <be> a discount of {b} {money}.",
        "{p} [get] {b} {money} off.",
        "With a coupon {p} [save] {b} {money}.",
        "{b} {money} ^be^ taken off the price.",
    ),
    "total": (
        "How much is it in all?",
        "What [do] {p} have to pay?",
        "What does it all cost?",
        "What is the total?",
        "How many {money} [do] {p} need for that?",
    ),
    "change": (
        "{p} [give] the seller {b} {money}.|How much [do] {p} get back?",
        "{p} [come] with {b} {money}.|How many {money} [do] {p} still have after that?",
        "{p} [have] {b} {money}.|What is left in the end?",
        "{p} [put] {b} {money} on the table.|What is the change?",
    ),
    "split": (
        "{b} friends ^pay^ for it together, each the same.|How much is that for each?",
        "{b} people ^split^ the cost.|What does each one pay?",
        "It <be> shared by {b} people in equal parts.|How many {money} for each person?",
    ),
}

PACE: More = {
    "go": (
        "{P} [{verb}] for {h} {hours} and [do] {v} {units} {per_hour}.",
        "{P} [do] {v} {units} {per_hour}, for {h} {hours}.",
        "At {v} {units} {per_hour} {P} [{verb}] for {h} {hours}.",
        "Every {hour} {P} [{verb}] {v} {units}, and that for {h} {hours}.",
    ),
    "go_on": (
        "After that it <be> {v} {units} {per_hour} for {h} {hours}.",
        "Then come {h} {hours} of {v} {units} {per_hour}.",
        "{p} [go] on for {h} more {hours}, now {v} {units} {per_hour}.",
    ),
    "how_far": (
        "How many {units} in total?",
        "How many {units} [do] {p} get done?",
        "How many {units} are done in the end?",
    ),
    "whole": (
        "The {way} <have> {b} {metres} in all.",
        "{p} [have] to do {b} {units} in all.",
        "In total there ^be^ {b} {units}.",
    ),
    "how_much_left": (
        "How many {units} remain?",
        "How many more {units} [do] {p} have to do?",
        "How many {units} to go?",
        "What is left, in {units}?",
    ),
    "rest": (
        "The rest <go> at {b} {units} {per_hour}.|How many {hours} does the rest take?",
        "For the rest it <be> {b} {units} {per_hour}.|How many {hours} is that?",
        "Now {p} [do] {b} {units} {per_hour}.|How many {hours} until it is done?",
    ),
    "how_long": (
        "{P} [have] {a} {units} to do and [do] {b} {per_hour}.|How many {hours} is that?",
        "There ^be^ {a} {units} ahead, and {P} [do] {b} {units} {per_hour}.|How many {hours} until it is done?",
    ),
}

MAKE: More = {
    "make": (
        "{Maker} <run> for {h} {hours} and <make> {n} {things} {per_hour}.",
        "{n} {things} {per_hour} ^come^ out of {maker}, for {h} {hours}.",
        "{Maker} <be> able to make {n} {things} {per_hour}. It <run> for {h} {hours}.",
    ),
    "faulty": (
        "{b} of the {things} ^be^ bad.",
        "{b} of them ^break^ at once.",
        "Of these, {b} ^be^ no good.",
        "Then {b} ^be^ taken out because they ^be^ broken.",
    ),
    "stock": (
        "Another {b} {things} ^be^ already there.",
        "{b} more ^be^ still there from before.",
        "Then {b} {things} from last week ^be^ added.",
    ),
    "made": (
        "How many {things} is that?",
        "How many {things} in total?",
        "How many {things} are there in the end?",
    ),
    "crates": (
        "They ^be^ put into crates, {b} per crate.",
        "A crate <hold> {b} of them.",
        "One crate <have> room for {b} {things}.",
    ),
    "how_many_crates": (
        "How many full crates is that?",
        "How many crates does that make?",
        "Number of crates?",
    ),
    "price": (
        "One crate <cost> {b} {money}.",
        "For one crate they ^get^ {b} {money}.",
        "Every crate <sell> for {b} {money}.",
    ),
    "earned": (
        "How many {money} is that?",
        "What do all the crates bring in?",
        "How much is paid for all crates?",
    ),
}

ROWS: More = {
    "rows": (
        "There ^be^ {n} rows in {place}, {k} {seats} in each.",
        "Every row in {place} <have> {k} {seats}, and there ^be^ {n} rows.",
        "{Place} with {n} rows <have> {k} {seats} per row.",
    ),
    "free": (
        "{b} {seats} ^be^ {bad}.",
        "Of the {seats}, {b} ^be^ {bad}.",
        "The {seats} ^be^ {good}, except for {b} that ^be^ {bad}.",
    ),
    "how_many_seats": ("How many {seats} in all?", "How many {seats} are there together?"),
    "how_many_good": (
        "How many {good} {seats} are there?",
        "How many of the {seats} are {good}?",
        "How many {good} ones is that?",
    ),
    "yield": (
        "There ^be^ {b} {fruits} from every {seat} that <be> {good}.",
        "{b} {fruits} ^come^ from each {good} {seat}.",
        "All {good} {seats} ^{bear}^ {b} {fruits} each.",
    ),
    "costs": (
        "{b} {fruits} ^be^ taken by {owner}.",
        "Of these, {b} {fruits} ^go^ to {owner}.",
        "{b} {fruits} ^get^ lost.",
    ),
    "how_many_fruits": ("How many {fruits} in all?", "How many {fruits} does that make?"),
    "divide_fruits": (
        "{b} clubs ^share^ the {fruits} equally.|How many {fruits} for each club?",
        "They ^be^ split evenly among {b} schools.|How many {fruits} does one school get?",
    ),
}

SAVE: More = {
    "save": (
        "{P} [put] {n} {money} aside every week for {k} weeks.",
        "Each week {P} [get] {n} {money} and [keep] it all, for {k} weeks.",
        "{P} [work] for {k} weeks and [earn] {n} {money} a week.",
    ),
    "had": (
        "{b} {money} ^be^ there from before.",
        "Plus {b} {money} that {p} already [have].",
        "{Q} <give> {him} {b} {money} as well.",
    ),
    "spend": (
        "{p} [pay] {b} {money} for {thing_a}.",
        "{thing_a} <cost> {him} {b} {money}.",
        "Then {b} {money} ^be^ spent on {thing_a}.",
    ),
    "how_much": ("How much is that now?", "How many {money} [do] {p} have in the end?", "What [do] {p} have now?"),
    "goal": (
        "|{P} [want] {thing_b}, which costs {a} {money}. How much more [do] {p} need?",
        "|The price of {thing_b} is {a} {money}. How many {money} are missing?",
        "|How much is missing for {thing_b} at {a} {money}?",
    ),
    "goal_weeks": (
        "|{Thing_b} is {g} {money}. From now on {p} [save] {b} {money} a week. In how many weeks [do] {p} have enough?",
        "|{P} [need] {g} {money} for {thing_b}. At {b} {money} a week, how many more weeks is that?",
    ),
}

COMPARE: More = {
    "first": (
        "At the beginning {A} has {a} {things}.",
        "Say {A} has {a} {things}.",
        "There are {a} {things} at the house of {A}.",
    ),
    "more": (
        "{B} has {b} {things} more than {A}.",
        "{A} is {b} {things} behind {B}.",
        "{A} would need {b} more to have as many {things} as {B}.",
    ),
    "fewer": (
        "{B} has {b} {things} less than {A}.",
        "{A} is {b} {things} ahead of {B}.",
        "{B} would need {b} more to have as many {things} as {A}.",
    ),
    "times": (
        "{B} has {times} the number that {A} has.",
        "The number of {B} is {times} that of {A}.",
    ),
    "half": (
        "{B} has half the number that {A} has.",
        "{A} has double of what {B} has.",
    ),
    "one": ("How many does {B} have?", "What number of {things} does {B} have?"),
    "all": (
        "|How many {things} do they all have together?",
        "|Add up the {things} of {names}. How many is that?",
        "|What is the total for {names}?",
    ),
}

ASIDE: More = {
    "aside": (
        "{Q} <have> {d} cousins.",
        "The shop <be> {d} minutes away.",
        "It <rain> for {d} hours that day.",
        "The house of {Q} <have> {d} windows.",
    ),
}

# Most questions come bare.
FRAMES: More = {
    "frame": (
        *("{}",) * 9,
        "Hi, I have a question. {}",
        "Please help: {}",
        "{} Thank you!",
        "Question: {}",
        "I need this for school. {}",
        "{} Take your time.",
        "Can you work this out for me? {}",
        "Hello! {}",
    ),
}

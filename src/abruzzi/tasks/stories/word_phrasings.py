"""The sentences of word problems, written by hand; language.py explains the marks, word_problems.py the stories.

In a phrasing with "|" the part before it belongs to the story and takes its tense; the part after it is
the question, always in the present. In thinking, {a}, {b} and {r} are left, right and result of the step.
"""

from __future__ import annotations

from ..phrasing import Say, extended
from ..trained import collecting, comparing, rows_and_savings, shopping, work
from ..trained import stories as more

NOW = ("{P} now [have] {r} {things}.", "That makes {r} {things}.", "So {P} [have] {r}.")
LEFT = ("{r} {things} are left.", "So {P} still [have] {r}.", "That leaves {r} {things}.")

COLLECT = {
    "start": Say(
        (
            "{P} [have] {a} {things}.",
            "{P} [collect] {things} and [have] {a} of them.",
            "There ^be^ {a} {things} in {Ps} room.",
            "{P} [start] with {a} {things}.",
        ),
        ("{P} [own] {a} {things}.", "{P} [count] {his} {things}: there ^be^ {a}."),
    ),
    "gain": Say(
        (
            "{p} [buy] {b} more.",
            "{Q} <give> {him} another {b}.",
            "Then {p} [get] {b} more from {his} {relative}.",
            "Later {p} [find] {b} more in a drawer.",
        ),
        ("On Friday {p} [add] another {b}.", "A parcel <bring> {him} {b} more."),
        plan=("add the {b}",),
        why=("{P} [have] {a} and [get] {b} more", "Add the {b} new ones to {a}"),
        then=NOW,
    ),
    "lose": Say(
        (
            "{p} [give] {b} of them to {Q}.",
            "{p} [lose] {b} of them on the way home.",
            "{b} of them ^go^ missing.",
            "Then {p} [sell] {b} of them.",
        ),
        ("{p} [part] with {b} of them.", "{Q} <borrow> {b} of them and <keep> them."),
        plan=("take away {b}",),
        why=("{b} of the {a} are gone", "Take {b} away from {a}"),
        then=LEFT,
    ),
    "lose_half": Say(
        ("{p} [give] half of them to {Q}.", "Half of them ^get^ lost.", "Then {p} [sell] half of them."),
        ("{p} [put] half of them aside as a present and [hand] them to {Q}.", "{Q} <take> half of them."),
        plan=("halve that",),
        why=("Half of the {a} stay", "Half are gone, so halve {a}"),
        then=LEFT,
    ),
    "gain_packs": Say(
        (
            "{p} [buy] {k} {boxes} with {n} {things} each.",
            "Then {k} {boxes} ^arrive^, with {n} {things} in each {box}.",
            "{Q} <bring> {him} {k} {boxes} of {n} {things}.",
        ),
        ("{p} [order] {k} {boxes}, and every {box} <hold> {n} {things}.",),
        plan=("work out the {k} {boxes}", "multiply for the {boxes}"),
        why=("{k} {boxes} with {n} {things} each", "In {k} {boxes} of {n}"),
        then=("The {boxes} hold {r} {things}.", "That is {r} in the {boxes}."),
    ),
    "add_packs": Say(
        (),
        (),
        plan=("add them",),
        why=("Add them to the {a}", "{P} already [have] {a}, so add {b}"),
        then=NOW,
    ),
    "lose_each": Say(
        (
            "{p} [give] {n} to each of {his} {k} friends.",
            "Each of {his} {k} cousins <take> {n} of them.",
            "{p} [hand] out {n} to each of {k} neighbours.",
        ),
        ("{k} visitors ^come^ by, and each one <get> {n} of them.",),
        plan=("multiply for the {k} people", "work out how many are given away"),
        why=("{k} people get {n} each", "{n} for each of {k} people"),
        then=("{r} {things} are given away.", "So {r} go away."),
    ),
    "take_packs": Say(
        (),
        (),
        plan=("take them away",),
        why=("Take them away from {a}", "Of the {a}, {b} are gone"),
        then=LEFT,
    ),
    "multiply": Say(
        (
            "By the end of the year {p} [have] {times} as many.",
            "Over the winter the number of {things} <grow> to {times} as many.",
            "Soon {p} [have] {times} as many as that.",
        ),
        ("A year later there ^be^ {times} as many of them.",),
        plan=("multiply by {b}",),
        why=("{b} times as many as {a}", "The {a} become {b} times as many"),
        then=NOW,
    ),
    "now": Say(
        (
            "How many {things} [do] {p} have now?",
            "How many {things} [do] {p} have in the end?",
            "How many {things} are there now?",
        ),
        ("What is the number of {things} that {p} [have] now?", "With how many {things} [do] {p} end up?"),
        then=("{P} now [have] {r} {things}.", "There are now {r} {things}."),
    ),
    "share": Say(
        (
            "{p} [share] them equally among {b} children.|How many {things} does each child get?",
            "Then {p} [give] them all to {b} friends, the same number to each.|How many does each friend get?",
            "{p} [divide] the {things} fairly between {b} people.|How many {things} does each person get?",
        ),
        ("{b} pupils ^get^ an equal share of the {things}.|How many {things} are there for each pupil?",),
        plan=("share by {b}", "divide by {b}"),
        why=("{a} {things} go to {b} people equally", "Share {a} by {b}"),
        then=("Each one gets {r}.", "So {r} for each."),
    ),
    "shared": Say((), (), then=("Each one gets {r} {things}.", "That is {r} {things} for each of them.")),
    "pack": Say(
        (
            "{p} [pack] all of them into {boxes} of {b}.|How many {boxes} [do] {p} fill?",
            "{p} [want] to put them into {boxes}, {b} in each {box}.|How many {boxes} [do] {p} need?",
            "A {box} <hold> {b} {things}.|How many {boxes} do the {things} fill?",
        ),
        ("{p} [sort] them so that every {box} <have> {b} of them.|How many {boxes} [do] {p} end up with?",),
        plan=("divide by {b} per {box}",),
        why=("{b} go into each {box}, so divide {a}", "Put {a} {things} into {boxes} of {b}"),
        then=("{r} {boxes} are filled.", "That makes {r} {boxes}."),
    ),
    "packed": Say((), (), then=("{P} [fill] {r} {boxes}.", "That takes {r} {boxes}.")),
    "together": Say(
        (
            "|{R} has {b} {things}. How many {things} do {we} have together?",
            "|{R} has another {b}. How many {things} is that for the two of {us}?",
            "|If {R} has {b} {things}, how many do {we} have in total?",
        ),
        ("|Counting the {b} {things} of {R} as well, how many are there altogether?",),
        plan=("add the {b} of {R}",),
        why=("{P} [have] {a} and {R} has {b}", "Add both numbers"),
        then=("Together that is {r}.", "So {r} in all."),
    ),
    "joined": Say((), (), then=("Together {we} have {r} {things}.", "Altogether there are {r} {things}.")),
    "more_than": Say(
        (
            "|{R} has {b} {things}. How many more {things} [do] {P} have than {R}?",
            "|{R} has only {b}. By how many {things} is {R} behind {him}?",
        ),
        ("|Compared with {R}, who has {b} {things}, how many more {things} [do] {P} have?",),
        plan=("compare with the {b} of {R}", "take away the {b} of {R}"),
        why=("{P} [have] {a}, {R} has {b}; the difference",),
        then=("The difference is {r}.",),
    ),
    "ahead": Say((), (), then=("{P} [have] {r} more {things} than {R}.", "The difference is {r} {things}.")),
}

SHOP = {
    "buy": Say(
        (
            "{P} [buy] {k} {things} for {n} {money} each.",
            "At the market {P} [pick] {k} {things} at {n} {money} apiece.",
            "{A_thing} <cost> {n} {money}, and {P} [take] {k} of them.",
        ),
        ("{P} [order] {k} {things}; one {thing} <cost> {n} {money}.", "{n} {money} <buy> one {thing}. {P} [need] {k}."),
        plan=("price of the {things}",),
        why=("{k} {things} at {n} {money} each", "{n} {money} for each of {k} {things}"),
        then=("The {things} cost {r}.", "That is {r} {money} for the {things}."),
    ),
    "buy_more": Say(
        (
            "{p} also [buy] {k} {things} at {n} {money} each.",
            "Then {p} [add] {k} {things} for {n} {money} each.",
            "{p} also [need] {k} {things}, which ^cost^ {n} {money} each.",
        ),
        ("On top of that {p} [choose] {k} {things}, and each {thing} <cost> {n} {money}.",),
        plan=("price of the {things}",),
        why=("{k} {things} at {n} {money} each", "Next, {n} {money} for each of {k} {things}"),
        then=("The {things} cost {r}.", "That is {r} {money} for the {things}."),
    ),
    "sum": Say(
        (),
        (),
        plan=("add both prices",),
        why=("Both together", "Add both prices"),
        then=("Together that is {r} {money}.", "So far {r} {money}."),
    ),
    "fee": Say(
        (
            "Delivery <cost> {b} {money} extra.",
            "A bag to carry everything <cost> {b} {money}.",
            "{p} [leave] a tip of {b} {money}.",
        ),
        ("Gift wrapping <add> {b} {money} to the bill.",),
        plan=("add {b}",),
        why=("{b} {money} come on top of {a}", "Add the extra {b} to {a}"),
        then=("With that it is {r} {money}.", "So the bill is {r}."),
    ),
    "discount": Say(
        (
            "A voucher <take> {b} {money} off the bill.",
            "{p} [use] a coupon worth {b} {money}.",
            "The seller <give> {him} {b} {money} off.",
        ),
        ("Because of a sale everything together <be> {b} {money} cheaper.",),
        plan=("take off {b}",),
        why=("{b} {money} come off {a}", "Take {b} off the {a}"),
        then=("That leaves {r} {money} to pay.", "So the bill is {r}."),
    ),
    "total": Say(
        (
            "How much [do] {p} pay?",
            "What does that cost altogether?",
            "How many {money} is that in total?",
        ),
        ("How much money [do] {p} need for this?", "What is on the bill in the end?"),
        then=("{P} [pay] {r} {money}.", "The total is {r} {money}."),
    ),
    "change": Say(
        (
            "{p} [pay] with {b} {money}.|How much change [do] {p} get?",
            "{p} [hand] over {b} {money}.|How much money [do] {p} get back?",
            "{p} [have] {b} {money} with {him}.|How much is left after paying?",
        ),
        ("{p} [come] with {b} {money} and [pay].|How much [do] {p} go home with?",),
        plan=("take that from {a}",),
        why=("{P} [give] {a} {money} and the bill is {b}", "Take the bill of {b} from {a}"),
        then=("{r} {money} are left.", "So {r} come back."),
    ),
    "changed": Say((), (), then=("{P} [have] {r} {money} left.", "What is left is {r} {money}.")),
    "split": Say(
        (
            "{b} people ^share^ the bill equally.|How much does each person pay?",
            "The bill <be> split evenly between {b} friends.|How much does each friend pay?",
        ),
        ("{b} neighbours ^pay^ for it together, each the same.|What does each neighbour pay?",),
        plan=("divide by {b}",),
        why=("{b} people share {a} {money}", "Split {a} into {b} equal parts"),
        then=("Each one pays {r}.", "So {r} for each."),
    ),
    "each_pays": Say((), (), then=("Each of them pays {r} {money}.", "Everybody pays {r} {money}.")),
}

PACE = {
    "go": Say(
        (
            "{P} [{verb}] {v} {units} {per_hour} and [keep] that up for {h} {hours}.",
            "{P} [{verb}] {v} {units} {per_hour} for {h} {hours}.",
            "For {h} {hours} {P} [{verb}] {v} {units} {per_hour}.",
        ),
        ("{P} [keep] up a pace of {v} {units} {per_hour} for {h} {hours}.",),
        plan=("how far in {h} {hours}", "{units} in {h} {hours}"),
        why=("{h} {hours} with {v} {units} each", "{v} {units} in each of {h} {hours}"),
        then=("That is {r} {units}.", "So {r} {units} are done."),
    ),
    "go_on": Say(
        (
            "After a break {p} [{verb}] {v} {units} {per_hour} for {h} more {hours}.",
            "Then {p} [{verb}] {v} {units} {per_hour} for another {h} {hours}.",
        ),
        ("The next {h} {hours} {p} [do] {v} {units} {per_hour}.",),
        plan=("{units} in the next {h} {hours}",),
        why=("Then {h} {hours} with {v} {units} each", "The second part: {v} {units} in each of {h} {hours}"),
        then=("The second part is {r} {units}.", "That is another {r} {units}."),
    ),
    "both_parts": Say(
        (),
        (),
        plan=("add both parts",),
        why=("Add both parts", "Both parts together"),
        then=("Together that is {r} {units}.", "So far {r} {units}."),
    ),
    "how_far": Say(
        (
            "How many {units} is that?",
            "How many {units} [do] {p} manage in that time?",
            "How many {units} is that altogether?",
        ),
        ("What is the total number of {units}?",),
        then=("That is {r} {units}.", "{P} [manage] {r} {units}."),
    ),
    "whole": Say(
        (
            "The whole {way} <be> {b} {metres} long.",
            "There ^be^ {b} {units} to do in all.",
            "The goal <be> {b} {units}.",
        ),
        ("All in all {p} [have] {b} {units} in front of {him}.",),
        plan=("take that from {a}",),
        why=("Of {a} {units}, {b} are done", "Take the {b} from {a}"),
        then=("{r} {units} are left.", "That leaves {r} {units}."),
    ),
    "how_much_left": Say(
        (
            "How many {units} are left?",
            "How many {units} [do] {p} still have to do?",
            "How many {units} are still to go?",
        ),
        ("What number of {units} remains?",),
        then=("There are {r} {units} left.", "{P} still [have] {r} {units} to do."),
    ),
    "rest": Say(
        (
            "The rest {p} [do] at a pace of {b} {units} {per_hour}.|How many more {hours} does that take?",
            "From then on {p} [{verb}] {b} {units} {per_hour}.|How many more {hours} [do] {p} need?",
        ),
        ("{p} [finish] with {b} {units} {per_hour}.|For how many {hours} does that go on?",),
        plan=("divide by {b} {per_hour}",),
        why=("{a} {units} at {b} {per_hour}", "{b} {units} take one {hour}, so divide {a}"),
        then=("That takes {r} {hours}.",),
    ),
    "rested": Say((), (), then=("It takes {r} more {hours}.", "{P} [need] another {r} {hours}.")),
    "how_long": Say(
        (
            "{P} [{verb}] {a} {units}, {b} {units} {per_hour}.|How many {hours} does that take?",
            "There ^be^ {a} {units} to {verb}, and {P} [manage] {b} {per_hour}.|How many {hours} [do] {p} need?",
        ),
        ("{P} [have] {a} {units} to do at {b} {units} {per_hour}.|After how many {hours} [be] {p} done?",),
        plan=("divide by {b} {per_hour}",),
        why=("{a} {units} at {b} {per_hour}", "{b} {units} take one {hour}, so divide {a}"),
        then=("That takes {r} {hours}.",),
    ),
    "timed": Say((), (), then=("It takes {r} {hours}.", "{P} [need] {r} {hours}.")),
}

MAKE = {
    "make": Say(
        (
            "{Maker} <make> {n} {things} {per_hour} and <run> for {h} {hours}.",
            "{Maker} <turn> out {n} {things} {per_hour}. That <go> on for {h} {hours}.",
            "For {h} {hours} {maker} <make> {n} {things} {per_hour}.",
        ),
        ("{n} {things} {per_hour} ^leave^ {maker}, for {h} {hours} in all.",),
        plan=("{things} in {h} {hours}",),
        why=("{h} {hours} with {n} {things} each", "{n} {things} in each of {h} {hours}"),
        then=("{r} {things} are made.", "That is {r} {things}."),
    ),
    "faulty": Say(
        ("{b} of them ^turn^ out faulty.", "{b} of them ^get^ broken.", "{b} of them ^be^ thrown away."),
        ("{b} of the {things} ^fail^ the check.",),
        plan=("take away {b}",),
        why=("{b} of the {a} are no good", "Take {b} away from {a}"),
        then=("{r} good ones are left.", "That leaves {r} {things}."),
    ),
    "stock": Say(
        ("{b} {things} from the day before ^be^ added.", "There ^be^ also {b} {things} from yesterday."),
        ("Another {b} {things} ^stand^ in the store room.",),
        plan=("add {b}",),
        why=("{b} more come to the {a}", "Add the other {b} to {a}"),
        then=("Now there are {r} {things}.", "That makes {r}."),
    ),
    "made": Say(
        ("How many {things} are there then?", "How many {things} does that make?"),
        ("What is the number of {things} now?",),
        then=("There are {r} {things}.", "That makes {r} {things}."),
    ),
    "crates": Say(
        (
            "The {things} ^be^ packed in crates of {b}.",
            "Each crate <take> {b} {things}.",
            "{b} {things} ^go^ into each crate.",
        ),
        ("The {things} ^be^ sent off in crates that ^hold^ {b} each.",),
        plan=("divide by {b} per crate",),
        why=("{b} go into each crate, so divide {a}", "Put {a} into crates of {b}"),
        then=("{r} crates are filled.", "That makes {r} crates."),
    ),
    "how_many_crates": Say(
        ("How many crates are filled?", "How many crates are needed for all of them?"),
        ("What number of crates does that give?",),
        then=("{r} crates are filled.", "That takes {r} crates."),
    ),
    "price": Say(
        ("Each crate <be> sold for {b} {money}.", "A crate <bring> in {b} {money}."),
        ("Shops ^pay^ {b} {money} for a crate.",),
        plan=("multiply by {b} {money}",),
        why=("{a} crates at {b} {money} each", "{b} {money} for each of {a} crates"),
        then=("That brings in {r} {money}.",),
    ),
    "earned": Say(
        ("How much money does that bring in?", "How many {money} come in when all crates are sold?"),
        ("What are all the crates worth together?",),
        then=("That brings in {r} {money}.", "Together the crates bring {r} {money}."),
    ),
}

ROWS = {
    "rows": Say(
        (
            "{Place} <have> {n} rows with {k} {seats} each.",
            "In {place} there ^be^ {n} rows of {k} {seats}.",
            "{Place} <have> {n} rows, and there ^be^ {k} {seats} in each row.",
        ),
        ("{n} rows of {k} {seats} ^fill^ {place}.",),
        plan=("all {seats}",),
        why=("{n} rows with {k} {seats} each", "{k} {seats} in each of {n} rows"),
        then=("There are {r} {seats}.", "That is {r} {seats} in all."),
    ),
    "free": Say(
        ("{b} of the {seats} ^be^ {bad}.", "All but {b} of the {seats} ^be^ {good}."),
        ("{b} {seats} ^be^ {bad}, the others {good}.",),
        plan=("take away {b}",),
        why=("{b} of the {a} are {bad}", "Only those that are {good} count, so take {b} from {a}"),
        then=("{r} {seats} are {good}.", "That leaves {r}."),
    ),
    "how_many_seats": Say(
        ("How many {seats} are there?", "How many {seats} is that altogether?"),
        ("What is the number of {seats}?",),
        then=("There are {r} {seats}.", "That is {r} {seats}."),
    ),
    "how_many_good": Say(
        ("How many {seats} are {good}?", "How many {seats} are not {bad}?"),
        ("What number of {seats} is {good}?",),
        then=("The number of {good} {seats} is {r}.", "Of the {seats}, {r} are {good}."),
    ),
    "yield": Say(
        ("Each of the {good} {seats} <{bear}> {b} {fruits}.", "Every {seat} that <be> {good} <{bear}> {b} {fruits}."),
        ("One {good} {seat} <{bear}> {b} {fruits}.",),
        plan=("multiply by {b} {fruits}",),
        why=("{a} {seats} with {b} {fruits} each", "{b} {fruits} for each of {a} {seats}"),
        then=("That gives {r} {fruits}.",),
    ),
    "costs": Say(
        ("{b} {fruits} ^go^ to the helpers.", "{b} {fruits} ^have^ to be handed to {owner}."),
        ("{b} {fruits} of that ^be^ set aside for {owner}.",),
        plan=("take away {b}",),
        why=("{b} of the {a} {fruits} go away", "Take {b} from {a}"),
        then=("{r} {fruits} remain.", "That leaves {r} {fruits}."),
    ),
    "how_many_fruits": Say(
        ("How many {fruits} is that?", "How many {fruits} are there in the end?"),
        ("What number of {fruits} does that come to?",),
        then=("That is {r} {fruits}.", "In the end there are {r} {fruits}."),
    ),
    "divide_fruits": Say(
        ("The {fruits} ^be^ divided equally between {b} clubs.|How many {fruits} does each club get?",),
        ("{b} schools ^get^ equal parts of the {fruits}.|How many {fruits} does one school get?",),
        plan=("divide by {b}",),
        why=("{a} {fruits} for {b} equal parts", "Divide {a} by {b}"),
        then=("Each one gets {r}.",),
    ),
    "divided": Say((), (), then=("Each of them gets {r} {fruits}.", "Each part is {r} {fruits}.")),
}

SAVE = {
    "save": Say(
        (
            "{P} [save] {n} {money} a week for {k} weeks.",
            "{P} [earn] {n} {money} a week and [put] all of it aside for {k} weeks.",
            "For {k} weeks {P} [save] {n} {money} every week.",
        ),
        ("Over {k} weeks {P} [put] away {n} {money} every week.",),
        plan=("savings of {k} weeks",),
        why=("{k} weeks with {n} {money} each", "{n} {money} in each of {k} weeks"),
        then=("{P} [save] {r} {money}.", "That is {r} {money}."),
    ),
    "had": Say(
        ("{p} already [have] {b} {money} before that.", "{b} {money} ^be^ in the money box already."),
        ("An aunt <put> {b} {money} on top.",),
        plan=("add {b}",),
        why=("The other {b} {money} come to {a}", "Add {b} to {a}"),
        then=("Now {P} [have] {r} {money}.", "That makes {r} {money}."),
    ),
    "spend": Say(
        ("Then {p} [spend] {b} {money} on {thing_a}.", "{p} [buy] {thing_a} for {b} {money}."),
        ("{thing_a} for {b} {money} <be> too nice to leave in the shop, and {p} [take] it.",),
        plan=("take away {b}",),
        why=("{b} of the {a} {money} are spent", "Take {b} from {a}"),
        then=("{r} {money} are left.", "That leaves {r} {money}."),
    ),
    "how_much": Say(
        ("How much money [do] {p} have now?", "How many {money} are there now?"),
        ("What does that add up to?",),
        then=("{P} now [have] {r} {money}.", "That is {r} {money}."),
    ),
    "goal": Say(
        (
            "|{P} [want] to buy {thing_b} for {a} {money}. How much is still missing?",
            "|{Thing_b} costs {a} {money}. How many {money} [do] {p} still need for it?",
        ),
        ("|How much more [do] {P} have to save for {thing_b} that costs {a} {money}?",),
        plan=("take that from {a}",),
        why=("The price is {a} and {b} are there", "Of {a} {money}, {b} are there already"),
        then=("{r} {money} are missing.",),
    ),
    "missing": Say((), (), then=("{P} still [need] {r} {money}.", "What is missing is {r} {money}.")),
    "goal_weeks": Say(
        (
            "|{P} [want] to buy {thing_b} for {g} {money} and now [save] {b} {money} a week. "
            "How many more weeks does it take?",
            "|{Thing_b} costs {g} {money}. If {P} now [save] {b} {money} each week, how many more weeks [do] {p} need?",
        ),
        (
            "|{P} now [lay] aside {b} {money} a week for {thing_b} that costs {g}. "
            "After how many more weeks is that enough?",
        ),
        plan=("divide by {b} a week",),
        why=("{a} {money} at {b} a week", "{b} {money} take one week, so divide {a}"),
        then=("That takes {r} weeks.",),
    ),
    "weeks": Say((), (), then=("It takes {r} more weeks.", "{P} [need] another {r} weeks.")),
}

COMPARE = {
    "first": Say(
        ("{A} has {a} {things}.", "{A} owns {a} {things}.", "{A} has collected {a} {things}."),
        ("We know that {A} has {a} {things}.", "{a} {things} belong to {A}."),
    ),
    "more": Say(
        ("{B} has {b} more {things} than {A}.", "{A} has {b} fewer {things} than {B}."),
        ("{B} is ahead of {A} by {b} {things}.",),
        plan=("{Bs} {things}",),
        why=("{B} has {b} more than the {a} of {A}", "For {B}, add {b} to {a}"),
        then=("{B} has {r}.", "So {B} has {r} {things}."),
    ),
    "fewer": Say(
        ("{B} has {b} fewer {things} than {A}.", "{A} has {b} more {things} than {B}."),
        ("{B} is short of {A} by {b} {things}.",),
        plan=("{Bs} {things}",),
        why=("{B} has {b} fewer than the {a} of {A}", "For {B}, take {b} from {a}"),
        then=("{B} has {r}.", "So {B} has {r} {things}."),
    ),
    "times": Say(
        ("{B} has {times} as many {things} as {A}.", "{B} has {times} as many as {A}."),
        ("The {things} of {B} are {times} as many as those of {A}.",),
        plan=("{Bs} {things}",),
        why=("{B} has {b} times the {a} of {A}", "For {B}, multiply {a} by {b}"),
        then=("{B} has {r}.", "So {B} has {r} {things}."),
    ),
    "half": Say(
        ("{B} has half as many {things} as {A}.", "{B} has only half as many as {A}."),
        ("{A} has double the {things} of {B}.",),
        plan=("{Bs} {things}",),
        why=("{B} has half of the {a} of {A}", "For {B}, halve {a}"),
        then=("{B} has {r}.", "So {B} has {r} {things}."),
    ),
    "one": Say(
        ("How many {things} does {B} have?", "How many {things} are {Bs}?"),
        ("What is the number of {things} that {B} has?",),
        then=("{B} has {r} {things}.",),
    ),
    "all": Say(
        (
            "|How many {things} do {names} have together?",
            "|How many {things} is that for {names} in total?",
            "|If {names} put their {things} together, how many are there?",
        ),
        ("|What do the {things} of {names} add up to?",),
        plan=("add them up",),
        why=("Add the {b} of {B} to {a}", "Now the {b} of {B} to the {a}"),
        then=("That makes {r}.", "Together {r}."),
    ),
    "summed": Say((), (), then=("Together they have {r} {things}.", "Altogether that is {r} {things}.")),
}

# One number that has nothing to do with the question, and how thinking sets it aside.
ASIDE = {
    "aside": Say(
        (
            "{Ps} dog <be> {d} years old.",
            "It <be> {d} degrees outside.",
            "{Q} <live> {d} houses further down the street.",
            "That day {Q} <sleep> for {d} hours.",
        ),
        ("The way home <take> {d} minutes.", "{Q} <be> {d} minutes late that day."),
        why=("The {d} does not matter here.", "The {d} has nothing to do with it."),
    ),
}

# Around a whole question; "{}" is the question.
FRAMES = {
    "frame": Say(
        (*["{}"] * 7, "Can you help me with this? {}", "{} Please check your answer."),
        ("{}", "Please work this out for me. {}", "{} Thanks!"),
    ),
}

ASIDE = extended(ASIDE, more.ASIDE, shopping.ASIDE)
FRAMES = extended(FRAMES, more.FRAMES, shopping.FRAMES)
BANKS = {
    "collect": extended(COLLECT, more.COLLECT, collecting.COLLECT),
    "shop": extended(SHOP, more.SHOP, shopping.SHOP),
    "pace": extended(PACE, more.PACE, work.PACE),
    "make": extended(MAKE, more.MAKE, work.MAKE),
    "rows": extended(ROWS, more.ROWS, rows_and_savings.ROWS),
    "save": extended(SAVE, more.SAVE, rows_and_savings.SAVE),
    "compare": extended(COMPARE, more.COMPARE, comparing.COMPARE),
}

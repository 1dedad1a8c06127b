"""Word problems of one to five steps, to be worked out with a calculator or digit by digit.

A story is a chain of steps on a quantity; the plots below choose the steps, word_phrasings.py has the
words. One calculator call per step. The thinking says before a call what is computed and why, uses the
result after it, and checks at the end. About one trace in ten makes a slip in its first expression
(a unit, a missing number, an operator in words), reads the tool's error and calls again; about one
question in seven mentions a number that does not matter.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from .. import language
from ..phrasing import banks
from ..task import Split, Task
from ..vocabulary import GOODS, MEN, THINGS, WOMEN
from .story import Story, Unfit

STEPS: dict[Split, tuple[int, ...]] = {"trained": (1, 2, 2, 3, 3), "held_out": (1, 2, 2, 3, 3), "longer": (4, 5)}
_PACES = (  # verb, units, per hour, hour, the whole, slowest and fastest
    *(
        ("drive", "kilometres", "an hour", "hour", "trip", 35, 130),
        ("cycle", "kilometres", "an hour", "hour", "tour", 9, 32),
    ),
    *(("walk", "kilometres", "a day", "day", "trail", 8, 38), ("sail", "miles", "a day", "day", "route", 20, 160)),
    *(("read", "pages", "a day", "day", "book", 8, 95), ("knit", "rows", "an evening", "evening", "scarf", 6, 70)),
    *(
        ("paint", "metres of fence", "a day", "day", "fence", 7, 60),
        ("dig", "metres of ditch", "a day", "day", "ditch", 4, 45),
    ),
    *(
        ("type", "pages", "a day", "day", "report", 4, 48),
        ("plough", "metres of field", "a day", "day", "field", 40, 240),
    ),
)
_MAKERS = (
    *(
        ("a bakery", "rolls", "an hour", "hour"),
        ("a workshop", "stools", "a day", "day"),
        ("a pottery", "bowls", "a day", "day"),
    ),
    *(
        ("a factory", "toy trains", "an hour", "hour"),
        ("a press", "medals", "an hour", "hour"),
        ("a dairy", "cheeses", "a day", "day"),
    ),
    *(("a sewing room", "shirts", "a week", "week"), ("a glass works", "jars", "an hour", "hour")),
    *(("a printing machine", "maps", "an hour", "hour"), ("a robot", "circuit boards", "a day", "day")),
)
_PLACES = (  # place, unit, plural, what is wrong with some, what the others are, what each yields, who takes some
    *(("a cinema", "seat", "seats", "empty", "taken", "earn", "dollars", "the owner"),),
    *(("a theatre", "seat", "seats", "free", "booked", "earn", "euros", "the city"),),
    *(("a car park", "space", "spaces", "free", "rented", "earn", "pounds", "the city"),),
    *(("an orchard", "tree", "trees", "bare", "healthy", "bear", "plums", "the owner"),),
    *(("a field", "plant", "plants", "withered", "healthy", "bear", "pumpkins", "the neighbours"),),
    *(("a greenhouse", "bush", "bushes", "dry", "green", "bear", "tomatoes", "the kitchen"),),
    *(("a vineyard", "vine", "vines", "sick", "healthy", "bear", "grapes", "the owner"),),
    *(("a harbour", "berth", "berths", "free", "rented", "earn", "crowns", "the harbour master"),),
    *(("a market hall", "stall", "stalls", "closed", "open", "earn", "francs", "the city"),),
)


def make(split: Split, seed: int, id: str) -> Task:
    """A word problem. Same arguments, same task."""
    rng = random.Random(f"word_problems/{split}/{seed}")
    while True:
        plot = rng.choice(tuple(_PLOTS))
        # Nobody speaks of oneself where several people are compared.
        says = banks(f"stories/{plot}", "stories/aside", "stories/frames")
        story = Story(rng, says, split == "held_out", speaks=plot != "compare")
        try:
            _PLOTS[plot](story, rng.choice(STEPS[split]))
        except Unfit:
            continue
        return story.task(split, id)


def _collect(story: Story, steps: int) -> None:
    rng = story.rng
    thing, things, box = rng.choice(THINGS)
    story.slots.update(thing=thing, things=things, box=box, boxes=language.plural(box))
    story.slots["relative"] = rng.choice(
        ("aunt", "uncle", "grandmother", "grandfather", "sister", "brother", "neighbour")
    )
    ends = {"now": 0, "share": 1, "pack": 1, "together": 1, "more_than": 1}
    end = rng.choice([e for e, cost in ends.items() if cost <= steps])
    have = story.size(low=6)
    story.tell("start", a=have)
    left, last = steps - ends[end], ""
    while left:
        act = rng.choice(("gain", "lose", "lose_half", "gain_packs", "lose_each", "multiply"))
        cost = 2 if act in ("gain_packs", "lose_each") else 1
        if cost > left or act == last:
            continue
        have, left, last = _collect_act(story, act, have), left - cost, act
    if end == "now":
        story.ask("now")
        return
    if end in ("share", "pack"):
        b = story.divisor(have)
        op, after = "/", {"share": "shared", "pack": "packed"}[end]
    else:
        b = story.size() if end == "together" else story.part(have)
        op, after = {"together": ("+", "joined"), "more_than": ("-", "ahead")}[end]
    story.tell(end, b=b)
    story.step(end, have, op, b)
    story.ask(after)


def _collect_act(story: Story, act: str, have: int) -> int:
    if act == "gain":
        b = story.size()
        story.tell(act, b=b)
        return story.step(act, have, "+", b)
    if act == "lose":
        b = story.part(have)
        story.tell(act, b=b)
        return story.step(act, have, "-", b)
    if act == "lose_half":
        story.tell(act)
        return story.step(act, have, "/", 2)
    if act == "multiply":
        b = story.rng.randint(2, 6)
        story.tell(act, times=language.times(b))
        return story.step(act, have, "*", b)
    k = story.rng.randint(2, 15)
    n = story.rng.randint(2, 60) if act == "gain_packs" else story.rng.randint(2, max(2, have // k))
    story.tell(act, k=k, n=n)
    several = story.step(act, k, "*", n, k=k, n=n)
    return (
        story.step("add_packs", have, "+", several)
        if act == "gain_packs"
        else story.step("take_packs", have, "-", several)
    )


def _shop(story: Story, steps: int) -> None:
    rng = story.rng
    chosen = rng.sample(GOODS, 2)
    shapes = {
        1: ("buy",),
        2: ("buy change", "buy split", "buy fee", "buy discount"),
        3: ("buy buy", "buy fee change", "buy discount change", "buy fee split", "buy discount split"),
        4: ("buy buy change", "buy buy split", "buy buy discount", "buy fee discount change"),
        5: ("buy buy fee change", "buy buy discount change", "buy buy discount split", "buy buy fee split"),
    }
    total, asked = 0, "total"
    for number, act in enumerate(rng.choice(shapes[steps]).split()):
        if act == "buy":
            total = _buy(story, chosen[number], number, total)
        elif act in ("fee", "discount"):
            b = rng.randint(2, 25) if act == "fee" else story.part(total)
            story.tell(act, b=b)
            total = story.step(act, total, "+" if act == "fee" else "-", b)
        elif act == "split":
            b = story.divisor(total, high=12)
            story.tell(act, b=b)
            total, asked = story.step(act, total, "/", b), "each_pays"
        else:
            b = _note(total, rng)
            story.tell(act, b=b)
            total, asked = story.step(act, b, "-", total), "changed"
    story.ask(asked)


def _buy(story: Story, good: tuple[str, str, int, int], number: int, total: int) -> int:
    thing, things, low, high = good
    k, n = story.rng.randint(2, 24), story.rng.randint(low, high)
    names: dict[str, object] = {
        "thing": thing,
        "things": things,
        "A_thing": language.with_article(thing),
        "k": k,
        "n": n,
    }
    kind = "buy_more" if number else "buy"
    story.tell(kind, **names)
    price = story.step(kind, k, "*", n, **names)
    return story.step("sum", total, "+", price) if number else price


def _note(total: int, rng: random.Random) -> int:
    """What one hands over for `total`: the next round amount, sometimes a little more."""
    unit = 10 if total < 60 else 50 if total < 400 else 100
    return (total // unit + rng.randint(1, 3)) * unit


def _pace(story: Story, steps: int) -> None:
    rng = story.rng
    verb, units, per_hour, hour, way, low, high = rng.choice(_PACES)
    story.slots.update(verb=verb, units=units, per_hour=per_hour, hour=hour, hours=hour + "s", way=way)
    story.slots["metres"] = units.split(" of ")[0]
    v = rng.randint(low, high)
    if steps == 1 and rng.random() < 0.4:
        a = v * rng.randint(2, 19)
        story.tell("how_long", a=a, b=v)
        story.step("how_long", a, "/", v)
        return story.ask("timed")
    h = rng.randint(2, 12)
    story.tell("go", v=v, h=h)
    done = story.step("go", h, "*", v, v=v, h=h)
    shape = rng.choice({1: ("",), 2: ("left",), 3: ("on", "left rest"), 4: ("on left",), 5: ("on left rest",)}[steps])
    if "on" in shape:
        v, h = rng.randint(low, high), rng.randint(2, 12)
        story.tell("go_on", v=v, h=h)
        more = story.step("go_on", h, "*", v, v=v, h=h)
        done = story.step("both_parts", done, "+", more)
    if "left" not in shape:
        return story.ask("how_far")
    v = rng.randint(low, high)
    remaining = v * rng.randint(2, 20) if "rest" in shape else story.size(low=5)
    story.tell("whole", b=done + remaining)
    story.step("whole", done + remaining, "-", done)
    if "rest" not in shape:
        return story.ask("how_much_left")
    story.tell("rest", b=v)
    story.step("rest", remaining, "/", v)
    return story.ask("rested")


def _make(story: Story, steps: int) -> None:
    rng = story.rng
    maker, things, per_hour, hour = rng.choice(_MAKERS)
    the_maker = f"the {maker.split(' ', 1)[1]}"
    story.slots.update(
        maker=maker, Maker=maker, the_maker=the_maker, things=things, per_hour=per_hour, hours=hour + "s"
    )
    n, h = rng.randint(6, 180), rng.randint(2, 14)
    story.tell("make", n=n, h=h)
    made = story.step("make", h, "*", n, n=n, h=h)
    shapes = {
        1: ("",),
        2: ("faulty", "stock", "crates"),
        3: ("faulty stock", "faulty crates", "stock crates", "crates price"),
        4: ("faulty stock crates", "faulty crates price", "stock crates price"),
        5: ("faulty stock crates price",),
    }
    asked = "made"
    for act in rng.choice(shapes[steps]).split():
        if act in ("faulty", "stock"):
            b = story.part(made) if act == "faulty" else story.size()
            story.tell(act, b=b)
            made = story.step(act, made, "-" if act == "faulty" else "+", b)
        elif act == "crates":
            b = story.divisor(made, low=3, high=40)
            story.tell(act, b=b)
            made, asked = story.step(act, made, "/", b), "how_many_crates"
        else:
            b = rng.randint(3, 95)
            story.tell(act, b=b)
            made, asked = story.step(act, made, "*", b), "earned"
    story.ask(asked)


def _rows(story: Story, steps: int) -> None:
    rng = story.rng
    place, seat, seats, bad, good, bear, fruits, owner = rng.choice(_PLACES)
    story.slots.update(
        place=place, Place=place, seat=seat, seats=seats, bad=bad, good=good, bear=bear, fruits=fruits, owner=owner
    )
    n, k = rng.randint(3, 36), rng.randint(4, 40)
    story.tell("rows", n=n, k=k)
    total = story.step("rows", n, "*", k, n=n, k=k)
    if steps == 1:
        return story.ask("how_many_seats")
    b = min(story.part(total), rng.randint(2, 90))
    story.tell("free", b=b)
    total = story.step("free", total, "-", b)
    if steps == 2:
        return story.ask("how_many_good")
    b = rng.randint(2, 40)
    story.tell("yield", b=b)
    total = story.step("yield", total, "*", b)
    acts = {3: (), 4: rng.choice((("costs",), ("divide_fruits",))), 5: ("costs", "divide_fruits")}[steps]
    for act in acts:
        b = story.part(total) if act == "costs" else story.divisor(total, high=12)
        story.tell(act, b=b)
        total = story.step(act, total, "-" if act == "costs" else "/", b)
    return story.ask("divided" if "divide_fruits" in acts else "how_many_fruits")


def _save(story: Story, steps: int) -> None:
    rng = story.rng
    cheap, _, low, high = rng.choice(GOODS)
    dear = rng.choice([good[0] for good in GOODS if good[3] >= 200])
    article = language.with_article(dear)
    story.slots.update(thing_a=language.with_article(cheap), thing_b=article, Thing_b=article)
    n, k = rng.randint(4, 120), rng.randint(2, 20)
    story.tell("save", n=n, k=k)
    have = story.step("save", k, "*", n, n=n, k=k)
    shapes = {
        1: ("",),
        2: ("had", "spend", "goal"),
        3: ("had spend", "had goal", "spend goal", "goal_weeks"),
        4: ("had spend goal", "had goal_weeks", "spend goal_weeks"),
        5: ("had spend goal_weeks",),
    }
    asked = "how_much"
    for act in rng.choice(shapes[steps]).split():
        if act in ("had", "spend"):
            b = story.size() if act == "had" else rng.randint(low, high)
            story.tell(act, b=b)
            have = story.step(act, have, "+" if act == "had" else "-", b)
        elif act == "goal":
            a = have + story.size(low=10)
            story.tell(act, a=a)
            have, asked = story.step(act, a, "-", have), "missing"
        else:
            b = rng.randint(4, 90)
            goal = have + b * rng.randint(2, 18)
            story.tell(act, g=goal, b=b)
            have = story.step("goal", goal, "-", have)
            have, asked = story.step(act, have, "/", b), "weeks"
    story.ask(asked)


def _compare(story: Story, steps: int) -> None:
    rng = story.rng
    story.tense = "present"
    names = rng.sample(WOMEN + MEN, 6)
    story.friend = story.slots["Q"] = rng.choice([n for n in WOMEN + MEN if n not in names])
    story.slots["things"] = rng.choice(("stickers", "stamps", "marbles", "badges", "postcards", "coins", "photos"))
    # r relations give r steps; to add up the r + 1 people takes r more.
    relations, added = rng.choice(
        {
            1: ((1, False),),
            2: ((1, True), (2, False)),
            3: ((3, False),),
            4: ((2, True), (4, False)),
            5: ((5, False),),
        }[steps]
    )
    amounts = [story.size(low=4)]
    story.tell("first", A=names[0], As=f"{names[0]}'s", a=amounts[0])
    for first, second in itertools.pairwise(names[: relations + 1]):
        amounts.append(relate(story, first, second, amounts[-1]))
    people = names[: relations + 1]
    if not added:
        return story.ask("one", B=people[-1], Bs=f"{people[-1]}'s")
    total = amounts[0]
    for name, amount in zip(people[1:], amounts[1:]):
        total = story.step("all", total, "+", amount, B=name)
    story.tell("all", names=language.listed(people))
    return story.ask("summed")


def relate(story: Story, first: str, second: str, have: int) -> int:
    """What `second` has, told by comparison with the `have` of `first`."""
    pair = {"A": first, "B": second, "Bs": f"{second}'s"}
    kind = story.rng.choice(("more", "fewer", "times", "half"))
    if kind == "more":
        op, b = "+", story.size()
    elif kind == "fewer":
        op, b = "-", story.part(have)
    else:
        op, b = ("*", story.rng.randint(2, 6)) if kind == "times" else ("/", 2)
    story.tell(kind, b=b, times=language.times(b), **pair)
    return story.step(kind, have, op, b, **pair)


_PLOTS: dict[str, Callable[[Story, int], None]] = {
    "collect": _collect,
    "shop": _shop,
    "pace": _pace,
    "make": _make,
    "rows": _rows,
    "save": _save,
    "compare": _compare,
}

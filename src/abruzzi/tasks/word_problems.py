"""Word problems of one to five steps, to be worked out with a calculator or digit by digit.

A story is a chain of steps on a quantity; the plots below choose the steps, word_phrasings.py has the
words. One calculator call per step. The thinking says before a call what is computed and why, uses the
result after it, and checks at the end. About one trace in ten makes a slip in its first expression
(a unit, a missing number, an operator in words), reads the tool's error and calls again; about one
question in seven mentions a number that does not matter.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import language
from .environments import Arithmetic
from .language import SPEAKER, Person, told
from .numbers import in_words
from .phrasing import Bank
from .task import Move, Split, Task
from .vocabulary import GOODS, MEN, MONEY, THINGS, WOMEN
from .word_phrasings import ASIDE, BANKS, FRAMES
from .workings import exact, work_out

STEPS: dict[Split, tuple[int, ...]] = {"trained": (1, 2, 2, 3, 3), "held_out": (1, 2, 2, 3, 3), "longer": (4, 5)}
LARGEST = 99_999
_ASIDE_SHARE, _SLIP_SHARE = 0.15, 0.10

_OPERATOR_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_REVERSED = {"+": "-", "-": "+", "*": "/", "/": "*"}
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


class Unfit(Exception):
    """The numbers drawn do not make a story (a rest, a negative amount, too large): draw again."""


@dataclass(frozen=True)
class Step:
    """One calculation of a story, and what thinking says around it."""

    a: int
    op: str
    b: int
    result: int
    plan: str
    why: str
    then: str


def make(split: Split, seed: int, id: str) -> Task:
    """A word problem. Same arguments, same task."""
    rng = random.Random(f"word_problems/{split}/{seed}")
    while True:
        plot = rng.choice(tuple(_PLOTS))
        story = Story(rng, plot, split == "held_out")
        try:
            _PLOTS[plot](story, rng.choice(STEPS[split]))
        except Unfit:
            continue
        return story.task(split, id)


class Story:
    """Sentences and steps as a plot tells them, all in one voice and tense."""

    def __init__(self, rng: random.Random, plot: str, held_out: bool) -> None:
        self.rng = rng
        self.bank = Bank({**BANKS[plot], **ASIDE, **FRAMES}, rng, held_out)
        man = rng.random() < 0.5
        speaks = plot != "compare" and rng.random() < 0.2
        mine, theirs = (MEN, WOMEN) if man else (WOMEN, MEN)
        self.person: Person = SPEAKER if speaks else (language.he if man else language.she)(rng.choice(mine))
        self.friend = rng.choice(theirs)  # of the other sex, so that a pronoun is never ambiguous
        self.tense: language.Tense = "past" if rng.random() < 0.35 else "present"
        self.words = rng.random() < 0.3  # small numbers written out
        other = rng.choice([name for name in theirs if name != self.friend])
        self.slots: dict[str, object] = {
            "Q": self.friend,
            "R": other,
            "us": "us" if speaks else "them",
            "money": rng.choice(MONEY),
        }
        self.sentences: list[str] = []
        self.question = ""
        self.answer = ""
        self.steps: list[Step] = []

    def tell(self, kind: str, **slots: object) -> None:
        """Add a sentence, and the question if the phrasing holds one after a "|"."""
        shown = {k: self._written(v, k) for k, v in slots.items()}
        told_part, _, asked = self.bank.draw(kind).partition("|")
        if told_part:
            self.sentences.append(self._render(told_part, shown, self.tense))
        if asked:
            self.question = self._render(asked, shown, "present")

    def step(self, kind: str, a: int, op: str, b: int, **slots: object) -> int:
        """Add a calculation with the thinking of `kind`; gives its result. Raises Unfit."""
        if b < 2 and op in "*/":
            raise Unfit
        try:
            result = exact(a, op, b)
        except ValueError:
            raise Unfit from None
        if not 2 <= result <= LARGEST:
            raise Unfit
        facts = {"a": a, "b": b, "r": result, **slots}
        plan, why, then = (self._think(kind, part, facts) for part in ("plan", "why", "then"))
        self.steps.append(Step(a, op, b, result, plan, why, then))
        return result

    def ask(self, kind: str, **slots: object) -> None:
        """Add the question of `kind`, unless a terminal sentence brought its own, and the answer to it."""
        if not self.question:
            self.question = self._render(self.bank.draw(kind), slots, "present")
        result = self.steps[-1].result
        self.answer = self._think(kind, "then", {"r": result, **slots})

    def size(self, low: int = 2, high: int = 999) -> int:
        """A number for the story: small ones, two digits and three digits are all common."""
        top = self.rng.choices((12, 99, 999), (0.25, 0.5, 0.25))[0]
        return self.rng.randint(low, max(low, min(top, high)))

    def divisor(self, n: int, low: int = 2, high: int = 24) -> int:
        """A number that divides n exactly and leaves at least 2. Raises Unfit."""
        fitting = [d for d in range(low, high + 1) if n % d == 0 and n // d >= 2]
        if not fitting:
            raise Unfit
        return self.rng.choice(fitting)

    def part(self, n: int) -> int:
        """A number below n that leaves something. Raises Unfit."""
        if n < 4:
            raise Unfit
        return min(self.size(), self.rng.randint(2, n - 2))

    def task(self, split: Split, id: str) -> Task:
        """The finished task, with a frame, perhaps an aside, and perhaps a slip."""
        rng = self.rng
        aside = ""
        free = [n for n in range(3, 13) if all(n not in (s.a, s.b, s.result) for s in self.steps)]
        if self.sentences and free and rng.random() < _ASIDE_SHARE:
            facts = {"d": rng.choice(free)}
            told_aside = self._render(self.bank.draw("aside"), facts, self.tense)
            self.sentences.insert(rng.randint(1, len(self.sentences)), told_aside)
            aside = self._think("aside", "why", facts)
        question = self.bank.draw("frame").format(" ".join([*self.sentences, self.question]))
        plan = _plan(self.steps, aside)
        return Task(
            id=id,
            family="word_problems",
            split=split,
            templates=tuple(self.bank.used),
            steps=len(self.steps),
            prompt=question,
            prompt_without_tools=question,
            answer=str(self.steps[-1].result),
            others=(),
            environment=Arithmetic(),
            moves=tuple(_moves(self.steps, plan, rng)),
            closing=f"{self.steps[-1].then} {_check(self.steps[-1], rng)}",
            alone=_alone(self.steps, plan),
            sentence=self.answer,
        )

    def _written(self, value: object, slot: str) -> object:
        spelled = self.words and slot in ("k", "h") and isinstance(value, int) and value <= 10
        return in_words(value) if spelled and isinstance(value, int) else value

    def _render(self, text: str, slots: dict[str, object], tense: language.Tense) -> str:
        return language.render(text, {**self.slots, **slots}, self.person, tense)

    def _think(self, kind: str, part: str, slots: dict[str, object]) -> str:
        text = self.bank.thought(kind, part)
        return language.render(text, {**self.slots, **slots}, told(self.person), opens=part != "plan")


def _plan(steps: list[Step], aside: str) -> str:
    """What is going to be done, said once at the beginning."""
    said = [aside] if aside else []
    if len(steps) > 1:
        said.append(f"Plan: {', then '.join(step.plan for step in steps)}.")
    return " ".join(said)


def _moves(steps: list[Step], plan: str, rng: random.Random) -> list[Move]:
    moves = []
    before = plan
    for i, step in enumerate(steps):
        expression = f"{step.a} {step.op} {step.b}"
        thought = f"{before} {step.why}: {expression}.".strip()
        if i == 0 and rng.random() < _SLIP_SHARE:
            wrong, remark = _slip(step, rng)
            moves.append(Move(thought, "calculator", {"expression": wrong}, "", planted=True))
            thought = f"{remark}: {expression}."
        moves.append(Move(thought, "calculator", {"expression": expression}, str(step.result)))
        before = step.then
    return moves


def _slip(step: Step, rng: random.Random) -> tuple[str, str]:
    """A malformed expression, and what thinking says once the tool has refused it."""
    a, op, b = step.a, step.op, step.b
    return rng.choice(
        (
            (f"{a} {op} {b} =", "The expression must not end with an equals sign. Again"),
            (f"{a} {op}", f"The second number, {b}, was missing. Again"),
            (f"{a} {_OPERATOR_WORDS[op]} {b}", f"The calculator wants the sign {op} and no word. Again"),
            (f"({a} {op} {b}", "A bracket was left open. It is not needed"),
        )
    )


def _check(step: Step, rng: random.Random) -> str:
    """The last step backwards, or a look at the size."""
    if rng.random() < 0.7:
        back = step.a
        return f"Check: {step.result} {_REVERSED[step.op]} {step.b} = {back}."
    relation = "more" if step.result > step.a else "less"
    return f"Check: {step.result} is {relation} than {step.a}, as it should be."


def _alone(steps: list[Step], plan: str) -> str:
    said = [plan] if plan else []
    said += [f"{step.why}. {work_out(step.a, step.op, step.b)}. {step.then}" for step in steps]
    return " ".join(said)


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
    cheap, dear = rng.choice(GOODS)[0], rng.choice([g for g in GOODS if g[3] >= 200])[0]
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
            b = story.size() if act == "had" else story.part(have)
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
    story.slots["things"] = rng.choice(
        ("stickers", "points", "stamps", "marbles", "badges", "postcards", "coins", "photos")
    )
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
    for first, second in zip(names, names[1 : relations + 1]):
        amounts.append(_relate(story, first, second, amounts[-1]))
    people = names[: relations + 1]
    if not added:
        return story.ask("one", B=people[-1], Bs=f"{people[-1]}'s")
    total = amounts[0]
    for name, amount in zip(people[1:], amounts[1:]):
        total = story.step("all", total, "+", amount, B=name)
    story.tell("all", names=language.listed(people))
    return story.ask("summed")


def _relate(story: Story, first: str, second: str, have: int) -> int:
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

"""The plot `shop`: somebody buys things and pays; words in words/stories/shop.txt.

Omar buys 4 mugs for 7 euros each. He pays with a 50 euro note. How much change does he get?
"""

from __future__ import annotations

import random

from ... import language
from ...vocabulary import GOODS
from ..story import Story


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

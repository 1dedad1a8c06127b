"""The plot `make`: a workshop turns out things by the hour; words in words/stories/make.txt.

A bakery makes 120 rolls an hour for 6 hours. 30 of them get broken. How many rolls are there then?
"""

from __future__ import annotations

from ..story import Story

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


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

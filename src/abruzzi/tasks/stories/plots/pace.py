"""The plot `pace`: somebody gets on at so much an hour or a day; words in words/stories/pace.txt.

Lena cycles 18 kilometres an hour for 5 hours. The whole tour is 120 kilometres long. How many are
left?
"""

from __future__ import annotations

from ..story import Story

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


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

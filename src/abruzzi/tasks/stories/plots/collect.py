"""The plot `collect`: somebody has a number of things and gets or loses some; words in
words/stories/collect.txt.

Mia has 24 marbles. Ben gives her another 18. She puts them into bags of 6. How many bags does she
fill?
"""

from __future__ import annotations

from ... import language
from ...vocabulary import THINGS
from ..story import Story


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

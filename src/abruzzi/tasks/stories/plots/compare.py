"""The plot `compare`: what people have, told by comparison; words in words/stories/compare.txt.

Ana has 14 stamps. Hugo has 5 more stamps than Ana. How many stamps do Ana and Hugo have together?
"""

from __future__ import annotations

import itertools

from ... import language
from ...vocabulary import MEN, WOMEN
from ..story import Story


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

"""The plot `save`: somebody saves money every week; words in words/stories/save.txt.

I save 12 pounds a week for 8 weeks. I want to buy a drill for 150 pounds. How much is still
missing?
"""

from __future__ import annotations

from ... import language
from ...vocabulary import GOODS
from ..story import Story


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

"""Word problems of one to five steps, to be worked out with a calculator or digit by digit.

    Walter spends 2 days on the route, doing 100 miles a day. The route is only finished after 258 miles.
    So how many miles does he have left?
        calculator: 2 * 100  -> 200;  258 - 200  -> 58

A story is a chain of steps on a quantity; a plot (plots/) chooses the steps, its file under
words/stories/ has the words. One calculator call per step. The thinking says before a call what is
computed and why, uses the result after it, and checks at the end. About one trace in ten makes a
slip in its first expression (a unit, a missing number, an operator in words), reads the tool's
error and calls again; about one question in seven mentions a number that does not matter.
"""

from __future__ import annotations

import random

from ..phrasing import banks
from ..task import Split, Task, Unfit
from .plots import PLOTS
from .story import Story

STEPS: dict[Split, tuple[int, ...]] = {"trained": (1, 2, 2, 3, 3), "held_out": (1, 2, 2, 3, 3), "longer": (4, 5)}


def make(split: Split, seed: int, id: str) -> Task:
    """A word problem. Same arguments, same task."""
    rng = random.Random(f"word_problems/{split}/{seed}")
    while True:
        plot = rng.choice(tuple(PLOTS))
        # Nobody speaks of oneself where several people are compared.
        says = banks(f"stories/{plot}", "stories/aside", "stories/frames")
        story = Story(rng, says, split == "held_out", speaks=plot != "compare")
        try:
            PLOTS[plot](story, rng.choice(STEPS[split]))
        except Unfit:
            continue
        return story.task(split, id)

"""Chains: arithmetic step by step, and amounts that depend on one another, told in any order.

    Put down 606 first. Subtract 8. Increase it by 36. What is the answer?
        calculator: 606 - 8  -> 598;  598 + 36  -> 634

`sums` names the steps ("Start with 47. Add 38. Take away 12.") or writes them down ("What is 47 +
38 - 12?"). In `linked` one amount is known, the next is told by comparison with it, and so on, but
the sentences are shuffled, and there are other people who do not matter: before the first step one
has to follow the question back to a known amount, which is what the thinking does. Trained chains
take two or three steps, "longer" ones four or five.
"""

from __future__ import annotations

import itertools
import random

from .. import language
from ..phrasing import banks
from ..stories.plots.compare import relate
from ..stories.story import Story
from ..task import Split, Task, Unfit
from ..vocabulary import MEN, WOMEN

_STEPS: dict[Split, tuple[int, ...]] = {"trained": (2, 2, 3), "held_out": (2, 2, 3), "longer": (4, 5)}
_LINKED_STEPS: dict[Split, tuple[int, ...]] = {"trained": (2, 3, 3), "held_out": (2, 3, 3), "longer": (4, 5)}
_SIGNS = {"plus": "+", "minus": "-", "by": "*", "over": "/"}
_THINGS = ("stickers", "stamps", "marbles", "badges", "postcards", "coins", "photos", "beads", "shells")


def make(split: Split, seed: int, id: str) -> Task:
    """A chain. Same arguments, same task."""
    rng = random.Random(f"chains/{split}/{seed}")
    while True:
        linked = rng.random() < 0.5
        says = banks("stories/compare" if linked else "chains/sums", "stories/frames")
        story = Story(rng, says, split == "held_out", speaks=False)
        story.tense = "present"
        try:
            if linked:
                _linked(story, rng.choice(_LINKED_STEPS[split]))
            else:
                _sums(story, rng.choice(_STEPS[split]))
        except Unfit:
            continue
        return story.task(split, id, family="chains")


def _sums(story: Story, steps: int) -> None:
    rng = story.rng
    value = rng.randint(11, 99) if rng.random() < 0.6 else rng.randint(100, 999)
    if rng.random() < 0.35:
        return _written(story, value, steps)
    story.tell("begin", a=value)
    last = ""
    for _ in range(steps):
        kind = rng.choice([k for k in ("plus", "plus", "minus", "minus", "by", "over") if k != last])
        value, last = _next(story, kind, value), kind
    return story.ask("result")


def _next(story: Story, kind: str, value: int) -> int:
    if kind == "plus":
        b = story.rng.randint(11, 250)
    elif kind == "minus":
        b = story.part(value)
    else:
        b = story.rng.randint(2, 9) if kind == "by" else story.divisor(value, high=9)
    story.tell(kind, b=b, times=language.times(b))
    return story.step(kind, value, _SIGNS[kind], b)


def _written(story: Story, value: int, steps: int) -> None:
    rng, chain = story.rng, str(value)
    for _ in range(steps):
        kind = rng.choice(("plus", "minus"))
        b = rng.randint(11, 250) if kind == "plus" else story.part(value)
        chain += f" {_SIGNS[kind]} {b}"
        value = story.step(kind, value, _SIGNS[kind], b)
    story.tell("written", chain=chain)
    story.question = story.sentences.pop()
    story.ask("result")


def _linked(story: Story, steps: int) -> None:
    rng = story.rng
    names = rng.sample(WOMEN + MEN, 10)
    story.slots["things"] = rng.choice(_THINGS)
    # Somebody else's chain, with a known amount of its own; it is not worked out.
    chain, others = names[: steps + 1], names[steps + 1 :]
    amount = have = story.size(low=4)
    story.tell("first", A=chain[0], As=f"{chain[0]}'s", a=have)
    for first, second in itertools.pairwise(chain):
        have = relate(story, first, second, have)
    kept = list(story.steps)
    if rng.random() < 0.85:
        other = story.size(low=4)
        story.tell("first", A=others[0], As=f"{others[0]}'s", a=other)
        relate(story, others[0], others[1], other)
        others = others[2:]
    if rng.random() < 0.5:  # a branch: compared with somebody of the chain
        at = rng.randrange(steps)
        relate(story, chain[at], others[0], amount if at == 0 else kept[at - 1].result)
    story.steps = kept
    rng.shuffle(story.sentences)
    story.ask("one", B=chain[-1], Bs=f"{chain[-1]}'s")
    back = [f"{chain[-1]} depends on {chain[-2]}"]
    back += [f"{b} on {a}" for a, b in reversed(list(itertools.pairwise(chain[:-1])))]
    story.trace = f"{', '.join(back)}, and {chain[0]} has {amount}."

"""The plot `rows`: rows of seats or trees and what they yield; words in words/stories/rows.txt.

A cinema has 12 rows of 20 seats. 15 of the seats are empty. How many seats are taken?
"""

from __future__ import annotations

from ..story import Story

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


def tell(story: Story, steps: int) -> None:
    """Tell a story of `steps` calculations. Raises Unfit."""
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

"""Puzzles solved a second time: clues read from the question's words, everything tried, expressions
by Fraction.

The readers below share nothing with the generators but the phrasings.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

import pytest

from abruzzi.tasks import SPLITS, GoldError, Split, Task, make
from abruzzi.tasks.audit import audit
from abruzzi.tasks.phrasing import bank
from abruzzi.tasks.puzzles.countdown import Countdown, makeable
from abruzzi.tasks.verifiers import Expression, Named
from abruzzi.tasks.vocabulary import MEN, WOMEN
from tests.unit.tasks.filled import phrasing, slots

COUNTDOWN, COMPARE, LIARS, SEATS = (bank(f"puzzles/{name}") for name in ("countdown", "compare", "liars", "seats"))
SEEDS = 120
MORE = ("taller", "older", "faster", "heavier", "stronger", "richer")


@pytest.fixture(scope="module")
def tasks() -> dict[Split, list[Task]]:
    return {split: [make("puzzles", split, seed) for seed in range(SEEDS)] for split in SPLITS}


def kind_of(task: Task) -> str:
    used = {template.split(".")[0] for template in task.templates}
    return next(k for k in ("countdown", "pair", "liars", "seats") if k in used)


# Countdown: one more way to try everything, in the manner of the game of 24.


def value_of(expression: str) -> Fraction:
    assert re.fullmatch(r"[\d+\-*/() ]+", expression)
    return eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction})


def written(numbers: list[tuple[Fraction, str]], target: int) -> Iterator[str]:
    """The expressions with all or some of the numbers that make the target, fully bracketed."""
    for (i, (a, left)), (j, (b, right)) in itertools.permutations(enumerate(numbers), 2):
        others = [n for k, n in enumerate(numbers) if k not in (i, j)]
        made = [(a - b, f"({left} - {right})"), *([(a / b, f"({left} / {right})")] if b else [])]
        if i < j:
            made += [(a + b, f"({left} + {right})"), (a * b, f"({left} * {right})")]
        for value, text in made:
            if value == target:
                yield text
            if others:
                yield from written([(value, text), *others], target)


def test_any_right_expression_is_rewarded_and_no_wrong_one(tasks: dict[Split, list[Task]]) -> None:
    solutions = 0
    for task in [t for made in tasks.values() for t in made if kind_of(t) == "countdown"]:
        assert isinstance(task.verifier, Expression)
        numbers, target = list(task.verifier.numbers), task.verifier.target
        shown = [int(n) for n in re.findall(r"\d+", task.prompt)]
        assert Counter(shown) == Counter([*numbers, target])
        assert value_of(task.answer) == target
        assert not Counter(map(int, re.findall(r"\d+", task.answer))) - Counter(numbers)
        if len(numbers) == 5:
            continue  # a hundred thousand ways to try
        for expression in itertools.islice(written([(Fraction(n), str(n)) for n in numbers], target), 4):
            assert value_of(expression) == target
            assert task.reward(f"The answer is {expression} = {target}.") == 1.0, expression
            assert task.reward(expression.replace("*", "×").replace("/", "÷")) == 1.0
            assert task.reward(f"{expression} = {target + 1}") == 0.0
            assert task.reward(f"{expression} + {numbers[0]} - {numbers[0]}") == 0.0
            solutions += 1
    assert solutions > 150


def test_everything_that_can_be_made_is_found() -> None:
    for numbers in ((2, 3, 25), (8, 3, 3), (7, 7, 4)):
        values = makeable(numbers)
        for target in range(1, 60):
            ways = written([(Fraction(n), str(n)) for n in numbers], target)
            with_all = any(len(re.findall(r"\d+", text)) == 3 for text in ways)
            assert with_all == (Fraction(target) in values), (numbers, target)
    assert Fraction(24) in makeable((8, 3, 3, 8))  # 8 / (3 - 8 / 3): fractions on the way


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("(25 - 4) * 3", True),
        ("It is 3 * (25 - 4) = 63.", True),
        ("**(25 − 4) × 3**", True),
        ("- (25 - 4) * 3", True),
        ("25 * 3 - 4 * 3, no: (25-4)*3", True),
        ("(25 - 4) * 3 = 64", False),
        ("(25 - 4) * 3 or 25 + 4", False),
        ("25 - 4 = 21, 21 * 3 = 63", False),
        ("25 * 3 - 4 * 3", False),
        ("63", False),
        ("60 + 3", False),
        ("(25 - 4) ** 3", False),
        ("((25 - 4) * 3", False),
        ("(" * 5000 + "25 - 4" + ")" * 5000, False),
        ("__import__('os').getcwd() + (25 - 4)", False),
        ("9**9**9**9", False),
        ("3 / (25 - 25)", False),
        ("", False),
    ],
)
def test_an_expression(text: str, reward: bool) -> None:
    assert Expression((25, 4, 3), 63).accepts(text) == reward


# Logic puzzles: every clue taken by its kind and the names in its slots, everything tried.


def read(task: Task, kinds: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """The phrasings of these kinds in the question, in its order: kind and slots."""
    used = [t for t in task.templates if t.split(".")[0] in kinds]
    used.sort(key=lambda t: t.startswith(("seats.", "liars.")), reverse=True)  # seats draws its opening last
    found = slots([phrasing({**COMPARE, **SEATS, **LIARS}, t) for t in used], task.prompt)
    return [(t.split(".")[0], slot) for t, slot in zip(used, found)]


def names(text: str) -> list[str]:
    return [name for name in re.findall(r"\w+", text) if name in WOMEN + MEN]


def comparison_answer(task: Task) -> set[str]:
    *clues, (asked, _) = read(task, COMPARE)
    above = [(*names(slot["a"]), *names(slot["b"])) for _, slot in clues]
    for _, slot in clues:
        assert slot.get("more", "taller") in MORE and slot.get("less", "shorter") not in MORE
    found = set()
    for order in itertools.permutations({person for pair in above for person in pair}):
        if all(order.index(a) < order.index(b) for a, b in above):
            found.add(" ".join(order) if asked == "order" else order[{"most": 0, "second": 1, "least": -1}[asked]])
    return found


def liars_answer(task: Task) -> set[str]:
    (_, opening), *said, (asked, _) = read(task, ("liars", "says", "who_lies", "who_honest"))
    people = names(opening["names"])
    words = [t for t in task.templates if t.split(".")[0] in ("lies", "honest", "same", "differ", "either")]
    claims = []
    for template, (_, slot) in zip(words, said, strict=True):
        (about,) = slots([phrasing(LIARS, template)], slot["said"])
        claims.append((template.split(".")[0], slot["p"], about["q"], about.get("r", "")))
    found = set()
    for liars in itertools.chain.from_iterable(itertools.combinations(people, n) for n in range(len(people) + 1)):

        def true(kind: str, p: str, q: str, r: str, liars: tuple[str, ...] = liars) -> bool:
            if kind == "either":
                return q in liars or r in liars
            if kind in ("lies", "honest"):
                return (q in liars) == (kind == "lies")
            return ((q in liars) == (p in liars)) == (kind == "same")

        if all(true(*claim) == (claim[1] not in liars) for claim in claims):
            found.add(" ".join(p for p in people if (p in liars) == (asked == "who_lies")))
    return found


def seats_answer(task: Task) -> set[str]:
    (_, opening), *clues, (_, asked) = read(task, SEATS)
    people = names(opening["names"])
    assert re.findall(r"\d+", opening.get("n", f"{len(people)}")) == [f"{len(people)}"]
    found = set()
    for row in itertools.permutations(people):
        at = {person: seat for seat, person in enumerate(row, 1)}

        def holds(kind: str, slot: dict[str, str], at: dict[str, int] = at) -> bool:
            p = at[slot["p"]]
            if kind == "at":
                return p == int(slot["k"])
            apart = at[slot["q"]] - p
            return {"left_of": apart == 1, "before": apart > 0}.get(kind, (abs(apart) == 1) == (kind == "beside"))

        if all(holds(*clue) for clue in clues):
            found.add(row[int(asked["k"]) - 1] if asked else " ".join(row))
    return found


READERS = {"pair": comparison_answer, "liars": liars_answer, "seats": seats_answer}


@pytest.mark.parametrize("split", SPLITS)
def test_the_question_read_again_has_one_answer(tasks: dict[Split, list[Task]], split: Split) -> None:
    seen: Counter[str] = Counter()
    for task in tasks[split]:
        kind = kind_of(task)
        if kind != "countdown":
            answer = re.sub(r", | and ", " ", task.answer)
            assert READERS[kind](task) == {answer}, task.prompt
            seen[kind] += 1
    assert len(seen) == 3 and min(seen.values()) >= 8, seen


def test_only_the_gold_is_rewarded(tasks: dict[Split, list[Task]]) -> None:
    for made in tasks.values():
        for task, other in itertools.pairwise(made):
            assert task.reward(task.sentence) == task.reward(task.answer) == 1.0
            if kind_of(task) == "countdown" or not isinstance(task.verifier, Named):
                assert task.reward(other.answer) == float(task.answer == other.answer)
                continue
            for name in task.verifier.others:
                assert task.reward(name) == task.reward(f"{task.answer}, not {name}") == 0.0


def test_puzzles_without_tools_are_one_task_in_both_modes(tasks: dict[Split, list[Task]]) -> None:
    for task in tasks["trained"]:
        with task.open_tools() as tools:
            names = [tool.spec.name for tool in tools]
        assert names == (["calculator"] if kind_of(task) == "countdown" else [])
        assert task.prompt == task.prompt_without_tools
        if not names:
            for thinking in (False, True):
                assert task.gold(thinking, tools=True) == task.gold(thinking, tools=False)


def test_the_search_shows_dead_ends(tasks: dict[Split, list[Task]]) -> None:
    """What is pruned is said: many countdowns and nearly all liars fail somewhere before they
    succeed."""
    for kind, least in (("countdown", 0.4), ("liars", 0.9)):
        of_kind = [t for made in tasks.values() for t in made if kind_of(t) == kind]
        assert sum(bool(re.search(r"\bno[.,]", t.alone)) for t in of_kind) >= least * len(of_kind)


def test_there_are_enough_phrasings_and_some_are_held_out() -> None:
    says = [say for one in (COUNTDOWN, COMPARE, LIARS, SEATS) for say in one.values()]
    trained, held_out = ({text for s in says for text in getattr(s, pool)} for pool in ("trained", "held_out"))
    assert not trained & held_out
    sizes = len(trained), len(held_out)
    assert sizes[0] >= 250 and sizes[1] >= 20


# Planted mistakes: audit() must see each of them.


def _first(kind: str) -> Task:
    for seed in range(100):
        task = make("puzzles", "trained", seed)
        if kind_of(task) == kind and not task.mistakes():
            return task
    raise AssertionError(f"no {kind} among 100")


def test_a_puzzle_with_several_answers_or_another_one_is_seen() -> None:
    pair, seats, liars = _first("pair"), _first("seats"), _first("liars")
    for task in (pair, seats, liars):
        audit(task)
    loose = [
        replace(pair, puzzle=replace(pair.puzzle, above=(), asked="order")),  # type: ignore[type-var]
        replace(seats, puzzle=replace(seats.puzzle, clues=seats.puzzle.clues[:-1], seat=0)),  # type: ignore
        replace(liars, puzzle=replace(liars.puzzle, statements=())),  # type: ignore[type-var]
    ]
    reversed_pairs = tuple((b, a) for a, b in pair.puzzle.above)  # type: ignore[union-attr]
    other = replace(pair, puzzle=replace(pair.puzzle, above=reversed_pairs, asked="order"))  # type: ignore[type-var]
    for task in (*loose, other):
        with pytest.raises(GoldError, match="the puzzle does not hold"):
            audit(task)


def test_a_wrong_name_or_a_lax_verifier_is_seen() -> None:
    class Lax:
        def accepts(self, text: str) -> bool:
            return True

        def wrong(self) -> tuple[str, ...]:
            return ("nobody",)

    for kind in ("pair", "seats", "liars", "countdown"):
        task = _first(kind)
        with pytest.raises(GoldError, match="the verifier accepts"):
            audit(replace(task, verifier=Lax()))
        with pytest.raises(GoldError, match=r"gets no reward|does not hold"):
            audit(replace(task, answer="Nobody"))


def test_mistakes_in_countdown_are_seen() -> None:
    task = _first("countdown")
    audit(task)
    assert isinstance(task.verifier, Expression) and isinstance(task.puzzle, Countdown)
    numbers, target = task.verifier.numbers, task.verifier.target
    easy = replace(task.puzzle, target=numbers[0] + numbers[1], fewer=1)
    with pytest.raises(GoldError, match="can be made from"):
        audit(replace(task, puzzle=easy))
    with pytest.raises(GoldError, match="gets no reward"):
        audit(replace(task, sentence=f"{numbers[0]} + {numbers[1]} = {target}"))
    wrong = re.sub(r"(\d+) (yes\.)", lambda m: f"{int(m[1]) + 1} {m[2]}", task.alone)
    with pytest.raises(GoldError, match="wrong arithmetic"):
        audit(replace(task, alone=wrong))
    with pytest.raises(GoldError, match="a leap"):
        audit(replace(task, alone=f"7919 would do. {task.alone}"))
    *moves, last = task.moves
    with pytest.raises(GoldError, match="returned"):
        audit(replace(task, moves=(*moves, replace(last, arguments={"expression": f"{target} + {target}"}))))

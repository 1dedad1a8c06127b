"""Puzzles solved a second time: clues read from the question's words, everything tried, expressions by Fraction.

The readers below share nothing with the generators but the English.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest

from abruzzi.tasks import SPLITS, GoldError, Split, Task, make
from abruzzi.tasks.countdown import Countdown, makeable
from abruzzi.tasks.puzzle_phrasings import COMPARE, COUNTDOWN, LIARS, SEATS
from abruzzi.tasks.verifiers import Expression, Named
from tests.unit.tasks.bare import bare

SEEDS = 120
NAME = r"([A-Z][a-z]+)"
MORE = ("taller", "older", "faster", "heavier", "stronger", "richer")
MOST = ("tallest", "oldest", "fastest", "heaviest", "strongest", "richest")


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


# Logic puzzles: every clue read, everything tried.


def comparison_answer(text: str) -> set[str]:
    above, asked = [], ""
    for sentence in re.split(r"(?<=[.?]) ", text):
        if m := re.fullmatch(rf"{NAME} is (\w+) than {NAME}\.", sentence):
            above.append((m[1], m[3]) if m[2] in MORE else (m[3], m[1]))
        elif m := re.fullmatch(rf"(?:Compared with )?{NAME}(?:,| is not as \w+ as) {NAME}(?: is \w+)?\.", sentence):
            above.append((m[2], m[1]))
        else:
            asked = sentence
    people = sorted({name for pair in above for name in pair})
    fits = [
        order
        for order in itertools.permutations(people)
        if all(order.index(high) < order.index(low) for high, low in above)
    ]
    best = next((word for word in MOST if word in asked), None)
    if "from" in asked or "Sort" in asked:
        return {" ".join(order) for order in fits}
    at = 1 if re.search("second|after", asked) else 0 if best else -1
    return {order[at] for order in fits}


CLAIMS = (
    (rf"{NAME} (?:lies|is a liar)\.", lambda h, me, q: not h[q]),
    (rf"You cannot believe {NAME}, who always lies\.", lambda h, me, q: not h[q]),
    (rf"{NAME} (?:tells the truth|never lies)\.", lambda h, me, q: h[q]),
    (rf"You can believe {NAME}, who is honest\.", lambda h, me, q: h[q]),
    (rf"{NAME} and I are of the same kind\.", lambda h, me, q: h[q] == h[me]),
    (rf"Either {NAME} and I both lie, or neither of us does\.", lambda h, me, q: h[q] == h[me]),
    (rf"{NAME} is just as honest or dishonest as I am\.", lambda h, me, q: h[q] == h[me]),
    (rf"{NAME} and I are of different kinds\.", lambda h, me, q: h[q] != h[me]),
    (rf"Exactly one of the two of us, {NAME} or I, lies\.", lambda h, me, q: h[q] != h[me]),
    (rf"One of {NAME} and me tells the truth, the other does not\.", lambda h, me, q: h[q] != h[me]),
    (rf"At least one of {NAME} and {NAME} lies\.", lambda h, me, q, r: not (h[q] and h[r])),
    (rf"{NAME} and {NAME} are not both truth-tellers\.", lambda h, me, q, r: not (h[q] and h[r])),
    (rf"A liar is among {NAME} and {NAME}\.", lambda h, me, q, r: not (h[q] and h[r])),
)


def liars_answer(text: str) -> set[str]:
    said = re.findall(rf'{NAME}(?: says| claims)?: "([^"]+)"', text)
    people = [speaker for speaker, _ in said]
    found = set()
    for kinds in itertools.product((True, False), repeat=len(people)):
        honest = dict(zip(people, kinds))
        fits = True
        for speaker, words in said:
            ((match, rule),) = [(m, rule) for pattern, rule in CLAIMS if (m := re.fullmatch(pattern, words))]
            fits = fits and rule(honest, speaker, *match.groups()) == honest[speaker]
        if fits:
            wants_liars = re.search(r"(?:lies|lie|liars)\b[^\"]*$", text.rsplit('"', 1)[1])
            found.add(" ".join(p for p in people if honest[p] != bool(wants_liars)))
    return found


FACTS = (
    (rf"{NAME} (?:sits in|has taken|took) seat (\d)\.", lambda at, p, k: at(p) == int(k)),
    (rf"Seat (\d) is for {NAME}\.", lambda at, k, p: at(p) == int(k)),
    (rf"{NAME} sits (?:directly to the|just) left of {NAME}\.", lambda at, p, q: at(p) == at(q) - 1),
    (rf"{NAME} sits directly to the right of {NAME}\.", lambda at, q, p: at(p) == at(q) - 1),
    (rf"The neighbour on the left of {NAME} is {NAME}\.", lambda at, q, p: at(p) == at(q) - 1),
    (rf"{NAME} (?:sits somewhere to the left of|is further left than) {NAME}\.", lambda at, p, q: at(p) < at(q)),
    (rf"{NAME} sits further right than {NAME}\.", lambda at, q, p: at(p) < at(q)),
    (rf"{NAME} sits next to {NAME}\.", lambda at, p, q: abs(at(p) - at(q)) == 1),
    (rf"{NAME} and {NAME} are neighbours\.", lambda at, p, q: abs(at(p) - at(q)) == 1),
    (rf"Nobody sits between {NAME} and {NAME}\.", lambda at, p, q: abs(at(p) - at(q)) == 1),
    (rf"{NAME} does not sit next to {NAME}\.", lambda at, p, q: abs(at(p) - at(q)) > 1),
    (rf"{NAME} and {NAME} are not neighbours\.", lambda at, p, q: abs(at(p) - at(q)) > 1),
    (rf"Somebody sits between {NAME} and {NAME}\.", lambda at, p, q: abs(at(p) - at(q)) > 1),
)


def seats_answer(text: str, people: list[str]) -> set[str]:
    _, *clues, asked = re.split(r"(?<=[.?]) ", text)
    read = []
    for clue in clues:
        ((match, rule),) = [(m, rule) for pattern, rule in FACTS if (m := re.fullmatch(pattern, clue))]
        read.append((rule, match.groups()))
    seat = re.search(r"seat (\d)|number (\d)", asked)
    found = set()
    for row in itertools.permutations(people):

        def at(person: str, row: tuple[str, ...] = row) -> int:
            return row.index(person) + 1

        if all(rule(at, *groups) for rule, groups in read):
            found.add(row[int(seat[1] or seat[2]) - 1] if seat else " ".join(row))
    return found


def answers_read(task: Task, kind: str) -> set[str]:
    text = re.sub(r"^Please work this out for me\. ", "", bare(task.prompt))
    text = re.sub(r" Thanks!$", "", text)
    if kind == "pair":
        return comparison_answer(text)
    if kind == "liars":
        return liars_answer(text)
    return seats_answer(text, list(task.puzzle.people))  # type: ignore[union-attr]


@pytest.mark.parametrize("split", SPLITS)
def test_the_question_read_again_has_one_answer(tasks: dict[Split, list[Task]], split: Split) -> None:
    read: Counter[str] = Counter()
    for task in tasks[split]:
        kind = kind_of(task)
        if kind != "countdown":
            answer = re.sub(r", | and ", " ", task.answer)
            assert answers_read(task, kind) == {answer}, task.prompt
            read[kind] += 1
    assert len(read) == 3 and min(read.values()) >= 8, read


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
    """What is pruned is said: many countdowns and nearly all liars fail somewhere before they succeed."""
    for kind, least in (("countdown", 0.4), ("liars", 0.9)):
        of_kind = [t for made in tasks.values() for t in made if kind_of(t) == kind]
        assert sum(bool(re.search(r"\bno[.,]", t.alone)) for t in of_kind) >= least * len(of_kind)


def test_there_are_enough_phrasings_and_a_quarter_is_held_out() -> None:
    says = [say for bank in (COUNTDOWN, COMPARE, LIARS, SEATS) for say in bank.values()]
    trained, held_out = ({text for s in says for text in getattr(s, pool)} for pool in ("trained", "held_out"))
    assert len(trained) + len(held_out) >= 35 and not trained & held_out
    assert 0.2 <= len(held_out) / (len(trained) + len(held_out)) <= 0.5


# Planted mistakes: validate() must see each of them.


def _first(kind: str) -> Task:
    for seed in range(100):
        task = make("puzzles", "trained", seed)
        if kind_of(task) == kind and not task.mistakes():
            return task
    raise AssertionError(f"no {kind} among 100")


def test_a_puzzle_with_several_answers_or_another_one_is_seen() -> None:
    pair, seats, liars = _first("pair"), _first("seats"), _first("liars")
    for task in (pair, seats, liars):
        task.validate()
    loose = [
        replace(pair, puzzle=replace(pair.puzzle, above=(), asked="order")),  # type: ignore[type-var]
        replace(seats, puzzle=replace(seats.puzzle, clues=seats.puzzle.clues[:-1], seat=0)),  # type: ignore
        replace(liars, puzzle=replace(liars.puzzle, statements=())),  # type: ignore[type-var]
    ]
    reversed_pairs = tuple((b, a) for a, b in pair.puzzle.above)  # type: ignore[union-attr]
    other = replace(pair, puzzle=replace(pair.puzzle, above=reversed_pairs, asked="order"))  # type: ignore[type-var]
    for task in (*loose, other):
        with pytest.raises(GoldError, match="the puzzle does not hold"):
            task.validate()


def test_a_wrong_name_or_a_lax_verifier_is_seen() -> None:
    class Lax:
        def accepts(self, text: str) -> bool:
            return True

        def wrong(self) -> tuple[str, ...]:
            return ("nobody",)

    for kind in ("pair", "seats", "liars", "countdown"):
        task = _first(kind)
        with pytest.raises(GoldError, match="the verifier accepts"):
            replace(task, verifier=Lax()).validate()
        with pytest.raises(GoldError, match=r"gets no reward|does not hold"):
            replace(task, answer="Nobody").validate()


def test_mistakes_in_countdown_are_seen() -> None:
    task = _first("countdown")
    task.validate()
    assert isinstance(task.verifier, Expression) and isinstance(task.puzzle, Countdown)
    numbers, target = task.verifier.numbers, task.verifier.target
    easy = replace(task.puzzle, target=numbers[0] + numbers[1], fewer=1)
    with pytest.raises(GoldError, match="can be made from"):
        replace(task, puzzle=easy).validate()
    with pytest.raises(GoldError, match="gets no reward"):
        replace(task, sentence=f"{numbers[0]} + {numbers[1]} = {target}").validate()
    wrong = re.sub(r"(\d+) (yes\.)", lambda m: f"{int(m[1]) + 1} {m[2]}", task.alone)
    with pytest.raises(GoldError, match="wrong arithmetic"):
        replace(task, alone=wrong).validate()
    with pytest.raises(GoldError, match="a leap"):
        replace(task, alone=f"7919 would do. {task.alone}").validate()
    *moves, last = task.moves
    with pytest.raises(GoldError, match="returned"):
        replace(task, moves=(*moves, replace(last, arguments={"expression": f"{target} + {target}"}))).validate()

"""Tasks hold what they promise: every gold validates, splits do not mix, answers cannot be guessed.

`audit()` plays the gold with the real tools, so each generator's own arithmetic is compared with
the tools'; the tests at the end plant mistakes and demand that audit() sees them.
"""

from __future__ import annotations

import json
import pickle
import random
import re
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import islice

import pytest

from abruzzi.tasks import (
    FAMILIES,
    FIRST_FAMILIES,
    SPLITS,
    GoldError,
    Split,
    Task,
    examples,
    hurried,
    make,
    mistyped,
    stream,
)
from abruzzi.tasks.audit import audit
from abruzzi.tasks.folders import scenes
from abruzzi.tasks.phrasing import Bank, bank
from abruzzi.tasks.tables.sheet import Sheet
from abruzzi.tasks.tables.themes import themes

PLOTS = [bank(f"stories/{plot}") for plot in ("collect", "shop", "pace", "make", "rows", "save", "compare")]
ASIDE, FRAMES, SUMS = bank("stories/aside"), bank("stories/frames"), bank("chains/sums")
QUESTIONS, INTRODUCTIONS = bank("tables/questions"), bank("tables/introductions")
FOLDER_INTRODUCTIONS = bank("folders/introductions")
ASKS = [scenes.scene(name).asks for name in scenes.NAMES]
TASKS_EACH = 300
ALLOWED_STEPS = {
    "word_problems": {"trained": {1, 2, 3}, "held_out": {1, 2, 3}, "longer": {4, 5}},
    "table_questions": {"trained": {1, 2, 3}, "held_out": {1, 2, 3}, "longer": {4, 5}},
    "folder_facts": {"trained": {2, 3, 4}, "held_out": {2, 3, 4}, "longer": {5, 6}},
    "dates_and_units": {"trained": {1, 2, 3, 4}, "held_out": {1, 2, 3, 4}, "longer": {5, 6}},
    "puzzles": {"trained": {2, 3}, "held_out": {2, 3}, "longer": {4, 5}},
    "chains": {"trained": {2, 3}, "held_out": {2, 3}, "longer": {4, 5}},
}
# Families with a number as the answer, worked out digit by digit; puzzles plant their mistakes in
# test_puzzles.py.
NUMBERS = (*FIRST_FAMILIES, "dates_and_units")
EVERY: list[tuple[str, Split]] = [(family, split) for family in FAMILIES for split in SPLITS]


@pytest.fixture(scope="module")
def tasks() -> dict[tuple[str, Split], list[Task]]:
    return {(f, s): [make(f, s, seed) for seed in range(TASKS_EACH)] for f, s in EVERY}


@pytest.mark.parametrize(("family", "split"), EVERY)
def test_every_gold_validates(tasks: dict[tuple[str, Split], list[Task]], family: str, split: Split) -> None:
    for task in tasks[family, split]:
        audit(task)


@pytest.mark.parametrize(("family", "split"), EVERY)
def test_steps_answers_and_slips_are_spread(
    tasks: dict[tuple[str, Split], list[Task]], family: str, split: Split
) -> None:
    made = tasks[family, split]
    steps = Counter(task.steps for task in made)
    assert set(steps) == ALLOWED_STEPS[family][split]
    assert min(steps.values()) >= 0.08 * TASKS_EACH
    (answer, count), *_ = Counter(task.answer for task in made).most_common(1)
    assert count <= 0.05 * TASKS_EACH, f"{answer!r} is right {count} times of {TASKS_EACH}"
    assert 0.04 <= sum(bool(task.mistakes()) for task in made) / TASKS_EACH <= 0.17
    # With tools two questions may read alike, since the data behind the tool differ.
    assert len({task.prompt_without_tools for task in made}) == TASKS_EACH
    assert len({task.prompt for task in made}) >= 0.85 * TASKS_EACH


def test_a_seed_gives_one_task_and_no_global_state_is_touched() -> None:
    wanted: list[tuple[str, Split, int]] = [(family, split, seed) for family, split in EVERY for seed in (0, 7, 2**61)]
    before = random.getstate()
    first = [make(*w) for w in wanted]
    traces = [task.gold(thinking=True, tools=True) for task in first]
    assert random.getstate() == before
    random.seed(5)
    assert [make(*w) for w in reversed(wanted)] == first[::-1]
    assert [task.gold(thinking=True, tools=True) for task in first] == traces
    assert pickle.loads(pickle.dumps(first)) == first

    def ids(seed: int) -> list[str]:
        return [task.id for task in islice(stream(list(FAMILIES), "trained", seed), 20)]

    assert ids(3) == ids(3) != ids(4)


def test_held_out_phrasings_are_never_trained(tasks: dict[tuple[str, Split], list[Task]]) -> None:
    for family in FAMILIES:
        seen = {t for split in ("trained", "longer") for task in tasks[family, split] for t in task.templates}
        held_out = {t for task in tasks[family, "held_out"] for t in task.templates}
        assert not seen & held_out
        questions = {split: {task.prompt_without_tools for task in tasks[family, split]} for split in SPLITS}
        assert not questions["trained"] & questions["held_out"]
        assert not questions["trained"] & questions["longer"]
    banks = [*PLOTS, ASIDE, QUESTIONS, INTRODUCTIONS, FOLDER_INTRODUCTIONS, *ASKS]
    for says in banks:
        trained = {text for say in says.values() for text in say.trained}
        assert not trained & {text for say in says.values() for text in say.held_out}
    # A question without any words around it belongs to both pools.
    assert set(FRAMES["frame"].trained) & set(FRAMES["frame"].held_out) == {"{}"}


def test_a_bank_draws_from_the_pool_of_its_split() -> None:
    for says in (*PLOTS, ASIDE, QUESTIONS, INTRODUCTIONS, FOLDER_INTRODUCTIONS):
        for held_out in (False, True):
            for kind, say in says.items():
                pool = say.held_out if held_out else say.trained
                drawing = Bank(says, random.Random(1), held_out)
                assert {drawing.draw(kind) for _ in range(20 * len(pool))} == set(pool)


def test_there_are_enough_phrasings_and_some_are_held_out() -> None:
    for banks in (PLOTS, [QUESTIONS], ASKS, [SUMS]):
        says = [say for one in banks for say in one.values() if say.trained]
        trained, held_out = sum(len(s.trained) for s in says), sum(len(s.held_out) for s in says)
        assert trained >= 30
        assert 8 <= held_out <= trained  # a share would only say how wide the trained ones are
        assert sum(bool(s.held_out) for s in says) >= 0.75 * len(says)
        assert all(len(set(s.trained)) == len(s.trained) for s in says)
    assert len(themes(held_out=True)) >= 8


def test_the_themes_and_words_for_training_alone_are_in_no_held_out_table() -> None:
    own = {theme.tables: theme for theme in themes(held_out=True)}
    assert len(own) == 10
    trained = [Sheet(random.Random(seed), held_out=False) for seed in range(200)]
    for seed in range(200):
        sheet = Sheet(random.Random(seed), held_out=True)
        measure, words = sheet.measure, sheet.words
        assert own[sheet.theme.tables].of_group[0] == words.of_group
        firsts = [pool[0] for pool in (measure.noun, measure.most, measure.least, measure.more, measure.less)]
        assert firsts == [words.noun, words.most, words.least, words.more, words.less]
    assert {sheet.theme.tables for sheet in trained} == {theme.tables for theme in themes(held_out=False)} > set(own)
    assert sum(sheet.words.noun != sheet.measure.noun[0] for sheet in trained) > 50


def test_no_trained_phrasing_is_nearly_a_held_out_one() -> None:
    """Word by word, with difflib as the judge; a phrasing that says little beside its slots has to
    be alike."""

    def words(text: str) -> list[str]:
        return re.findall(r"\{?\w+", text.lower())

    compared = 0
    banks = [*PLOTS, QUESTIONS, SUMS, *ASKS]
    for trained, held_out in ((t, h) for says in banks for s in says.values() for t in s.trained for h in s.held_out):
        alike = SequenceMatcher(None, words(trained), words(held_out)).ratio()
        assert alike < 0.85, (trained, round(alike, 2))
        compared += 1
    assert compared > 600


def test_a_question_in_a_hurry_keeps_its_numbers_names_and_answer(
    tasks: dict[tuple[str, Split], list[Task]],
) -> None:
    ways = set()
    for family in FAMILIES:
        for seed, task in enumerate(tasks[family, "trained"][:100]):
            typed = hurried(task, random.Random(seed))
            audit(typed)
            assert (typed.answer, typed.moves, typed.environment) == (task.answer, task.moves, task.environment)
            question, _, data = typed.prompt_without_tools.partition("\n\n")
            before, _, data_before = task.prompt_without_tools.partition("\n\n")
            assert data == data_before
            assert re.findall(r"\w+", question.lower()) == re.findall(r"\w+", before.lower())
            if family in ("table_questions", "folder_facts"):  # what is looked up is still there, letter by letter
                called = [value for move in task.moves for value in re.findall(r"'([^']+)'", str(move.arguments))]
                assert all((value in question) == (value in before) for value in called)
            ways.add((question == before, question == before.lower(), question[-1] == before[-1], ", " in question))
    assert len(ways) >= 6


def test_a_mistyped_question_keeps_what_its_answer_needs(tasks: dict[tuple[str, Split], list[Task]]) -> None:
    lengths = set()
    for family in FAMILIES:
        changed = 0
        for seed, task in enumerate(tasks[family, "trained"][:100]):
            typed = mistyped(task, random.Random(seed))
            audit(typed)  # every number and name of the solution is still given
            assert (typed.answer, typed.moves, typed.environment) == (task.answer, task.moves, task.environment)
            before, after = task.prompt.split(), typed.prompt.split()
            assert len(before) == len(after) and re.findall(r"\d+", task.prompt) == re.findall(r"\d+", typed.prompt)
            slips = [(b, a) for b, a in zip(before, after) if a != b]
            assert all(b[0] == a[0] and abs(len(a) - len(b)) <= 1 for b, a in slips)
            lengths |= {len(a) - len(b) for b, a in slips}
            changed += bool(slips)
        assert changed > 30
    assert lengths == {-1, 0, 1}
    assert mistyped(task, random.Random(0), share=0.0) == task


@pytest.mark.parametrize(("family", "split"), EVERY)
def test_the_english_has_no_slips_that_a_pattern_can_find(
    tasks: dict[tuple[str, Split], list[Task]], family: str, split: Split
) -> None:
    wrong = {
        "article": r"\ba [aeiou]\w|\ban (?!hour)[^aeiou\W]",
        "plural after one": r"(?<![\d.,])1 (?!is\b)[a-z]+s\b",
        "doubled word": r"\b(\w+) \1\b",
        "I in the third person": r"\bI (?:has|is|buys|gives|does|wants)\b|\byou (?:has|is|does)\b",
        "a small letter after a full stop": r"[.?!] [a-z]",
        "a space before punctuation": r"(?<!=) [.,?!;:]",
    }
    for task in tasks[family, split]:
        thoughts = [task.closing, *(move.thought for move in task.moves if not move.planted)]
        for text in (task.prompt, task.sentence, *thoughts):
            text = re.sub(r"[\w/]+\.txt", "FILE", text)
            for name, pattern in wrong.items():
                assert not re.search(pattern, text), f"{task.id}: {name}: {text!r}"


def test_examples_are_typical() -> None:
    shown = examples()
    assert {task.family for task in shown} == set(FAMILIES)
    for task in shown:
        audit(task)
        assert not task.mistakes()


def test_unknown_words_are_refused() -> None:
    for bad in (("sums", "trained", 1), ("word_problems", "test", 1), ("word_problems", "trained", -1)):
        with pytest.raises(ValueError, match="expected"):
            make(*bad)  # type: ignore[arg-type]


def test_modes_differ_only_where_they_should(tasks: dict[tuple[str, Split], list[Task]]) -> None:
    for made in tasks.values():
        for task in made[:20]:
            plain = task.gold(thinking=False, tools=True)
            assert all(message.reasoning_content is None for message in plain)
            assert all(len(task.gold(thinking=thinking, tools=False)) == 1 for thinking in (False, True))
            thought = task.gold(thinking=True, tools=True)
            slips = {i for m in task.mistakes() for i in (m, m + 1)}
            kept = [replace(m, reasoning_content=None) for i, m in enumerate(thought) if i not in slips]
            assert [(m.role, m.content, [c.arguments for c in m.tool_calls]) for m in kept] == [
                (m.role, m.content, [c.arguments for c in m.tool_calls]) for m in plain
            ]


def test_the_folder_is_removed_afterwards() -> None:
    task = make("folder_facts", "trained", 1)
    with task.open_tools() as tools:
        (files,) = [tool for tool in tools if tool.spec.name == "files"]
        root = files.root  # type: ignore[attr-defined]
        assert root.is_dir()
    assert not root.exists()


# Planted mistakes: audit() must see each of them.


def _first(family: str, **wanted: int) -> Task:
    """A task of the family without a slip that has the wanted number of steps, and a number as its
    answer."""
    for seed in range(200):
        task = make(family, "trained", seed)
        if not task.mistakes() and not task.others and not task.verifier and task.steps == wanted.get("steps", 3):
            return task
    raise AssertionError("no such task among 200")


def _with_move(task: Task, index: int, **changes: object) -> Task:
    moves = list(task.moves)
    moves[index] = replace(moves[index], **changes)  # type: ignore[arg-type]
    return replace(task, moves=tuple(moves))


def test_a_wrong_result_is_seen() -> None:
    for family in NUMBERS:
        task = _first(family)
        audit(task)
        wrong = str(int(task.answer) + 10)
        with pytest.raises(GoldError, match="returned"):
            audit(_with_move(task, -1, expect=wrong))
        other = replace(task, answer=wrong, sentence=task.sentence.replace(task.answer, wrong))
        with pytest.raises(GoldError, match=r"leap|does not stand"):
            audit(other)
        with pytest.raises(GoldError, match="gets no reward"):
            audit(replace(task, answer=wrong))


def test_a_leap_is_seen() -> None:
    task = _first("word_problems", steps=2)
    *_, last = task.moves
    left, operator, right = last.arguments["expression"].split()
    # The last step at once, with a number that nobody computed before.
    leapt = replace(task, moves=(last,), steps=1)
    with pytest.raises(GoldError, match="a leap"):
        audit(leapt)
    unknown = f"{left} {operator} {right} + 7919 - 7919"
    with pytest.raises(GoldError, match="a leap"):
        audit(_with_move(task, -1, arguments={"expression": unknown}))
    with pytest.raises(GoldError, match="a leap"):
        audit(_with_move(task, 0, thought=task.moves[0].thought + " That will be 7919."))
    table = _first("table_questions")
    sql = table.moves[0].arguments["sql"]
    with pytest.raises(GoldError, match="a leap"):
        audit(_with_move(table, 0, arguments={"sql": f"{sql} AND 7919 = 7919"}))


def test_a_path_that_was_never_seen_is_a_leap() -> None:
    for seed in range(200):
        task = make("folder_facts", "trained", seed)
        if not task.mistakes() and task.moves[1].arguments.get("action") == "read":
            leapt = replace(task, moves=task.moves[1:], steps=task.steps - 1)
            with pytest.raises(GoldError, match="the path"):
                audit(leapt)
            return
    raise AssertionError("no task that reads after its first search")


def test_wrong_arithmetic_in_thinking_is_seen() -> None:
    for family in NUMBERS:
        task = _first(family)
        result = re.search(r"-> (\d+)|= (\d+)", task.alone)
        assert result
        at = result.end() - 1
        digit = str((int(task.alone[at]) + 1) % 10)
        with pytest.raises(GoldError, match="wrong arithmetic"):
            audit(replace(task, alone=task.alone[:at] + digit + task.alone[at + 1 :]))


def test_a_lax_verifier_is_seen() -> None:
    class Lax(Task):
        def reward(self, text: str) -> float:
            return float(self.answer in text)  # "42, not 41" and 142 would pass for 42

    class Generous(Task):
        def reward(self, text: str) -> float:
            return 1.0

    for family in NUMBERS:
        task = _first(family)
        for kind in (Lax, Generous):
            with pytest.raises(GoldError, match="the verifier accepts"):
                audit(kind(**vars(task)))


def test_tool_errors_must_be_planted_and_planted_slips_must_be_errors() -> None:
    task = _first("word_problems")
    broken = {"expression": task.moves[0].arguments["expression"] + " *"}
    with pytest.raises(GoldError, match="returned"):
        audit(_with_move(task, 0, arguments=broken))
    slip = replace(task.moves[0], planted=True)
    with pytest.raises(GoldError, match="planted slip"):
        audit(replace(task, moves=(slip, *task.moves)))


def test_arguments_are_json(tasks: dict[tuple[str, Split], list[Task]]) -> None:
    for made in tasks.values():
        for task in made[:20]:
            for message in task.gold(thinking=True, tools=True):
                for call in message.tool_calls:
                    assert json.loads(call.arguments)

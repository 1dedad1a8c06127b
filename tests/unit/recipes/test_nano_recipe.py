"""nano's recipe: what is trained in which share."""

from __future__ import annotations

from collections import Counter

import abruzzi
from abruzzi import tokenizer
from abruzzi.recipes import nano

SAMPLES = 4 * len(nano.MIX)


def test_every_mode_gets_as_many_samples_of_every_kind() -> None:
    vocab = tokenizer.from_json((abruzzi.nano_path() / "tokenizer.json").read_text(), nano.DEFAULTS)
    think, declare = vocab.id_of("<think>"), vocab.id_of("<|im_system|>")
    modes: dict[tuple[str, str], Counter[tuple[bool, bool]]] = {}
    for number in range(SAMPLES):
        task = nano.training_task(number)
        made = nano.sample(vocab, number)
        thought = made.ids[made.ids.index(think) + 1] != vocab.id_of("</think>")
        with task.open_tools() as opened:  # some puzzles have none in any mode
            tools = made.ids.count(declare) > 1 if opened else number // 2 % 2 == 0
        modes.setdefault((task.family, task.split), Counter())[thought, tools] += 1
    assert all(len(c) == 4 and len(set(c.values())) == 1 for c in modes.values())
    assert set(modes) == set(nano.MIX)
    longer = sum(sum(c.values()) for (_, split), c in modes.items() if split == "longer")
    assert 0.15 <= longer / SAMPLES <= 0.25
    assert not any(split == "held_out" for _, split in modes)


def test_some_questions_are_typed_in_a_hurry() -> None:
    tasks = [nano.training_task(number) for number in range(600)]
    small = sum(task.prompt == task.prompt.lower() for task in tasks)
    unmarked = sum(task.prompt_without_tools.split("\n\n")[0][-1] not in ".?!" for task in tasks)
    assert 0.03 < small / 600 < 0.15 and 0.06 < unmarked / 600 < 0.2


def test_some_questions_have_typing_slips_and_all_are_of_their_task() -> None:
    clean, typed = ([make(n) for n in range(600)] for make in (nano.clean_task, nano.training_task))
    assert all((a.answer, a.moves, a.environment) == (b.answer, b.moves, b.environment) for a, b in zip(clean, typed))
    same = sum(a.prompt.lower().split() == b.prompt.lower().split() for a, b in zip(clean, typed))
    assert 0.55 < same / 600 < 0.8

"""nano's recipes: what is trained in which share, and that the next edition begins as the shipped one is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

import abruzzi
from abruzzi import model, recipes, tokenizer
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
        tools = made.ids.count(declare) > 1
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


def test_nano_next_begins_with_the_weights_that_ship(tmp_path: Path) -> None:
    prepared = recipes.prepare("nano_next", tmp_path)
    prepared.close()
    assert prepared.start == abruzzi.nano_path() and prepared.config.model.int4 is not None
    weights = model.load(abruzzi.nano_path())
    assert weights.config == prepared.config.model
    ids = np.array([[5, 300, 17, 42, 900, 3, 3, 250]])
    with torch.no_grad():
        ours = weights(torch.from_numpy(ids))[0].numpy()
    theirs = abruzzi.load("nano").logits(ids[0].tolist())
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in weights.parameters())
    assert (tmp_path / "tokenizer.json").read_bytes() == (abruzzi.nano_path() / "tokenizer.json").read_bytes()

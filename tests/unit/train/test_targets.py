"""Whom a run learns from: from what the assistant says, and from nobody else, all the way from text
to gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from abruzzi import tokenizer
from abruzzi.data.packing import PADDING, Conversation, Row, pack
from abruzzi.model import Trace
from abruzzi.train.loop import Trainer
from abruzzi.types import Message, ToolCall, ToolSpec
from tests import tiny
from tests.unit.train.test_loop import MODEL, RUN

VOCAB = tiny.vocabulary()
TOOLS = [ToolSpec("calculator", "Works it out.", {"type": "object"})]
MESSAGES = [
    Message("system", "You are tiny."),
    Message("user", "Mia has 12 marbles and buys 30 more."),
    Message(
        "assistant", "", reasoning_content="add", tool_calls=(ToolCall("calculator", '{"expression": "12 + 30"}'),)
    ),
    Message("tool", "42"),
    Message("assistant", "She has 42.", reasoning_content="done"),
]


def speakers() -> tuple[list[int], list[bool], list[str]]:
    """ids, mask, and who speaks each id; the last from the lengths of growing renderings, not from
    the mask.

    What the assistant's header says is put there by us, so it counts as nobody's speech."""
    who: list[str] = []
    for count in range(1, len(MESSAGES) + 1):
        upto = tokenizer.render(VOCAB, MESSAGES[:count], TOOLS, add_generation_prompt=False).ids
        role = MESSAGES[count - 1].role
        turn = [role] * (len(upto) - len(who))
        if role == "assistant":
            header = tokenizer.render(VOCAB, MESSAGES[: count - 1], TOOLS, add_generation_prompt=True).ids
            turn[: len(header) - len(who)] = ["header"] * (len(header) - len(who))
        who += turn
    whole = tokenizer.render(VOCAB, MESSAGES, TOOLS, add_generation_prompt=False)
    return whole.ids, whole.sampled, who


def packed(mask: list[bool]) -> Row:
    """Twice the conversation in one row, and some padding."""
    ids, _, _ = speakers()
    conversation = Conversation(ids, mask, [False] * len(ids))
    (row,) = pack([conversation, conversation], 2 * len(ids) + 9, pad_id=0)
    return row


def gradient_by_speaker(row: Row, folder: Path) -> dict[str, float]:
    """Largest gradient at the places that predict each speaker's tokens, taken where the head reads
    them."""
    model = replace(MODEL, vocab_size=VOCAB.vocab_size, max_position_embeddings=512)
    trainer = Trainer(replace(RUN, model=model), lambda _: [row], folder)
    _, _, who = speakers()
    after = [*who, *who, *["padding"] * 9][1:]
    ids, segments, sampled, _ = trainer._tensors([row])
    real = trainer.model.hidden
    caught: list[torch.Tensor] = []

    def hidden(*args: object, **kwargs: object) -> torch.Tensor:
        out = real(*args, **kwargs)  # type: ignore[arg-type]
        out.retain_grad()
        caught.append(out)
        return out

    trainer.model.hidden = hidden  # type: ignore[method-assign]
    loss, _ = trainer._loss(ids, segments, sampled.float(), sampled, Trace())
    loss.backward()
    assert caught[0].grad is not None
    size_T = caught[0].grad[0].abs().amax(-1)
    assert size_T[-1] == 0  # nothing comes after the last
    return {w: max(float(size_T[t]) for t, x in enumerate(after) if x == w) for w in set(after)}


def test_only_what_the_assistant_says_has_a_gradient(tmp_path: Path) -> None:
    _, mask, who = speakers()
    assert [w == "assistant" for w in who] == mask
    seen = gradient_by_speaker(packed(mask), tmp_path)
    assert seen.pop("assistant") > 0
    assert seen == {"system": 0.0, "user": 0.0, "tool": 0.0, "header": 0.0, "padding": 0.0}


@pytest.mark.parametrize("mistake", ["one early", "one late", "results count", "all count"])
def test_a_planted_mistake_in_the_mask_is_seen(tmp_path: Path, mistake: str) -> None:
    _, mask, who = speakers()
    wrong = {
        "one early": [*mask[1:], False],
        "one late": [False, *mask[:-1]],
        "results count": [m or w == "tool" for m, w in zip(mask, who)],
        "all count": [True] * len(mask),
    }[mistake]
    seen = gradient_by_speaker(packed(wrong), tmp_path)
    seen.pop("assistant")
    assert any(seen.values())


def test_other_targets_outside_the_mask_change_no_bit_of_the_loss(tmp_path: Path) -> None:
    _, mask, _ = speakers()
    row = packed(mask)
    model = replace(MODEL, vocab_size=VOCAB.vocab_size, max_position_embeddings=512)
    trainer = Trainer(replace(RUN, model=model), lambda _: [row], tmp_path)
    ids, segments, sampled, _ = trainer._tensors([row])
    hidden = trainer.model.hidden(ids, segments_BT=segments).detach()
    trainer.model.hidden = lambda *a, **k: hidden  # type: ignore[method-assign]

    def loss(targets: torch.Tensor) -> float:
        return float(trainer._loss(targets, segments, sampled.float(), sampled, Trace())[0].detach())

    changed = ids.clone()
    changed[:, 1:][~sampled] = 7
    assert loss(ids) == loss(changed)
    other = ids.clone()
    other[:, 1:][sampled] = 7
    assert loss(ids) != loss(other)
    assert np.array_equal(row.segments_T == PADDING, np.arange(len(row.ids_T)) >= len(row.ids_T) - 9)

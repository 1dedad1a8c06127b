"""sft: fine-tune a checkpoint on one's own conversations (abruzzi train sft --data FILE --from
MODEL).

Three passes over the data in steps of about 4,096 tokens, by Muon as in pre-training (Moonlight
found that Muon helps in fine-tuning when it pre-trained as well). A checkpoint with INT4 experts is
trained with them rounded in every step, so that what is exported is what was trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from abruzzi.arch import ModelConfig
from abruzzi.data.packing import Conversation, Row, pack
from abruzzi.recipes import Prepared
from abruzzi.train.loop import RunConfig, fast_bfloat16

EPOCHS = 3
TOKENS_PER_STEP = 4096
ROW_MULTIPLE = 64


def prepare(out: Path) -> Prepared:
    """Not without data: always raises ValueError that says how."""
    raise ValueError("recipe 'sft' needs data and a model; hint: abruzzi train sft --data mine.jsonl --from nano")


def from_conversations(
    model: ModelConfig,
    conversations: Sequence[Conversation],
    pad_id: int,
    files: Mapping[str, str | bytes],
    steps: int | None = None,
    row_length: int | None = None,
) -> Prepared:
    """The run. steps None: as many as make EPOCHS passes. row_length None: what the longest
    conversation needs."""
    longest = max(len(c.ids) for c in conversations)
    needed = math.ceil(longest / ROW_MULTIPLE) * ROW_MULTIPLE
    length = row_length or max(longest, min(model.max_position_embeddings, needed))
    rows = Passes(conversations, length, pad_id)
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    one_pass = len(rows(0))
    each = max(1, min(TOKENS_PER_STEP // length, one_pass) // processes) * processes
    steps = steps or max(1, math.ceil(EPOCHS * one_pass / each))
    config = RunConfig(
        model=model,
        steps=steps,
        rows_per_step=each,
        row_length=length,
        lr_muon=1e-3,
        lr_adamw=5e-4,
        weight_decay=0.0,
        warmup=max(1, steps // 20),
        decay=max(1, steps // 2),
        qat_steps=steps if model.int4 is not None else 0,
        bias_rate=0.0,  # the routes stay those of pre-training
        autocast=fast_bfloat16(),
        save_every=max(1, min(100, steps // 4)),
        log_every=max(1, min(10, steps // 20)),
    )
    return Prepared(config, rows, files, lambda: None)


class Passes:
    """Shard k is pass k over the conversations, in an order that follows from k."""

    def __init__(self, conversations: Sequence[Conversation], row_length: int, pad_id: int) -> None:
        self._conversations, self._length, self._pad_id = conversations, row_length, pad_id

    def __call__(self, number: int) -> Sequence[Row]:
        shuffled = list(self._conversations)
        random.Random(number).shuffle(shuffled)
        return list(pack(shuffled, self._length, self._pad_id))

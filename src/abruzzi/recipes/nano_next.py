"""nano_next: train the nano that ships further, on today's tasks; how its second edition was made from its first.

    abruzzi train nano_next --out runs/next --time-limit 90m        # --resume goes on where it stopped

Weights and vocabulary are those of the checkpoint in the package, its INT4 experts dequantized. The schedule starts
anew and falls for most of the run; in the last third the experts are rounded to INT4 in every step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from abruzzi import tokenizer
from abruzzi.config import ModelConfig
from abruzzi.recipes import Prepared, nano

SHIPPED = Path(__file__).resolve().parents[1] / "nano"
STEPS = 1800
ROWS = 8  # twice as many targets a step as from scratch: what is left to learn drowns in the noise of small steps


def prepare(out: Path) -> Prepared:
    """1,800 steps of 10,240 tokens: about 18 M tokens."""
    text = (SHIPPED / "tokenizer.json").read_text(encoding="utf-8")
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        (out / "tokenizer.json").write_text(text, encoding="utf-8")
    vocab = tokenizer.from_json(text, nano.DEFAULTS)
    shards = nano.Shards(text)
    config = replace(
        nano.run_config(vocab, STEPS),
        model=ModelConfig.load(SHIPPED),
        rows_per_step=ROWS,
        warmup=40,
        decay=STEPS * 5 // 6,
        context_weight=0.1,
        context_steps=STEPS // 3,
        qat_steps=STEPS // 3,
    )
    return Prepared(config, shards, tokenizer.chat_files(vocab, max_context=nano.CONTEXT), shards.close, SHIPPED)

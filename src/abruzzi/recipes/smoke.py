"""smoke: a minute of nano's recipe at a tenth of its size, to see that training works from end to
end.

Same tasks, same loop, a vocabulary from fewer samples; what comes out speaks in the right form and
knows nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from abruzzi.recipes import Prepared, nano


def prepare(out: Path) -> Prepared:
    """A run of 40 steps of 2,560 tokens."""
    large = nano.prepare(out, texts=1500)
    model = replace(
        large.config.model,
        hidden_size=96,
        intermediate_size=192,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        n_routed_experts=4,
        q_lora_rank=48,
        kv_lora_rank=32,
    )
    config = replace(
        large.config,
        model=model,
        steps=40,
        rows_per_step=2,
        warmup=5,
        decay=20,
        context_steps=10,
        qat_steps=10,
        save_every=20,
        log_every=1,
    )
    return replace(large, config=config)

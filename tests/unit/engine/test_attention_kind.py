"""How a token attends follows from its sequence alone: what the engine asks a kind of attention."""

from __future__ import annotations

import numpy as np
import pytest

from abruzzi.config import ModelConfig
from abruzzi.engine.step.attention import ABSORB_UP_TO, Mla, attention_of
from abruzzi.engine.step.state import Chunk, KvCache

CONFIG = ModelConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
    num_hidden_layers=3,
    num_attention_heads=2,
    kv_lora_rank=33,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
)


@pytest.mark.parametrize(
    ("start", "prompt_end", "until"),
    [
        (0, ABSORB_UP_TO, 0),
        (0, ABSORB_UP_TO + 1, ABSORB_UP_TO + 1),
        (290, 300, 300),  # what the prefix cache does not have counts, not the whole prompt
        (295, 300, 0),
    ],
)
def test_a_long_prompt_takes_the_prefill_form_of_mla_and_a_short_one_the_other(
    start: int, prompt_end: int, until: int
) -> None:
    assert Mla(CONFIG).prefill_until(start, prompt_end) == until


@pytest.mark.parametrize(
    ("start", "count", "until", "tokens"),
    [
        (0, 20, None, 20),  # by itself a chunk is a whole prompt
        (7, ABSORB_UP_TO, None, 0),
        (0, 20, 0, 0),
        (0, 20, 12, 12),
        (10, 20, 12, 2),
        (12, 20, 12, 0),
        (10, 20, 300, 20),
        (10, 1, 300, 1),
    ],
)
def test_a_cut_of_a_prompt_changes_no_tokens_form(start: int, count: int, until: int | None, tokens: int) -> None:
    chunk = Chunk(np.zeros(count, np.int64), start, np.arange(start + count, dtype=np.int32), until)
    assert chunk.prefill_tokens(attention_of(CONFIG)) == tokens


def test_a_cache_row_is_what_the_kind_of_attention_keeps() -> None:
    cache = KvCache(CONFIG, slots=6, block_tokens=2)
    assert attention_of(CONFIG).row == 64 + 16 and cache.rows.shape == (3, 6, 80)
    assert KvCache.bytes_per_slot(CONFIG) == 3 * 80 * 4
    chunk = Chunk(np.zeros(3, np.int64), 1, np.array([2, 0], np.int32))
    assert cache.slots_of(chunk).tolist() == [4, 5, 0, 1]

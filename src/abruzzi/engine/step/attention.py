"""What the engine must know of a family's attention: its row in the KV cache, and in which form a token attends.

Many kinds of attention have one form. MLA has two with the same result up to rounding: *prefill*
decompresses keys and values once for many tokens, *decode* stays in the latent space (absorbed).
Which one a token takes must follow from its sequence alone, never from what else runs in the step
or how its prompt was cut: so its bits are the same in every crowd. An example: a prompt of 300
tokens, 290 of them in the prefix cache, attends in the prefill form up to position 300; so does
its part that runs again after a preemption; the generated tokens behind it take the decode form.
"""

from __future__ import annotations

from typing import Protocol

from abruzzi.arch import ModelConfig
from abruzzi.arch.deepseek import ABSORB_UP_TO


class AttentionKind(Protocol):
    """row: floats that a layer keeps of every token."""

    row: int

    def prefill_until(self, start: int, prompt_end: int) -> int:
        """The position up to which tokens attend in the prefill form, of a sequence whose tokens from `start` to
        `prompt_end` are not in the cache yet. 0: none of them."""
        ...


class Mla:
    """Multi-head latent attention: a row is the normed latent, then the rotated key, each filled up with zeros to
    whole vectors."""

    def __init__(self, config: ModelConfig) -> None:
        self.rank, self.rope = config.kv_lora_rank, config.qk_rope_head_dim
        self.latent, self.key = config.cache_row  # padded
        self.row = self.latent + self.key

    def prefill_until(self, start: int, prompt_end: int) -> int:
        """All of a long prompt, nothing of a short one."""
        return prompt_end if prompt_end - start > ABSORB_UP_TO else 0


def attention_of(config: ModelConfig) -> AttentionKind:
    """The kind of attention that a model's layers have."""
    return Mla(config)

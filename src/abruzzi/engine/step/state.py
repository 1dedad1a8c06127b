"""Input of a forward step: chunks of sequences (continuous batching), the paged KV cache, and the
runner protocol.

The compiled runner (native.py) and its NumPy twin (plain.py) share these, and the engine knows only
these.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from abruzzi.arch import ModelConfig

_HUGE = 32 << 20  # bytes of a cache from which on huge pages are asked for


class PrefillRule(Protocol):
    """In which form a token attends.

    Many kinds of attention have one form. MLA has two with the same result up to rounding:
    *prefill* decompresses keys and values once for many tokens, *decode* stays in the latent space
    (absorbed). Which one a token takes must follow from its sequence alone, never from what else
    runs in the step or how its prompt was cut: so its bits are the same in every crowd. An example:
    a prompt of 300 tokens, 290 of them in the prefix cache, attends in the prefill form up to
    position 300; so does its part that runs again after a preemption; the generated tokens behind
    it take the decode form."""

    def prefill_until(self, start: int, prompt_end: int) -> int:
        """The position up to which tokens attend in the prefill form, of a sequence whose tokens
        from `start` to `prompt_end` are not in the cache yet. 0: none of them."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence, from position `start` on.

    ids: [T]. blocks: the sequence's block table, at least up to its last token. prefill_until: the
    position up to which tokens attend in the prefill form (PrefillRule), None = as if the chunk
    were a whole prompt. all_logits: a row of logits for each token, not only for the last."""

    ids: np.ndarray
    start: int
    blocks: np.ndarray
    prefill_until: int | None = None
    all_logits: bool = False

    def prefill_tokens(self, attention: PrefillRule) -> int:
        """How many of the tokens, from the first on, attend in the prefill form."""
        end = self.start + len(self.ids)
        until = attention.prefill_until(self.start, end) if self.prefill_until is None else self.prefill_until
        return min(max(until - self.start, 0), len(self.ids))

    @property
    def logit_rows(self) -> int:
        """Rows of logits: of the last so many tokens."""
        return len(self.ids) if self.all_logits else 1


class KvCache:
    """What attention keeps of every token (paged): float32 [layers, slots, row], the row being the
    family's (`cache_row`). Block b of a table is the slots b * block_tokens and up.

    Memory is claimed by the operating system only as slots are written."""

    def __init__(self, config: ModelConfig, slots: int, block_tokens: int = 1) -> None:
        self.slots = slots
        self.block_tokens = block_tokens
        self.rows = _untouched_zeros((config.num_hidden_layers, slots, sum(config.cache_row)))

    @staticmethod
    def bytes_per_slot(config: ModelConfig) -> int:
        """What one token takes in all layers."""
        return config.num_hidden_layers * sum(config.cache_row) * 4

    def slots_of(self, chunk: Chunk) -> np.ndarray:
        """The slots of a sequence's tokens up to the end of this chunk: int64 [S]."""
        blocks = chunk.blocks[:, None].astype(np.int64)
        slots = (blocks * self.block_tokens + np.arange(self.block_tokens)).ravel()
        return slots[: chunk.start + len(chunk.ids)]


@dataclass(frozen=True, slots=True)
class Step:
    """The chunks that run together, for the readable twin; positions [T]: of all their tokens."""

    chunks: Sequence[Chunk]
    cache: KvCache
    positions: np.ndarray


class StepRunner(Protocol):
    """What the engine needs: the compiled NativeRunner, or PlainRunner."""

    config: ModelConfig

    def forward(self, chunks: Sequence[Chunk], cache: KvCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it asks for
        all."""
        ...


def _untouched_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros that take memory as they are written to, in huge pages where the system has
    them: attention reads megabytes a step."""
    size = 4 * math.prod(shape)
    if size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, np.float32)
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)

"""Trace of a forward pass, for training and for replay; a forward without a Trace records
nothing.

Shape suffixes: B batch, T tokens, E experts, K experts per token, N heads. Keys are layer numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Trace:
    """Filled by one forward; a second forward overwrites it. Recording never changes the logits.

    max_logits:     also record max_logit_N, at the price of one more query-key product per layer.
    above:          of max_logit_N only values larger than this are wanted. A smaller one may then
                    be an upper bound of itself, not larger than `above` either; on packed rows
                    (fast) that saves nearly all of the price: |q| |k| already bounds most logits.
    counted_BT:     bool: queries that count for max_logit_N (not padding); None = all.
    expert_ids:     int64 [B, T, K] per MoE layer. Given back as `routing`, it pins the same choice.
    router_scores:  the router's scores, float32 [B, T, E] per MoE layer, without bias, with
                    gradient: what the sequence-wise balance loss is made of.
    max_logit_N:    float32 [N] per layer: the largest softmax input of each head over the batch,
                    scale included, hidden positions excluded. QK-Clip reads it (arXiv 2507.20534,
                    section 2.1).
    """

    max_logits: bool = False
    above: float | None = None
    counted_BT: Tensor | None = None
    expert_ids: dict[int, Tensor] = field(default_factory=dict)
    router_scores: dict[int, Tensor] = field(default_factory=dict)
    max_logit_N: dict[int, Tensor] = field(default_factory=dict)

    def expert_load(self, keep_BT: Tensor | None = None) -> dict[int, Tensor]:
        """Tokens per expert, int64 [E] per MoE layer; with keep_BT (bool) only the tokens where it
        is true."""
        load = {}
        for layer, ids_BTK in self.expert_ids.items():
            kept = None if keep_BT is None else keep_BT[..., None].expand_as(ids_BTK)
            load[layer] = count(ids_BTK, self.router_scores[layer].shape[-1], kept)
        return load


def count(ids: Tensor, size: int, kept: Tensor | None = None) -> Tensor:
    """How often each number from 0 to size - 1 occurs in `ids`, where `kept` (bool, same shape) is
    true; int64 [size].

    torch.bincount without its look at the largest number, for which the processor would wait for a
    GPU."""
    ones = torch.ones_like(ids) if kept is None else kept.long()
    return ids.new_zeros(size).scatter_add_(0, ids.flatten(), ones.flatten())

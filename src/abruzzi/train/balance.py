"""Equal work for all experts: a bias that steers the choice, and a loss within each row.

The bias (auxiliary-loss-free balance, arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437, section
2.1.2) in Moonlight's zero-mean form (arXiv 2502.16982, appendix C): the choice between experts
depends on differences only, so the mean is taken out and the biases stay small. The sequence loss:
DeepSeek-V3, eqs 17-20.

Shape suffixes: B rows, T tokens, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from abruzzi.model import K2Model


@torch.no_grad()
def level_bias(model: K2Model, loads: Mapping[int, Tensor], step: float) -> None:
    """After a step of the optimizer: bias up for experts under the mean load, down for those above
    it.

    loads: tokens per expert [E] of every MoE layer, over the whole batch. The sum of a layer's
    biases stays 0."""
    for layer, moe in model.moe_layers().items():
        load = loads[layer].float()
        sign = torch.sign(load.mean() - load)
        moe.gate.e_score_correction_bias += step * (sign - sign.mean())


def sequence_loss(scores_BTE: Tensor, top_k: int, counted_BT: Tensor) -> Tensor:
    """Sum over rows of sum_i f_i P_i, a scalar: 1 per row when balanced, up to E / K when not.

    scores_BTE: sigmoid scores without bias, with gradient. counted_BT (bool): tokens that are not
    padding. f_i: how often expert i is among the K best by unbiased score, times E / K, without
    gradient; P_i: its mean share of the scores. A row stands for DeepSeek's sequence, whatever
    documents are packed into it."""
    counted_BT1 = counted_BT[..., None].float()
    tokens_B1 = counted_BT1.sum(1).clamp(min=1)
    share_BTE = scores_BTE / scores_BTE.sum(-1, keepdim=True)
    mean_share_BE = (share_BTE * counted_BT1).sum(1) / tokens_B1
    with torch.no_grad():
        chosen_BTE = torch.zeros_like(scores_BTE).scatter_(-1, scores_BTE.topk(top_k, dim=-1).indices, 1.0)
        often_BE = (chosen_BTE * counted_BT1).sum(1) / tokens_B1 * (scores_BTE.shape[-1] / top_k)
    return (often_BE * mean_share_BE).sum()


def worst_load(loads: Mapping[int, Tensor]) -> dict[str, float]:
    """Largest load over the mean of every MoE layer, by layer number (as text, for JSON)."""
    return {str(layer): float(load.max() / load.float().mean()) for layer, load in loads.items()}

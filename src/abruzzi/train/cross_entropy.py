"""Weighted cross-entropy over the head: from hidden states to a loss, with a backward pass of its
own on a CPU.

Logits are the largest thing in a step of a small model, [targets, vocabulary], and torch's way
writes five of them in float32: their copy, log-probabilities, two gradients and one more for the
product's dtype. Here they are computed once, in the product's dtype, and a chunk of rows at a time,
which fits in a core's cache, they are turned into their own gradient. What a loss weighs is known
before it is computed, so the gradient is there when the loss is; backward only scales it.

Its slow twin is torch's cross_entropy, which `_plain` calls: elsewhere than on a CPU, and when no
gradient is wanted.

Shape suffixes: T targets, D hidden_size, V vocabulary, C rows of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model.fast.products import mm

CHUNK = 2**18  # logits of one chunk, 1 MB in float32


def weighted_cross_entropy(
    hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of weight * cross-entropy over the targets, and (no gradient) every target's own;
    float32, [] and [T].

    Logits are hidden @ head.T, in autocast's dtype if that is on, else in head's."""
    if hidden_TD.device.type == "cpu" and torch.is_grad_enabled() and len(target_T):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else head_VD.dtype
        return _Weighted.apply(hidden_TD, head_VD, target_T, weight_T, dtype)  # type: ignore[no-any-return]
    return _plain(hidden_TD, head_VD, target_T, weight_T)


def _plain(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor) -> tuple[Tensor, Tensor]:
    losses_T = F.cross_entropy(F.linear(hidden_TD, head_VD).float(), target_T, reduction="none")
    return (losses_T * weight_T).sum(), losses_T.detach()


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            ctx.dtypes = hidden_TD.dtype, head_VD.dtype
            hidden_TD, head_VD = hidden_TD.to(dtype), head_VD.to(dtype)
            logits_TV = mm(hidden_TD, head_VD.mT)
            losses_T = torch.empty(len(target_T))
            rows = max(1, CHUNK // logits_TV.shape[1])
            for chunk_CV, *chunk in zip(*(x.split(rows) for x in (logits_TV, target_T, weight_T, losses_T))):
                _to_gradient(chunk_CV, *chunk)
            ctx.save_for_backward(hidden_TD, head_VD, logits_TV)
            ctx.mark_non_differentiable(losses_T)
            return (losses_T * weight_T).sum(), losses_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_TD, head_VD, dlogits_TV = ctx.saved_tensors
        hidden_dtype, head_dtype = ctx.dtypes
        with torch.autocast("cpu", enabled=False):
            # Scaled where it is narrow; in float32, for dloss may be far smaller than one.
            dhidden_TD = mm(dlogits_TV, head_VD).float().mul_(dloss)
            dhead_VD = mm(dlogits_TV.mT, hidden_TD).float().mul_(dloss)
        return dhidden_TD.to(hidden_dtype), dhead_VD.to(head_dtype), None, None, None


def _to_gradient(logits_CV: Tensor, target_C: Tensor, weight_C: Tensor, losses_C: Tensor) -> None:
    """Turn logits into weight * (softmax - one at the target), in place, and write the
    cross-entropies."""
    at_C1 = target_C[:, None]
    wide_CV = logits_CV.float()
    probability_CV = torch.softmax(wide_CV, 1)
    # log p = logit - (largest logit - log of its p): that p is at least 1 / V, where the target's
    # may be zero.
    normalizer_C = wide_CV.amax(1).sub_(probability_CV.amax(1).log_())
    torch.sub(normalizer_C, wide_CV.gather(1, at_C1)[:, 0], out=losses_C)
    probability_CV.scatter_add_(1, at_C1, torch.full_like(at_C1, -1, dtype=torch.float32))
    torch.mul(probability_CV, weight_C[:, None], out=logits_CV)

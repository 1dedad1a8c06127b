"""RMSNorm with a backward pass of its own on a CPU, and as torch's one kernel on a GPU.

Its slow twin is `rms_norm` in model/norm.py, differentiated by torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) * weight over the last axis, in `dtype`."""
    if x.device.type == "cuda":
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps).to(dtype)
    return _Normed.apply(x, weight, eps, dtype)  # type: ignore[no-any-return]


class _Normed(torch.autograd.Function):
    """Its backward reads memory a third as often as what torch derives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        factor = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
        unit = wide * factor
        ctx.save_for_backward(unit, factor, weight)
        ctx.dtype = x.dtype
        if weight.dtype == torch.float32:
            return (unit * weight).to(dtype)
        return weight * unit.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        unit, factor, weight = ctx.saved_tensors
        dy, wide_weight = dy.float(), weight.float()
        along = dy * unit
        dweight = along.flatten(0, -2).sum(0).to(weight.dtype)
        # What is parallel to x changes nothing but its length, which the norm takes away again.
        parallel = (along @ wide_weight).div_(-unit.shape[-1])[..., None]
        dx = (dy * wide_weight).addcmul_(unit, parallel).mul_(factor)
        return dx.to(ctx.dtype), dweight, None, None

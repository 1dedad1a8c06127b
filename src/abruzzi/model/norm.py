"""RMSNorm (arXiv 1910.07467): x / rms(x) * weight, over the last axis."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The norms inside MLA use this whatever rms_norm_eps says: transformers builds them without passing the
# config's value, and checkpoints with rms_norm_eps = 1e-5 (K2-Thinking) are served that way.
LATENT_NORM_EPS = 1e-6


class RMSNorm(nn.Module):
    """weight [size]; the mean of squares is taken in float32. The result has autocast's dtype if that is on, for what
    follows are products: rounded once here instead of before each of them; else the promoted dtype of input and weight.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        if device == "cuda":  # torch's own is one kernel there
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps).to(dtype)
        return _Normed.apply(x, self.weight, self.eps, dtype)  # type: ignore[no-any-return]


class _Normed(torch.autograd.Function):
    """x / rms(x) * weight in `dtype`; its own backward reads memory a third as often as what torch derives."""

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

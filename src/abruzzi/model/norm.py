"""RMSNorm (arXiv 1910.07467): x / rms(x) * weight, over the last axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """weight [size]; the mean of squares is taken in float32. The result has autocast's dtype if
    that is on, for what follows are products: rounded once here instead of before each of them;
    else the promoted dtype of input and weight.

    norm: the formula, `rms_norm` or a twin of it (fast.enable sets it)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.norm: Callable[[Tensor, Tensor, float, torch.dtype], Tensor] = rms_norm

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        return self.norm(x, self.weight, self.eps, dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) * weight in `dtype`. A weight of half precision is applied in it, as transformers
    does."""
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    unit = wide * torch.rsqrt(length.square() / x.shape[-1] + eps)
    if weight.dtype == torch.float32:
        return (unit * weight).to(dtype)
    return weight * unit.to(x.dtype)

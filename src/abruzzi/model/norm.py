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
    """weight [size]; the mean of squares is taken in float32. The result has the promoted dtype of input and weight;
    on a GPU autocast's, without autocast the input's."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda":  # torch's own is one kernel there
            normed = F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
            # What follows are products: rounded once here instead of before each of them.
            return normed.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else normed
        return _Normed.apply(x, self.weight, self.eps)  # type: ignore[no-any-return]


class _Normed(torch.autograd.Function):
    """x / rms(x) * weight; its own backward reads memory a third as often as what torch derives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        factor = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        unit = (wide * factor).to(x.dtype)
        ctx.save_for_backward(unit, factor, weight)
        return weight * unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        unit, factor, weight = ctx.saved_tensors
        along = (dy * unit).float()
        dweight = along.flatten(0, -2).sum(0).to(weight.dtype)
        # What is parallel to x changes nothing but its length, which the norm takes away again.
        parallel = (along @ weight.float()).div_(-unit.shape[-1])[..., None]
        dx = torch.addcmul((dy * weight).float(), unit.float(), parallel).mul_(factor)
        return dx.to(unit.dtype), dweight, None

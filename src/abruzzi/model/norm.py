"""RMSNorm (arXiv 1910.07467): x / rms(x) * weight, over the last axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The norms inside MLA use this whatever rms_norm_eps says: transformers builds them without passing the
# config's value, and checkpoints with rms_norm_eps = 1e-5 (K2-Thinking) are served that way.
LATENT_NORM_EPS = 1e-6


class RMSNorm(nn.Module):
    """weight [size]; the mean of squares is taken in float32, the result has the promoted dtype of input and weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * unit.to(x.dtype)

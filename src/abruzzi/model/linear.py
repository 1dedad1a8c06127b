"""A product with a weight matrix: torch's linear layer without bias."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """y = x W^T, [..., in] to [..., out]; under autocast in its dtype.

    product: of x and the weight, F.linear or a twin of it (fast.enable sets it)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.product: Callable[[Tensor, Tensor], Tensor] = F.linear

    def forward(self, input: Tensor) -> Tensor:
        return self.product(input, self.weight)

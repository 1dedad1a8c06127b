"""Quantization-aware training: the forward pass sees the INT4 weights that the export will write.

Routed experts only, as in Kimi-K2-Thinking's release: group 32, symmetric, scale = bfloat16(absmax
/ 7). The rounding repeats quant/int4.py bit for bit, the scale's rounding included, so what was
trained is what is shipped. Backward is straight through: the float master weights get the gradient
as if nothing had been rounded (Bengio et al., arXiv 1308.3432).

Not here: activations (the engine's fast modes round those), and any other tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abruzzi.arch.int4 import GROUP
from abruzzi.model import K2Model

_SMALLEST_NORMAL = 2.0**-126


def fake_quantize(weight: Tensor, largest_code: int = 7) -> Tensor:
    """What `weight` [..., out, in] becomes by INT4 and back, float32, same shape; gradients pass
    unchanged.

    largest_code: 7 is INT4. Fewer codes (3, 1) are for experiments; nothing exports them.

    Raises ValueError unless the last axis is a multiple of the group. NaN and infinity stay what
    they are or become NaN: the export refuses them."""
    if weight.shape[-1] % GROUP:
        raise ValueError(f"rows of {weight.shape[-1]} weights; expected a multiple of the group of {GROUP}")
    with torch.no_grad():
        wide = weight.detach().float().unflatten(-1, (-1, GROUP))
        # A true division: a product with 1/7 rounds to other scales.
        scale = (wide.abs().amax(-1, keepdim=True) / float(largest_code)).to(torch.bfloat16).float()
        scale = torch.where(scale < _SMALLEST_NORMAL, torch.ones_like(scale), scale)
        rounded = ((wide / scale).round() * scale + 0.0).flatten(-2)  # + 0.0: the stored codes know no -0
    # Not weight + (rounded - weight).detach(): that is not always `rounded` in floating point.
    return _Replaced.apply(weight, rounded)  # type: ignore[no-any-return]


def enable(model: K2Model, on: bool = True) -> None:
    """Let every routed expert compute with fake-quantized weights from now on, or (on=False) no
    longer."""
    for moe in model.moe_layers().values():
        moe.experts.rounding = fake_quantize if on else None


class _Replaced(torch.autograd.Function):
    """The second argument in the forward pass, the first one's gradient in the backward pass."""

    @staticmethod
    def forward(ctx: object, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None

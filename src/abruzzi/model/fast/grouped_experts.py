"""A layer's routed experts as three grouped products: for a GPU, and on a CPU where no gradient is
wanted.

Rows are sorted by expert, so that one call multiplies each run of rows by its own expert's matrix.
Sorting and summing have backward passes that gather instead of scattering: they add up in the same
order every time.

Its slow twin is `one_by_one` in model/moe.py.

Shape suffixes: T tokens, D hidden_size, E experts, K experts per token, M = T * K token-expert
pairs sorted by expert, F expert inner.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model.fast.compiled import compiled
from abruzzi.model.trace import count


def groupable(gate_EFD: Tensor, dtype: torch.dtype) -> bool:
    """Whether torch's grouped product takes these experts in `dtype`: rows of a multiple of 16
    bytes, either way."""
    return all(n * dtype.itemsize % 16 == 0 for n in gate_EFD.shape[1:])


def experts(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate x) * up x), [T, D].

    gate, up [E, F, D] and down [E, D, F]; products are computed in `dtype`, the sum in the
    weights'. Raises RuntimeError (torch's) unless `groupable`."""
    order_M = expert_TK.flatten().argsort(stable=True)
    load_E = count(expert_TK, len(gate))
    back_M = torch.empty_like(order_M)
    back_M[order_M] = torch.arange(len(order_M), device=order_M.device)
    x_MD = _Dispatched.apply(x_TD, order_M, back_M).to(dtype)  # by hand: autocast does not know the grouped product
    y_MD = _swiglu(x_MD, load_E, gate.to(dtype), up.to(dtype), down.to(dtype))
    return _Combined.apply(y_MD, weight_TK, order_M, back_M)  # type: ignore[no-any-return]


def _swiglu(x_MD: Tensor, load_E: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU of rows that are sorted by expert; load_E says how many rows each expert has."""
    ends_E = load_E.cumsum(0).to(torch.int32)
    gate_MF = F.grouped_mm(x_MD, gate.mT, offs=ends_E)
    up_MF = F.grouped_mm(x_MD, up.mT, offs=ends_E)
    return F.grouped_mm(activate(gate_MF, up_MF), down.mT, offs=ends_E)


class _Dispatched(torch.autograd.Function):
    """Rows of x for every token-expert pair, in the pairs' order."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_M: Tensor, back_M: Tensor) -> Tensor:
        ctx.per_token = len(order_M) // len(x_TD)
        ctx.save_for_backward(back_M)
        return x_TD.index_select(0, order_M // ctx.per_token)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dx_MD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (back_M,) = ctx.saved_tensors
        return dx_MD.index_select(0, back_M).unflatten(0, (-1, ctx.per_token)).sum(1), None, None


class _Combined(torch.autograd.Function):
    """Sum over each token's experts of weight times the pair's row, float32 [T, D] as long as the
    weights are."""

    @staticmethod
    def forward(ctx: Any, y_MD: Tensor, weight_TK: Tensor, order_M: Tensor, back_M: Tensor) -> Tensor:
        y_TKD = y_MD.index_select(0, back_M).unflatten(0, (-1, weight_TK.shape[1]))
        ctx.save_for_backward(y_TKD, weight_TK, order_M)
        return _weighted_sum(y_TKD, weight_TK)  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dout_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        y_TKD, weight_TK, order_M = ctx.saved_tensors
        dy_TKD, dweight_TK = _weighted_sum_backward(dout_TD, y_TKD, weight_TK)
        return dy_TKD.flatten(0, 1).index_select(0, order_M), dweight_TK, None, None


@compiled
def activate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, one kernel on a GPU."""
    return F.silu(gate) * up


@compiled
def _weighted_sum(y_TKD: Tensor, weight_TK: Tensor) -> Tensor:
    return (y_TKD * weight_TK[..., None]).sum(1)


@compiled
def _weighted_sum_backward(dout_TD: Tensor, y_TKD: Tensor, weight_TK: Tensor) -> tuple[Tensor, Tensor]:
    dy_TKD = (dout_TD[:, None] * weight_TK[..., None]).to(y_TKD.dtype)
    return dy_TKD, (dout_TD[:, None] * y_TKD.to(dout_TD.dtype)).sum(-1).to(weight_TK.dtype)

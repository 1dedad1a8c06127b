"""SwiGLU, and a layer's routed experts, as one operation with a backward pass of its own: for training on a CPU.

The same sums as in moe.py with fewer passes over memory: rows are gathered once, gate and up are one product, the
router's weight goes onto the inner activation (narrower than the output, and multiplied anyway), gradients of
weights are written where they belong instead of being stacked. Under autocast an input is rounded once, not once
per product.

Its slow twin is `_swiglu_loop` in moe.py, differentiated by torch.

Shape suffixes: T tokens, D hidden size, E experts, K experts per token, M = T * K token-expert pairs sorted by
expert, F expert inner.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def experts(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate x) * up x), [T, D] in `dtype`.

    gate, up [E, F, D] and down [E, D, F] in any dtype; products are computed in `dtype`, sums over a token's
    experts in float32."""
    return _Experts.apply(x_TD, expert_TK, weight_TK, gate, up, down, dtype)  # type: ignore[no-any-return]


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
    """down(silu(gate x) * up x), [..., D] in `dtype`, in which the products are computed: one expert for all tokens."""
    return _SwiGLU.apply(x.flatten(0, -2), gate, up, down, dtype).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(x_TD.device.type, enabled=False):
            both, down = torch.cat((gate, up)).to(dtype), down.to(dtype)
            ctx.dtypes = x_TD.dtype, gate.dtype
            x_TD = x_TD.to(dtype)
            h_TF2 = x_TD @ both.mT
            gate_TF, up_TF = h_TF2.chunk(2, 1)
            a_TF = F.silu(gate_TF).mul_(up_TF)
            ctx.save_for_backward(x_TD, h_TF2, a_TF, both, down)
            return a_TF @ down.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_TD, h_TF2, a_TF, both, down = ctx.saved_tensors
        x_dtype, dtype = ctx.dtypes
        with torch.autocast(dy_TD.device.type, enabled=False):
            dy_TD = dy_TD.to(down.dtype)
            ddown = (dy_TD.mT @ a_TF).to(dtype)
            da_TF = dy_TD @ down
            gate_TF, up_TF = h_TF2.chunk(2, 1)
            dh_TF2 = _through_swiglu(da_TF, gate_TF, up_TF, F.silu(gate_TF))
            dgate, dup = (dh_TF2.mT @ x_TD).to(dtype).chunk(2)
            return (dh_TF2 @ both).to(x_dtype), dgate, dup, ddown, None


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        expert_TK: Tensor,
        weight_TK: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        per_token, inner = expert_TK.shape[1], gate.shape[1]
        with torch.autocast(x_TD.device.type, enabled=False):
            order_M = expert_TK.flatten().argsort(stable=True)
            place_M = torch.empty_like(order_M)
            place_M[order_M] = torch.arange(len(order_M), device=order_M.device)
            load = torch.bincount(expert_TK.flatten(), minlength=len(gate)).tolist()
            both = gate.new_empty(len(gate), 2 * inner, gate.shape[2], dtype=dtype)
            both[:, :inner], both[:, inner:] = gate, up
            down = down.to(dtype)
            x_MD = x_TD.to(dtype).index_select(0, order_M // per_token)
            weight_M1 = weight_TK.flatten().index_select(0, order_M).to(dtype)[:, None]
            h_MF2 = x_MD.new_empty(len(x_MD), 2 * inner)
            for e, rows in _ranges(load):
                torch.mm(x_MD[rows], both[e].mT, out=h_MF2[rows])
            gate_MF, up_MF = h_MF2.split(inner, 1)
            a_MF = F.silu(gate_MF).mul_(up_MF).mul_(weight_M1)
            y_MD = torch.empty_like(x_MD)
            for e, rows in _ranges(load):
                torch.mm(a_MF[rows], down[e].mT, out=y_MD[rows])
            ctx.save_for_backward(x_MD, h_MF2, a_MF, weight_M1, both, down, order_M, place_M)
            ctx.load, ctx.per_token = load, per_token
            ctx.dtypes = x_TD.dtype, weight_TK.dtype, gate.dtype
            return _sum_per_token(y_MD, place_M, per_token, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_MD, h_MF2, a_MF, weight_M1, both, down, order_M, place_M = ctx.saved_tensors
        x_dtype, weight_dtype, dtype = ctx.dtypes
        inner = down.shape[2]
        with torch.autocast(dy_TD.device.type, enabled=False):
            dy_MD = dy_TD.to(down.dtype).index_select(0, order_M // ctx.per_token)
            da_MF = torch.empty_like(a_MF)
            ddown = torch.zeros_like(down, dtype=dtype)
            for e, rows in _ranges(ctx.load):
                torch.mm(dy_MD[rows], down[e], out=da_MF[rows])
                _mm_into(ddown[e], dy_MD[rows].mT, a_MF[rows])
            gate_MF, up_MF = h_MF2.split(inner, 1)
            # a = silu(gate) * up * weight
            silu_MF = F.silu(gate_MF)
            dweight_M = (da_MF * silu_MF).mul_(up_MF).sum(1, dtype=torch.float32)
            da_MF.mul_(weight_M1)
            dh_MF2 = _through_swiglu(da_MF, gate_MF, up_MF, silu_MF)
            dx_MD = torch.empty_like(x_MD)
            dgate, dup = (torch.zeros_like(both[:, :inner], dtype=dtype) for _ in range(2))
            for e, rows in _ranges(ctx.load):
                torch.mm(dh_MF2[rows], both[e], out=dx_MD[rows])
                dboth = dh_MF2[rows].mT @ x_MD[rows]
                dgate[e], dup[e] = dboth[:inner], dboth[inner:]
            dx_TD = _sum_per_token(dx_MD, place_M, ctx.per_token, x_dtype)
            dweight_TK = dweight_M.index_select(0, place_M).unflatten(0, (-1, ctx.per_token)).to(weight_dtype)
        return dx_TD, None, dweight_TK, dgate, dup, ddown, None


def _through_swiglu(da: Tensor, gate: Tensor, up: Tensor, silu: Tensor) -> Tensor:
    """Gradients of gate and up side by side, from that of silu(gate) * up; `da` is overwritten."""
    inner = gate.shape[1]
    dh = da.new_empty(len(da), 2 * inner)
    torch.mul(da, silu, out=dh[:, inner:])
    torch.ops.aten.silu_backward.grad_input(da.mul_(up), gate, grad_input=dh[:, :inner])
    return dh


def _sum_per_token(x_MD: Tensor, place_M: Tensor, per_token: int, dtype: torch.dtype) -> Tensor:
    """[T, D]: the sum of each token's rows, in float32. A permutation, unlike a scatter-add, sums in one order."""
    first, *others = place_M.view(-1, per_token).unbind(1)
    total_TD = x_MD.index_select(0, first).float()
    for place_T in others:
        total_TD += x_MD.index_select(0, place_T)
    return total_TD.to(dtype)


def _mm_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


def _ranges(load: list[int]) -> Iterator[tuple[int, slice]]:
    """Rows of every expert that has any."""
    start = 0
    for e, count in enumerate(load):
        if count:
            yield e, slice(start, start + count)
        start += count

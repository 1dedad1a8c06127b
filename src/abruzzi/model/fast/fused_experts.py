"""SwiGLU, and a layer's routed experts, as one operation with a backward pass of its own: for
training on a CPU.

The same sums as in moe.py with fewer passes over memory: rows are gathered once, gate and up are
one product, the router's weight goes onto the inner activation (narrower than the output, and
multiplied anyway), gradients of weights are written where they belong instead of being stacked.
Under autocast an input is rounded once, not once per product.

Its slow twin is `_swiglu_loop` in moe.py, differentiated by torch.

Shape suffixes: T tokens, D hidden size, E experts, K experts per token, P = T * K token-expert
pairs, M rows: the pairs sorted by expert, each expert's filled up to a multiple of products.ROWS, m
rows of one expert, F expert inner.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model.fast.products import ROWS, mm


def experts(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate x) * up x), [T, D] in `dtype`.

    gate, up [E, F, D] and down [E, D, F] in any dtype; products are computed in `dtype`, sums over
    a token's experts in float32."""
    return _Experts.apply(x_TD, expert_TK, weight_TK, gate, up, down, dtype)  # type: ignore[no-any-return]


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
    """down(silu(gate x) * up x), [..., D] in `dtype`, in which the products are computed: one
    expert for all tokens."""
    return _SwiGLU.apply(x.flatten(0, -2), gate, up, down, dtype).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(x_TD.device.type, enabled=False):
            both, down = torch.cat((gate, up)).to(dtype), down.to(dtype)
            ctx.dtypes = x_TD.dtype, gate.dtype
            x_TD = x_TD.to(dtype)
            h_TF2 = mm(x_TD, both.mT)
            gate_TF, up_TF = h_TF2.chunk(2, 1)
            a_TF = F.silu(gate_TF).mul_(up_TF)
            ctx.save_for_backward(x_TD, h_TF2, a_TF, both, down)
            return mm(a_TF, down.mT)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_TD, h_TF2, a_TF, both, down = ctx.saved_tensors
        x_dtype, dtype = ctx.dtypes
        with torch.autocast(dy_TD.device.type, enabled=False):
            dy_TD = dy_TD.to(down.dtype)
            ddown = mm(dy_TD.mT, a_TF).to(dtype)
            da_TF = mm(dy_TD, down)
            gate_TF, up_TF = h_TF2.chunk(2, 1)
            dh_TF2 = _through_swiglu(da_TF, gate_TF, up_TF, F.silu(gate_TF))
            dgate, dup = mm(dh_TF2.mT, x_TD).to(dtype).chunk(2)
            return mm(dh_TF2, both).to(x_dtype), dgate, dup, ddown, None


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
        inner = gate.shape[1]
        with torch.autocast(x_TD.device.type, enabled=False):
            rows, place_P, token_M, weight_M1 = _sorted_by_expert(expert_TK, weight_TK, len(gate), dtype)
            both = gate.new_empty(len(gate), 2 * inner, gate.shape[2], dtype=dtype)
            both[:, :inner], both[:, inner:] = gate, up
            down = down.to(dtype)
            x_MD = x_TD.to(dtype).index_select(0, token_M)
            y_MD = torch.empty_like(x_MD)
            saved = []
            for e, own in rows:
                h_mF2 = mm(x_MD[own], both[e].mT)
                gate_mF, up_mF = h_mF2.chunk(2, 1)
                a_mF = F.silu(gate_mF).mul_(up_mF).mul_(weight_M1[own])
                y_MD[own] = mm(a_mF, down[e].mT)
                saved += [h_mF2, a_mF]
            ctx.save_for_backward(x_MD, weight_M1, both, down, token_M, place_P, *saved)
            ctx.rows, ctx.per_token = rows, expert_TK.shape[1]
            ctx.dtypes = x_TD.dtype, weight_TK.dtype, gate.dtype
            return _sum_per_token(y_MD, place_P, ctx.per_token, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_MD, weight_M1, both, down, token_M, place_P, *saved = ctx.saved_tensors
        x_dtype, weight_dtype, dtype = ctx.dtypes
        inner = down.shape[2]
        with torch.autocast(dy_TD.device.type, enabled=False):
            dy_MD = dy_TD.to(down.dtype).index_select(0, token_M)
            dx_MD = torch.empty_like(x_MD)
            dweight_M = torch.empty(len(x_MD), device=x_MD.device)
            ddown = torch.empty_like(down, dtype=dtype)
            dgate, dup = (torch.empty_like(both[:, :inner], dtype=dtype) for _ in range(2))
            for idle in set(range(len(down))).difference(e for e, _ in ctx.rows):
                ddown[idle], dgate[idle], dup[idle] = 0, 0, 0
            for (e, own), h_mF2, a_mF in zip(ctx.rows, saved[::2], saved[1::2]):
                da_mF = mm(dy_MD[own], down[e])
                ddown[e] = mm(dy_MD[own].mT, a_mF)
                gate_mF, up_mF = h_mF2.chunk(2, 1)
                # a = silu(gate) * up * weight
                silu_mF = F.silu(gate_mF)
                torch.sum((da_mF * silu_mF).mul_(up_mF), 1, dtype=torch.float32, out=dweight_M[own])
                dh_mF2 = _through_swiglu(da_mF.mul_(weight_M1[own]), gate_mF, up_mF, silu_mF)
                dx_MD[own] = mm(dh_mF2, both[e])
                dboth = mm(dh_mF2.mT, x_MD[own])
                dgate[e], dup[e] = dboth[:inner], dboth[inner:]
            dx_TD = _sum_per_token(dx_MD, place_P, ctx.per_token, x_dtype)
            dweight_TK = dweight_M.index_select(0, place_P).unflatten(0, (-1, ctx.per_token)).to(weight_dtype)
        return dx_TD, None, dweight_TK, dgate, dup, ddown, None


def _sorted_by_expert(
    expert_TK: Tensor, weight_TK: Tensor, experts: int, dtype: torch.dtype
) -> tuple[list[tuple[int, slice]], Tensor, Tensor, Tensor]:
    """Rows of every expert that has any; the row of each pair [P]; the token [M] and weight [M, 1]
    of each row.

    Rows that only fill an expert's up to a multiple of products.ROWS are of token 0 with weight 0:
    nothing comes of them, and nothing comes back through them."""
    expert_P = expert_TK.flatten()
    load = torch.bincount(expert_P, minlength=experts).tolist()
    rows, ahead, end, filled = [], [], 0, 0
    for e, count in enumerate(load):
        ahead.append(end - filled)
        if count:
            size = -(-count // ROWS) * ROWS
            rows.append((e, slice(end, end + size)))
            end, filled = end + size, filled + count
    order_P = expert_P.argsort(stable=True)
    place_P = torch.empty_like(order_P)
    place_P[order_P] = torch.arange(len(order_P), device=order_P.device)
    place_P += torch.tensor(ahead, device=order_P.device)[expert_P]
    token_M = place_P.new_zeros(end)
    token_M[place_P] = torch.arange(len(place_P), device=place_P.device) // expert_TK.shape[1]
    weight_M1 = weight_TK.new_zeros(end, 1, dtype=dtype)
    weight_M1[place_P, 0] = weight_TK.flatten().to(dtype)
    return rows, place_P, token_M, weight_M1


def _through_swiglu(da: Tensor, gate: Tensor, up: Tensor, silu: Tensor) -> Tensor:
    """Gradients of gate and up side by side, from that of silu(gate) * up; `da` is overwritten."""
    inner = gate.shape[1]
    dh = da.new_empty(len(da), 2 * inner)
    torch.mul(da, silu, out=dh[:, inner:])
    torch.ops.aten.silu_backward.grad_input(da.mul_(up), gate, grad_input=dh[:, :inner])
    return dh


def _sum_per_token(x_MD: Tensor, place_P: Tensor, per_token: int, dtype: torch.dtype) -> Tensor:
    """[T, D]: the sum of each token's rows, in float32. A permutation, unlike a scatter-add, sums
    in one order."""
    first, *others = place_P.view(-1, per_token).unbind(1)
    total_TD = x_MD.index_select(0, first).float()
    for place_T in others:
        total_TD += x_MD.index_select(0, place_T)
    return total_TD.to(dtype)

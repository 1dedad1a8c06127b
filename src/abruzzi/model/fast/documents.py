"""Causal attention within the documents of packed rows: in bfloat16 by one kernel, torch's on a GPU
and ours on a CPU (kernels/documents.py); otherwise one document after the other, which is also what
the kernels are held against.

On a CPU without that kernel, and in float32, training takes packed_attention.py instead. The GPU's
kernel (torch's varlen_attn, FlashAttention) knows half precision only and never shows a logit; it
does give each query's log-sum-exp, which no logit of that query exceeds. That bound costs nothing
and is at most log(T) above the largest logit, so QK-Clip needs the logits themselves only of a head
that is close to its limit.

Shape suffixes: B rows, T tokens of a row, M = B T all tokens, C documents, N heads, K nope dim, P
rope dim (p pairs), A = K + P, H value dim, J = K + H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from abruzzi.kernels import documents as kernels
from abruzzi.model.fast.compiled import compiled
from abruzzi.model.k2 import seen_within
from abruzzi.model.rope import rotate
from abruzzi.model.trace import Trace

CAUSAL = (-1, 0)  # all keys to the left, none to the right


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of packed rows, row after row.

    lengths: tokens of each, sum M. edges_C1: int32, where each begins and, last, where the last one
    ends. begins_BT: bool, the first token of each. rotation: cos and sin, float32 [B, T, P/2]."""

    lengths: list[int]
    edges_C1: Tensor
    begins_BT: Tensor
    rotation: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, begins_BT: Tensor, rotation: tuple[Tensor, Tensor]) -> Documents:
        """From the first tokens of all documents; every row begins with one."""
        edges_C1 = F.pad(begins_BT.flatten().nonzero().flatten(), (0, 1), value=begins_BT.numel())
        return cls(edges_C1.diff().tolist(), edges_C1.int(), begins_BT, rotation)


def attend(
    q_BTNA: Tensor, kv_BTNJ: Tensor, k_pe_BTP: Tensor, documents: Documents, scale: float, watched: Trace | None
) -> tuple[Tensor, Tensor | None]:
    """softmax(scale q k^T) v within each document, [B, T, N, H] in q's dtype.

    q_BTNA: queries, nope then rope part, not yet rotated. kv_BTNJ: keys' nope part, then values.
    k_pe_BTP: the rotary key that all heads share, not yet rotated. watched: also return the largest
    softmax input of each head, float32 [N], as `watched.above` allows; else None."""
    nope, rope = q_BTNA.shape[-1] - k_pe_BTP.shape[-1], k_pe_BTP.shape[-1]
    value = kv_BTNJ.shape[-1] - nope
    if has_kernel(q_BTNA.device, q_BTNA.dtype, nope, rope, value):
        return _compiled(q_BTNA, kv_BTNJ, k_pe_BTP, documents, scale, watched)
    q_BTNA, k_BTNA, v_BTNA = heads(q_BTNA, kv_BTNJ, k_pe_BTP, *documents.rotation)
    o_BTNA, largest_N = _within(q_BTNA, k_BTNA, v_BTNA, documents, scale, watched)
    return o_BTNA[..., :value], largest_N


def has_kernel(device: torch.device, dtype: torch.dtype, nope: int, rope: int, value: int) -> bool:
    """Whether this CPU attends to documents in one kernel, in this dtype and with heads of this
    shape."""
    return device.type == "cpu" and dtype == torch.bfloat16 and kernels.can_attend(nope, rope, value)


def _compiled(
    q_BTNA: Tensor, kv_BTNJ: Tensor, k_pe_BTP: Tensor, documents: Documents, scale: float, watched: Trace | None
) -> tuple[Tensor, Tensor | None]:
    q_MNA, kv_MNJ, k_pe_MP = (x.flatten(0, 1).to(q_BTNA.dtype).contiguous() for x in (q_BTNA, kv_BTNJ, k_pe_BTP))
    o_MNH, largest_MN = _Attend.apply(q_MNA, kv_MNJ, k_pe_MP, documents, scale)  # type: ignore[misc]
    o_BTNH = o_MNH.unflatten(0, q_BTNA.shape[:2])
    if watched is None:
        return o_BTNH, None
    counted = watched.counted_BT
    return o_BTNH, (largest_MN if counted is None else _only(largest_MN, counted.flatten()[:, None])).amax(0)


class _Attend(torch.autograd.Function):
    """kernels/documents.py on tensors. What it saves is the inputs and the output, no
    probabilities."""

    @staticmethod
    def forward(
        ctx: Any, q_MNA: Tensor, kv_MNJ: Tensor, k_pe_MP: Tensor, documents: Documents, scale: float
    ) -> tuple[Tensor, Tensor]:
        given = _given(q_MNA, kv_MNJ, k_pe_MP, documents, scale)
        o, log_sum, largest = kernels.attend(given, torch.get_num_threads())
        o_MNH, log_sum_MN, largest_MN = _tensor(o), torch.from_numpy(log_sum), torch.from_numpy(largest)
        ctx.save_for_backward(q_MNA, kv_MNJ, k_pe_MP, o_MNH, log_sum_MN)
        ctx.documents, ctx.scale = documents, scale
        ctx.mark_non_differentiable(largest_MN)
        return o_MNH, largest_MN

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, do_MNH: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q_MNA, kv_MNJ, k_pe_MP, o_MNH, log_sum_MN = ctx.saved_tensors
        given = _given(q_MNA, kv_MNJ, k_pe_MP, ctx.documents, ctx.scale)
        rest = _bits(o_MNH), log_sum_MN.numpy(), _bits(do_MNH.to(o_MNH.dtype).contiguous())
        dq, dkv, dk_pe = kernels.attend_backward(given, *rest, torch.get_num_threads())
        return _tensor(dq), _tensor(dkv), torch.from_numpy(dk_pe).sum(1).to(k_pe_MP.dtype), None, None


def _given(q_MNA: Tensor, kv_MNJ: Tensor, k_pe_MP: Tensor, documents: Documents, scale: float) -> kernels.Given:
    cos_Mp, sin_Mp = (r.flatten(0, 1).contiguous().numpy() for r in documents.rotation)
    return documents.edges_C1.long().numpy(), _bits(q_MNA), _bits(kv_MNJ), _bits(k_pe_MP), cos_Mp, sin_Mp, scale


def _bits(x: Tensor) -> np.ndarray:
    """The memory of a bfloat16 tensor as uint16."""
    return x.detach().view(torch.uint16).numpy()


def _tensor(bits: np.ndarray) -> Tensor:
    return torch.from_numpy(bits).view(torch.bfloat16)


@compiled
def heads(
    q_BTNA: Tensor, kv_BTNJ: Tensor, k_pe_BTP: Tensor, cos_BTp: Tensor, sin_BTp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, [B, T, N, A] each in q's dtype.

    Zero columns make values as wide as keys: the fused kernels want that, and the sum does not
    change."""
    rope = k_pe_BTP.shape[-1]
    nope = q_BTNA.shape[-1] - rope
    q_nope_BTNK, q_pe_BTNP = q_BTNA.split((nope, rope), -1)
    k_nope_BTNK, v_BTNH = kv_BTNJ.to(q_BTNA.dtype).split((nope, kv_BTNJ.shape[-1] - nope), -1)
    q_pe_BTNP = rotate(q_pe_BTNP, cos_BTp[:, :, None], sin_BTp[:, :, None])
    k_pe_BTNP = rotate(k_pe_BTP, cos_BTp, sin_BTp)[:, :, None].expand_as(q_pe_BTNP).to(q_BTNA.dtype)
    q_BTNA, k_BTNA = torch.cat((q_nope_BTNK, q_pe_BTNP), -1), torch.cat((k_nope_BTNK, k_pe_BTNP), -1)
    return q_BTNA, k_BTNA, F.pad(v_BTNH, (0, max(0, q_BTNA.shape[-1] - v_BTNH.shape[-1])))


def _within(
    q_BTNA: Tensor, k_BTNA: Tensor, v_BTNA: Tensor, documents: Documents, scale: float, watched: Trace | None
) -> tuple[Tensor, Tensor | None]:
    if q_BTNA.device.type == "cuda" and q_BTNA.dtype in (torch.bfloat16, torch.float16):
        return _fused(q_BTNA, k_BTNA, v_BTNA, documents, scale, watched)
    q_BNTA, k_BNTA, v_BNTA = (x.transpose(1, 2) for x in (q_BTNA, k_BTNA, v_BTNA))
    largest_N = None
    if watched is not None:
        largest_N = _largest_by_document(q_BNTA, k_BNTA, documents.lengths, scale, watched)
    return _one_by_one(q_BNTA, k_BNTA, v_BNTA, documents.lengths, scale).transpose(1, 2), largest_N


def _fused(
    q_BTNA: Tensor, k_BTNA: Tensor, v_BTNA: Tensor, documents: Documents, scale: float, watched: Trace | None
) -> tuple[Tensor, Tensor | None]:
    edges, longest = documents.edges_C1, max(documents.lengths)
    width = q_BTNA.shape[-1]
    # The kernel wants a multiple of eight columns; zeros change no product.
    q_MNA, k_MNA, v_MNA = (F.pad(x.flatten(0, 1), (0, -width % 8)) for x in (q_BTNA, k_BTNA, v_BTNA))
    lse = AuxRequest(lse=True)
    o_MNA, lse_NM = varlen_attn(
        q_MNA, k_MNA, v_MNA, edges, edges, longest, longest, return_aux=lse, scale=scale, window_size=CAUSAL
    )
    o_BTNA = o_MNA[..., :width].unflatten(0, q_BTNA.shape[:2])
    if watched is None:
        return o_BTNA, None
    bound_N = lse_NM.detach() if watched.counted_BT is None else _only(lse_NM.detach(), watched.counted_BT.flatten())
    return o_BTNA, close_to_limit(bound_N.amax(-1), q_BTNA, k_BTNA, documents, scale, watched)


@torch.no_grad()
def close_to_limit(
    bound_N: Tensor, q_BTNA: Tensor, k_BTNA: Tensor, documents: Documents, scale: float, watched: Trace
) -> Tensor:
    """The largest softmax input of each head, float32 [N]; `bound_N` instead where that is within
    `watched.above`."""
    largest_N = bound_N.clone()
    above = float("-inf") if watched.above is None else watched.above
    heads = (bound_N > above).nonzero().flatten().tolist()
    if heads:
        seen_BTT = seen_within(documents.begins_BT)
        if watched.counted_BT is not None:
            seen_BTT = seen_BTT & watched.counted_BT[..., None]
        with torch.autocast(q_BTNA.device.type, enabled=False):
            for head in heads:  # one at a time: all together would be the largest tensor of the step
                logits_BTT = q_BTNA[:, :, head].float() @ k_BTNA[:, :, head].float().mT
                largest_N[head] = _only(logits_BTT, seen_BTT).amax() * scale
    return largest_N


def _only(x: Tensor, wanted: Tensor) -> Tensor:
    """x where `wanted`, else minus infinity."""
    return x.masked_fill(~wanted, float("-inf"))


def _one_by_one(q_BNTA: Tensor, k_BNTA: Tensor, v_BNTA: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Causal attention within each document, [B, N, T, A]."""
    # split, not slices: its backward is one concatenation, where each slice would fill a tensor of
    # full size. On a CPU the fused kernel's backward is faster in float32 than in bfloat16.
    dtype = torch.float32 if q_BNTA.device.type == "cpu" else q_BNTA.dtype
    parts = (x.to(dtype).transpose(0, 1).flatten(1, 2).split(lengths, dim=1) for x in (q_BNTA, k_BNTA, v_BNTA))
    attended = [
        F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=scale)[0]
        for q, k, v in zip(*parts)
    ]
    return torch.cat(attended, dim=1).unflatten(1, (len(q_BNTA), -1)).transpose(0, 1).to(q_BNTA.dtype)


@torch.no_grad()
def _largest_by_document(q_BNTA: Tensor, k_BNTA: Tensor, lengths: list[int], scale: float, trace: Trace) -> Tensor:
    """The largest softmax input of each head within the documents of packed rows, float32 [N].

    |q_i . k_j| <= |q_i| |k_j|: only where the largest norms of a document (C of them) allow more
    than `trace.above` are its logits computed; elsewhere that bound stands for them."""
    above = float("-inf") if trace.above is None else trace.above
    with torch.autocast(q_BNTA.device.type, enabled=False):
        q_NMA, k_NMA = (x.float().transpose(0, 1).flatten(1, 2) for x in (q_BNTA, k_BNTA))
        if trace.counted_BT is not None:
            counted_M = trace.counted_BT.flatten()
        else:
            counted_M = torch.ones(q_NMA.shape[1], dtype=torch.bool, device=q_NMA.device)
        sizes = torch.tensor(lengths, device=q_NMA.device)
        document_NM = torch.repeat_interleave(torch.arange(len(lengths), device=q_NMA.device), sizes)
        document_NM = document_NM.expand(len(q_NMA), -1)
        none_NC = q_NMA.new_zeros(len(q_NMA), len(lengths))
        longest_q_NC = none_NC.scatter_reduce(1, document_NM, q_NMA.norm(dim=-1) * counted_M, "amax")
        longest_k_NC = none_NC.scatter_reduce(1, document_NM, k_NMA.norm(dim=-1), "amax")
        largest_NC = longest_q_NC * longest_k_NC * scale
        ends = torch.cumsum(sizes, 0).tolist()
        for head, document in (largest_NC > above).nonzero().tolist():
            own = slice(ends[document] - lengths[document], ends[document])
            logits_TT = (q_NMA[head, own] @ k_NMA[head, own].mT) * scale
            seen_TT = counted_M[own, None].expand_as(logits_TT).tril()
            largest_NC[head, document] = _only(logits_TT, seen_TT).amax()
        return largest_NC.amax(1)

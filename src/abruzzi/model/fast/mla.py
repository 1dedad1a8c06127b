"""MLA over packed rows without a mask: what training runs in place of `Attention`'s naive form.

Its slow twin is `mla.Attention` with the mask of `k2.seen_within`.

Shape suffixes: as in attention/mla.py; M = B T all tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abruzzi.model.attention.mla import Attention
from abruzzi.model.fast import packed_attention
from abruzzi.model.fast.documents import Documents, attend
from abruzzi.model.fast.packed_attention import Packing
from abruzzi.model.fast.products import linear
from abruzzi.model.trace import Trace


def packed(attention: Attention, x_BTD: Tensor, rows: Documents | Packing, trace: Trace | None) -> Tensor:
    """What each head of `attention` gives on packed rows, [B, T, N, H]; `rows` contains the
    rotation."""
    q_BTNA, kv_BTNJ, k_pe_BTP = _heads(attention, x_BTD)
    scale = attention.softmax_scale
    watched = trace if trace is not None and trace.max_logits else None
    if isinstance(rows, Documents):
        o_BTNH, largest_N = attend(q_BTNA, kv_BTNJ, k_pe_BTP, rows, scale, watched)
    else:
        o_BTNH, largest_N = _padded(q_BTNA, kv_BTNJ, k_pe_BTP, rows, scale, watched)
    if watched is not None and largest_N is not None:
        watched.max_logit_N[attention.layer] = largest_N
    return o_BTNH


def _heads(attention: Attention, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, T, N, A], keys and values [B, T, N, J], rotary key [B, T, P]; nothing is rotated
    yet."""
    if attention.q_rank is None:
        q, kv_a = attention.q_proj(x_BTD), attention.kv_a_proj_with_mqa(x_BTD)
    else:  # one product for both: they read the same input
        together = torch.cat((attention.q_a_proj.weight, attention.kv_a_proj_with_mqa.weight))
        c_q, kv_a = linear(x_BTD, together).split((attention.q_rank, attention.rank + attention.rope), -1)
        q = attention.expanded(c_q)
    c_kv_BTR, k_pe_BTP = kv_a.split((attention.rank, attention.rope), -1)
    kv = attention.kv_b_proj(attention.kv_a_layernorm(c_kv_BTR))
    q_BTNA, kv_BTNJ = (y.unflatten(-1, (attention.heads, -1)) for y in (q, kv))
    return q_BTNA, kv_BTNJ, k_pe_BTP


def _padded(
    q_BTNA: Tensor, kv_BTNJ: Tensor, k_pe_BTP: Tensor, packing: Packing, scale: float, watched: Trace | None
) -> tuple[Tensor, Tensor | None]:
    """packed_attention.attend of all rows at once, and the largest softmax input of each head
    [N]."""
    q_MNA, kv_MNJ, k_pe_MP = (y.flatten(0, 1) for y in (q_BTNA, kv_BTNJ, k_pe_BTP))
    o_MNH, largest_MN = packed_attention.attend(
        q_MNA, kv_MNJ, k_pe_MP, packing, scale, want_largest=watched is not None
    )
    o_BTNH = o_MNH.unflatten(0, q_BTNA.shape[:2])
    if watched is None or largest_MN is None:
        return o_BTNH, None
    if watched.counted_BT is not None:
        largest_MN = largest_MN.masked_fill(~watched.counted_BT.flatten()[:, None], float("-inf"))
    return o_BTNH, largest_MN.amax(0)

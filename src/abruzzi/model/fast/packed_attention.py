"""Causal attention within the documents of packed rows, on a CPU: what mla.py trains with.

Documents of about equal length are padded to a common one and go through batched products together,
a block of queries at a time, each block against the keys up to its end: that saves most of what the
causal mask hides. Rotation, logits and softmax are float32; the products with probabilities have
the inputs' dtype. For documents of a few hundred tokens this takes about a third of the time of
torch's fused kernel in bfloat16 (docs/LOG.md). The probabilities are kept for the backward pass, T
squared per head, so longer documents go another way.

Its slow twin is torch's scaled_dot_product_attention, one document after the other (mla.py).

Shape suffixes: M all tokens of the packed rows, N heads, K nope dim, P rope dim, A = K + P, H value
dim, J = K + H, p = P/2 pairs; in the padded layout G documents of one bucket times heads, T their
padded length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abruzzi.model.fast.products import batched_by_onednn

BLOCK = 64  # queries at a time; documents are padded to a multiple
LONGEST = 1536  # tokens of a document


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the tokens of packed rows stand when documents are sorted by padded length, and how
    they are turned.

    Made once per forward pass, used by every layer. buckets: (documents, padded length). place_M:
    of each token among the padded ones; None when it is the same. turn: exp(i angle), complex64
    [documents, T, p] per bucket."""

    buckets: tuple[tuple[int, int], ...]
    place_M: Tensor | None
    turn: tuple[Tensor, ...]

    @classmethod
    def of(cls, documents: list[int], rotation: tuple[Tensor, Tensor]) -> Packing:
        """documents: lengths in the order of the tokens; rotation: cos and sin, float32 [B, T,
        p]."""
        padded = [-(-n // BLOCK) * BLOCK for n in documents]
        order = sorted(range(len(documents)), key=padded.__getitem__)
        starts, at = [0] * len(documents), 0
        counts: dict[int, int] = {}
        for number in order:
            starts[number] = at
            at += padded[number]
            counts[padded[number]] = counts.get(padded[number], 0) + 1
        buckets = tuple((count, length) for length, count in counts.items())
        place_M = None
        if at != sum(documents) or order != list(range(len(documents))):
            sizes, begins = torch.tensor(documents), torch.tensor(starts)
            within_M = torch.arange(sum(documents)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
            place_M = within_M + torch.repeat_interleave(begins, sizes)
        unturned = cls(buckets, place_M, ())
        turn_Mp = torch.complex(*(r.flatten(0, 1) for r in rotation))
        return cls(buckets, place_M, tuple(unturned.spread(turn_Mp)))

    def spread(self, x_M: Tensor) -> list[Tensor]:
        """Tokens [M, ...] at their places, zeros between them: a view or copy [documents, T, ...]
        per bucket."""
        if self.place_M is not None:
            size = sum(count * length for count, length in self.buckets)
            x_M = x_M.new_zeros(size, *x_M.shape[1:]).index_copy_(0, self.place_M, x_M)
        parts = x_M.split([count * length for count, length in self.buckets])
        return [part.unflatten(0, bucket) for part, bucket in zip(parts, self.buckets)]

    def gather(self, parts: list[Tensor]) -> Tensor:
        """The reverse of `spread`, [M, ...]."""
        x = parts[0].flatten(0, 1) if len(parts) == 1 else torch.cat([part.flatten(0, 1) for part in parts])
        return x if self.place_M is None else x.index_select(0, self.place_M)


def attend(
    q_MNA: Tensor, kv_MNJ: Tensor, k_pe_MP: Tensor, packing: Packing, scale: float, want_largest: bool = False
) -> tuple[Tensor, Tensor | None]:
    """softmax(scale q k^T) v within each document, causal: [M, N, H] in q's dtype.

    q_MNA: queries, nope then rope part, not yet rotated. kv_MNJ: keys' nope part, then values.
    k_pe_MP: the rotary key that all heads share, not yet rotated. want_largest: also return the
    largest softmax input of every query, float32 [M, N], without gradient; else None."""
    return _Attend.apply(q_MNA, kv_MNJ.to(q_MNA.dtype), k_pe_MP, packing, scale, want_largest)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_MNA: Tensor, kv_MNJ: Tensor, k_pe_MP: Tensor, packing: Packing, scale: float, want_largest: bool
    ) -> tuple[Tensor, Tensor | None]:
        dtype, heads, nope = q_MNA.dtype, q_MNA.shape[1], q_MNA.shape[2] - k_pe_MP.shape[1]
        saved, outputs, largest = [], [], []
        with torch.autocast(q_MNA.device.type, enabled=False):
            hidden = torch.full((BLOCK, BLOCK), float("-inf"), device=q_MNA.device).triu(1)
            inputs = zip(*map(packing.spread, (q_MNA, kv_MNJ, k_pe_MP)), packing.turn)
            for q, kv, k_pe, turn in inputs:
                wide_q_GTA, wide_k_GTA, v_GTH = _heads_first(q, kv, k_pe, turn, nope, scale)
                o_GTH = torch.empty_like(v_GTH)
                rows = []
                saved += [wide_q_GTA.to(dtype), wide_k_GTA.to(dtype), v_GTH]
                for start, end in _blocks(o_GTH.shape[1]):
                    with batched_by_onednn() if dtype == torch.bfloat16 else nullcontext():
                        logits = torch.bmm(wide_q_GTA[:, start:end], wide_k_GTA[:, :end].mT)
                    logits[..., start:] += hidden
                    if want_largest:
                        rows.append(logits.amax(-1))
                    probability = torch.softmax(logits, -1).to(dtype)
                    o_GTH[:, start:end] = torch.bmm(probability, v_GTH[:, :end])
                    saved.append(probability)
                outputs.append(o_GTH.unflatten(0, (-1, heads)).transpose(1, 2))
                if want_largest:
                    largest.append(torch.cat(rows, 1).unflatten(0, (-1, heads)).transpose(1, 2))
            ctx.save_for_backward(*saved)
            ctx.packing, ctx.scale, ctx.heads, ctx.nope = packing, scale, heads, nope
            ctx.dtypes = kv_MNJ.dtype, k_pe_MP.dtype
            largest_MN = packing.gather(largest) if want_largest else None
            if largest_MN is not None:
                ctx.mark_non_differentiable(largest_MN)
            return packing.gather(outputs), largest_MN

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, do_MNH: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        packing, saved, nope = ctx.packing, iter(ctx.saved_tensors), ctx.nope
        dq, dkv, dk_pe = [], [], []
        with torch.autocast(do_MNH.device.type, enabled=False):
            for do, turn in zip(packing.spread(do_MNH), packing.turn):
                q_GTA, k_GTA, v_GTH = (next(saved) for _ in range(3))
                do_GTH = do.transpose(1, 2).contiguous().flatten(0, 1)
                dq_GTA = torch.empty_like(q_GTA, dtype=torch.float32)
                # Summed over blocks in float32 whatever the dtype.
                dk_GTA = torch.zeros_like(k_GTA, dtype=torch.float32)
                dv_GTH = torch.zeros_like(v_GTH, dtype=torch.float32)
                for start, end in _blocks(q_GTA.shape[1]):
                    probability, do_block = next(saved), do_GTH[:, start:end]
                    dprobability = torch.bmm(do_block, v_GTH[:, :end].mT)
                    dlogits = torch.ops.aten._softmax_backward_data(dprobability, probability, -1, probability.dtype)
                    dq_GTA[:, start:end] = torch.bmm(dlogits, k_GTA[:, :end])
                    dk_GTA[:, :end] += torch.bmm(dlogits.mT, q_GTA[:, start:end])
                    dv_GTH[:, :end] += torch.bmm(probability.mT, do_block)
                back = turn.conj().resolve_conj()
                dq_GTA *= ctx.scale
                dq_dNTA = dq_GTA.unflatten(0, (-1, ctx.heads))
                _turn_(dq_dNTA[..., nope:], back[:, None])
                dq.append(dq_dNTA.transpose(1, 2).to(do.dtype, memory_format=torch.contiguous_format))
                dk_dNTA = dk_GTA.unflatten(0, (-1, ctx.heads))
                together = torch.cat((dk_dNTA[..., :nope], dv_GTH.unflatten(0, (-1, ctx.heads))), -1)
                dkv.append(together.transpose(1, 2).to(ctx.dtypes[0], memory_format=torch.contiguous_format))
                dk_pe_dTP = dk_dNTA[..., nope:].sum(1)
                _turn_(dk_pe_dTP, back)
                dk_pe.append(dk_pe_dTP.to(ctx.dtypes[1]))
        return packing.gather(dq), packing.gather(dkv), packing.gather(dk_pe), None, None, None


def _heads_first(
    q: Tensor, kv: Tensor, k_pe: Tensor, turn: Tensor, nope: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one bucket: scaled rotated queries and rotated keys, float32 [G, T, A], and values [G, T,
    H]."""
    documents, length, heads, width = q.shape
    wide_q = torch.empty(documents, heads, length, width)
    wide_q.copy_(q.transpose(1, 2)).mul_(scale)
    _turn_(wide_q[..., nope:], turn[:, None])
    wide_k = torch.empty_like(wide_q)
    wide_k[..., :nope] = kv[..., :nope].transpose(1, 2)
    shared = k_pe.to(torch.float32, copy=True)
    _turn_(shared, turn)
    wide_k[..., nope:] = shared[:, None]
    return wide_q.flatten(0, 1), wide_k.flatten(0, 1), kv[..., nope:].transpose(1, 2).contiguous().flatten(0, 1)


def _turn_(x: Tensor, turn: Tensor) -> None:
    """Rotate each pair (x[2j], x[2j+1]) of float32 x [..., P] by turn [..., p], in place."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    x.copy_(torch.view_as_real(pairs * turn).flatten(-2))


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """First query and the one after the last of each block."""
    for start in range(0, length, BLOCK):
        yield start, start + BLOCK

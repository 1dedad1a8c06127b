"""Multi-head latent attention, MLA (arXiv 2405.04434; DeepSeek-V3, arXiv 2412.19437, eqs 1-11).

Keys and values of all heads come from one small vector per token, c_kv, plus one rotary key k_pe
that all heads share; only those two are cached. Two ways to attend, the same numbers up to
rounding:

* naive: decompress c_kv into keys and values of every head, then ordinary attention. Best for many
  queries at once (training, prefill).
* absorbed: fold the key half of kv_b_proj into the query and its value half into the output, and
  attend in the latent space. Nothing is decompressed, which is what makes decode cheap.

Not here: packed rows without a mask (fast/mla.py), dropout, padding masks, sliding windows.

Shape suffixes: B batch, T tokens of this call, S tokens seen so far including them, D hidden_size,
N heads, Q q_lora_rank, R kv_lora_rank, K nope dim (qk_nope_head_dim), P rope dim, A = K + P,
L = R + P, H value dim, J = K + H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abruzzi.arch import ModelConfig
from abruzzi.arch.deepseek import LATENT_NORM_EPS
from abruzzi.model.linear import Linear
from abruzzi.model.norm import RMSNorm
from abruzzi.model.rope import rotate
from abruzzi.model.trace import Trace


class LatentCache:
    """c_kv (after its norm) and k_pe (after its rotation) of every token so far: R + P numbers per
    layer.

    Grows by concatenation, which is plain rather than fast. One cache belongs to one batch of
    sequences of equal length."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens per sequence."""
        return self._layers[0][0].shape[1] if self._layers else 0

    def append(self, layer: int, c_kv_BTR: Tensor, k_pe_BTP: Tensor) -> tuple[Tensor, Tensor]:
        """Add this call's tokens; returns everything up to them, [B, S, R] and [B, S, P]."""
        if layer in self._layers:
            c_kv, k_pe = self._layers[layer]
            if c_kv.shape[0] != c_kv_BTR.shape[0]:
                raise ValueError(f"the cache holds a batch of {c_kv.shape[0]}, got one of {c_kv_BTR.shape[0]}")
            c_kv_BTR, k_pe_BTP = torch.cat((c_kv, c_kv_BTR), 1), torch.cat((k_pe, k_pe_BTP), 1)
        self._layers[layer] = c_kv_BTR, k_pe_BTP
        return c_kv_BTR, k_pe_BTP


class Attention(nn.Module):
    """MLA of one layer. The queries' low-rank bottleneck exists only when the config has a
    q_lora_rank.

    inner: attention over packed rows without a mask, of (this module, x_BTD, packed, trace) to
        [B, T, N, H]; None = there is only the plain way (fast.enable sets it)."""

    FORMS = ("naive", "absorbed")

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        c = config
        self.layer = layer
        self.heads, self.rank, self.q_rank = c.num_attention_heads, c.kv_lora_rank, c.q_lora_rank
        self.nope, self.rope, self.value = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
        self.softmax_scale = c.softmax_scale  # contains YaRN's mscale squared
        self.inner: Callable[[Attention, Tensor, Any, Trace | None], Tensor] | None = None
        queries = c.num_attention_heads * c.qk_head_dim
        if self.q_rank is None:
            self.q_proj = Linear(c.hidden_size, queries)
        else:
            self.q_a_proj = Linear(c.hidden_size, self.q_rank)
            self.q_a_layernorm = RMSNorm(self.q_rank, LATENT_NORM_EPS)
            self.q_b_proj = Linear(self.q_rank, queries)
        self.kv_a_proj_with_mqa = Linear(c.hidden_size, self.rank + self.rope)
        self.kv_a_layernorm = RMSNorm(self.rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(self.rank, self.heads * (self.nope + self.value))
        self.o_proj = Linear(self.heads * self.value, c.hidden_size)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        *,
        absorbed: bool = False,
        packed: Any = None,
        cache: LatentCache | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Attend from T new tokens to S tokens; returns [B, T, D].

        rotation: cos and sin [B, T, P/2] of the new tokens. mask: bool, True = may attend, [T, S]
        or [B, 1, T, S]; None = causal over T = S tokens. packed: packed rows as `inner` takes them,
        in place of a mask."""
        if packed is not None:
            assert self.inner is not None, "packed rows without a mask need an inner attention"
            return self.o_proj(self.inner(self, x_BTD, packed, trace).flatten(2))
        q_nope_BTNK, q_pe_BTNP = self._queries(x_BTD, rotation)
        c_kv_BSR, k_pe_BSP = self._latents(x_BTD, rotation)
        if cache is not None:
            c_kv_BSR, k_pe_BSP = cache.append(self.layer, c_kv_BSR, k_pe_BSP)
        watched = trace if trace is not None and trace.max_logits else None
        if watched is not None:
            largest_N = self._max_logit(q_nope_BTNK, q_pe_BTNP, c_kv_BSR, k_pe_BSP, mask, watched.counted_BT)
            watched.max_logit_N[self.layer] = largest_N
        if absorbed:
            o_BTNH = self._absorbed(q_nope_BTNK, q_pe_BTNP, c_kv_BSR, k_pe_BSP, mask)
        else:
            o_BTNH = self._naive(q_nope_BTNK, q_pe_BTNP, c_kv_BSR, k_pe_BSP, mask)
        return self.o_proj(o_BTNH.flatten(2))

    @torch.no_grad()
    def clip_(self, max_logit_N: Tensor, tau: float) -> Tensor:
        """QK-Clip (Kimi K2, arXiv 2507.20534, Algorithm 1), in place: rescale loud heads.

        max_logit_N: the largest softmax input of each head. Where it exceeds tau, gamma = tau /
        max_logit: sqrt(gamma) on the nope parts of query and key, gamma on the query's rope part;
        values and the rotary key, which all heads share, stay. Returns how many heads were
        rescaled, int64 []."""
        queries = self.q_proj if self.q_rank is None else self.q_b_proj
        q_NAx = queries.weight.view(self.heads, self.nope + self.rope, -1)
        kv_NJR = self.kv_b_proj.weight.view(self.heads, self.nope + self.value, -1)
        gamma_N = torch.where(max_logit_N > tau, tau / max_logit_N, torch.ones_like(max_logit_N)).to(q_NAx)
        q_NAx[:, : self.nope] *= gamma_N.sqrt()[:, None, None]
        q_NAx[:, self.nope :] *= gamma_N[:, None, None]
        kv_NJR[:, : self.nope] *= gamma_N.sqrt()[:, None, None]
        return (max_logit_N > tau).sum()

    def _queries(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        q = self.q_proj(x_BTD) if self.q_rank is None else self.expanded(self.q_a_proj(x_BTD))
        q_nope_BTNK, q_pe_BTNP = q.unflatten(-1, (self.heads, -1)).split((self.nope, self.rope), -1)
        cos, sin = (r[:, :, None] for r in rotation)  # one rotation for all heads
        return q_nope_BTNK, rotate(q_pe_BTNP, cos, sin)

    def expanded(self, c_q_BTQ: Tensor) -> Tensor:
        """Queries of all heads from their low-rank bottleneck, [B, T, N A]."""
        return self.q_b_proj(self.q_a_layernorm(c_q_BTQ))

    def _latents(self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        c_kv_BTR, k_pe_BTP = self.kv_a_proj_with_mqa(x_BTD).split((self.rank, self.rope), -1)
        return self.kv_a_layernorm(c_kv_BTR), rotate(k_pe_BTP, *rotation)  # the rotary key is not normed

    def _naive(
        self,
        q_nope_BTNK: Tensor,
        q_pe_BTNP: Tensor,
        c_kv_BSR: Tensor,
        k_pe_BSP: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        kv = self.kv_b_proj(c_kv_BSR).unflatten(-1, (self.heads, -1))
        k_nope_BSNK, v_BSNH = kv.split((self.nope, self.value), -1)
        k_pe_BSNP = k_pe_BSP[:, :, None].expand(-1, -1, self.heads, -1)
        q_BNTA = torch.cat((q_nope_BTNK, q_pe_BTNP), -1).transpose(1, 2)
        k_BNSA = torch.cat((k_nope_BSNK, k_pe_BSNP.to(k_nope_BSNK.dtype)), -1).transpose(1, 2)
        # Zero columns make values as wide as keys: the fused kernels want that, and the sum does
        # not change.
        v_BNSA = F.pad(v_BSNH, (0, max(0, self.nope + self.rope - self.value))).transpose(1, 2)
        o_BNTA = F.scaled_dot_product_attention(
            q_BNTA, k_BNSA, v_BNSA, attn_mask=mask, is_causal=mask is None, scale=self.softmax_scale
        )
        return o_BNTA.transpose(1, 2)[..., : self.value]

    def _absorbed(
        self, q_nope_BTNK: Tensor, q_pe_BTNP: Tensor, c_kv_BSR: Tensor, k_pe_BSP: Tensor, mask: Tensor | None
    ) -> Tensor:
        q_BTNL, c_BSL = self._latent_queries(q_nope_BTNK, q_pe_BTNP), torch.cat((c_kv_BSR, k_pe_BSP), -1)
        logits_BNTS = torch.einsum("btnl,bsl->bnts", q_BTNL, c_BSL).float() * self.softmax_scale
        weights_BNTS = logits_BNTS.masked_fill(_unseen(mask, logits_BNTS), float("-inf")).softmax(-1)
        u_BTNR = torch.einsum("bnts,bsr->btnr", weights_BNTS.to(q_nope_BTNK.dtype), c_kv_BSR)
        return torch.einsum("btnr,nhr->btnh", u_BTNR, self._kv_b_parts()[1])

    @torch.no_grad()
    def _max_logit(
        self,
        q_nope_BTNK: Tensor,
        q_pe_BTNP: Tensor,
        c_kv_BSR: Tensor,
        k_pe_BSP: Tensor,
        mask: Tensor | None,
        counted_BT: Tensor | None,
    ) -> Tensor:
        """The largest softmax input of each head, float32 [N]; one head at a time: twice as fast as
        all at once."""
        q_BTNL, c_BSL = self._latent_queries(q_nope_BTNK, q_pe_BTNP), torch.cat((c_kv_BSR, k_pe_BSP), -1)
        largest = []
        for q_BTL in q_BTNL.unbind(2):
            logits_BTS = q_BTL @ c_BSL.to(q_BTL.dtype).mT
            unseen = _unseen(mask if mask is None or mask.ndim == 2 else mask[:, 0], logits_BTS)
            if counted_BT is not None:
                unseen = unseen | ~counted_BT[..., None]
            largest.append(logits_BTS.masked_fill_(unseen, float("-inf")).amax())
        return torch.stack(largest).float() * self.softmax_scale

    def _latent_queries(self, q_nope_BTNK: Tensor, q_pe_BTNP: Tensor) -> Tensor:
        """Queries for [c_kv; k_pe]: the key part of kv_b_proj folded in; [B, T, N, L]."""
        q_latent_BTNR = torch.einsum("btnk,nkr->btnr", q_nope_BTNK, self._kv_b_parts()[0])
        return torch.cat((q_latent_BTNR, q_pe_BTNP.to(q_latent_BTNR.dtype)), -1)

    def _kv_b_parts(self) -> tuple[Tensor, Tensor]:
        """kv_b_proj's rows per head: the key part [N, K, R], then the value part [N, H, R]."""
        w_uk_NKR, w_uv_NHR = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).split((self.nope, self.value), 1)
        return w_uk_NKR, w_uv_NHR


def _unseen(mask: Tensor | None, logits: Tensor) -> Tensor:
    """Where a query may not look: the mask turned round; for None everything after the query
    itself."""
    if mask is not None:
        return ~mask
    return torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)

"""One forward pass on this machine: ids and a latent cache in, logits out; float32 throughout.

The twin of model/k2.py without torch. A chunk of tokens goes through the layers at once; attention over
a long chunk decompresses keys and values (naive), over a short one it stays in the latent space
(absorbed): the same numbers up to rounding, and the cheaper of the two. Only the normed latent and the
rotated shared key of each token are kept.

Letters: T tokens of this chunk, S tokens cached including it, D hidden_size, N heads, R kv_lora_rank,
P rope dim, K nope dim, H value dim, E experts, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from abruzzi.config import ModelConfig
from abruzzi.engine.weights import Attention, Matrix, Mlp, Moe, Weights
from abruzzi.kernels import ops

LATENT_NORM_EPS = 1e-6  # the latent norms ignore the config's eps, as in transformers
ABSORB_UP_TO = 8  # tokens per chunk; above it decompressing once is cheaper
MATVEC_UP_TO = 4  # tokens per expert; above it unpacking the expert once is cheaper


class LatentCache:
    """c_kv [layers, capacity, R] and k_pe [layers, capacity, P], float32; grows by doubling up to `limit`."""

    def __init__(self, config: ModelConfig, limit: int) -> None:
        self.limit = limit
        self.length = 0
        capacity = min(limit, 256)
        self._c_kv = np.zeros((config.num_hidden_layers, capacity, config.kv_lora_rank), np.float32)
        self._k_pe = np.zeros((config.num_hidden_layers, capacity, config.qk_rope_head_dim), np.float32)

    def make_room(self, tokens: int) -> None:
        """Raises ValueError with both numbers when `tokens` more do not fit."""
        want = self.length + tokens
        if want > self.limit:
            raise ValueError(f"{want} tokens do not fit the context of {self.limit}; hint: shorten the prompt")
        capacity = self._c_kv.shape[1]
        if want > capacity:
            grown = min(self.limit, max(want, 2 * capacity))
            self._c_kv = _grown(self._c_kv, grown, self.length)
            self._k_pe = _grown(self._k_pe, grown, self.length)

    def write(self, layer: int, c_kv_TR: np.ndarray, k_pe_TP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store this chunk behind what is cached; returns views of everything up to its end [S, ...]."""
        end = self.length + len(c_kv_TR)
        self._c_kv[layer, self.length : end] = c_kv_TR
        self._k_pe[layer, self.length : end] = k_pe_TP
        return self._c_kv[layer, :end], self._k_pe[layer, :end]

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self.length
        self.length = length


class Runner:
    """Weights and config, and the arithmetic between them. Holds no state of a sequence."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        positions = np.arange(config.max_position_embeddings, dtype=np.float64)
        angles = positions[:, None] * np.array(config.rope_inv_freq())
        factor = config.rope_attention_factor
        self._cos = (np.cos(angles) * factor).astype(np.float32)  # [max positions, P/2]
        self._sin = (np.sin(angles) * factor).astype(np.float32)
        self._scale = np.float32(config.softmax_scale)

    def forward(self, ids: np.ndarray, cache: LatentCache, last_only: bool = True) -> np.ndarray:
        """Append `ids` [T] to the cache. Returns logits float32 [1, V] of the last token, or [T, V].

        Raises ValueError when the cache's limit is exceeded or an id is outside the vocabulary."""
        if ids.size == 0:
            raise ValueError("no tokens to run; expected at least one id")
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size:
            worst = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise ValueError(f"token id {worst} is outside the vocabulary of {self.config.vocab_size}")
        cache.make_room(len(ids))
        eps = self.config.rms_norm_eps
        x_TD = self.weights.embed_VD[ids]
        for index, layer in enumerate(self.weights.layers):
            normed = ops.rmsnorm(x_TD, layer.input_norm_D, eps)
            x_TD = x_TD + self._attend(index, layer.attention, normed, cache)
            normed = ops.rmsnorm(x_TD, layer.post_norm_D, eps)
            mlp = layer.mlp
            x_TD = x_TD + (self._moe(mlp, normed) if isinstance(mlp, Moe) else _swiglu(mlp, normed))
        cache.length += len(ids)
        if last_only:
            x_TD = x_TD[-1:]
        return ops.linear(ops.rmsnorm(x_TD, self.weights.norm_D, eps), self.weights.head_VD)

    def _attend(self, index: int, w: Attention, x_TD: np.ndarray, cache: LatentCache) -> np.ndarray:
        c = self.config
        tokens, start = len(x_TD), cache.length
        cos, sin = self._cos[start : start + tokens], self._sin[start : start + tokens]
        q_in = x_TD
        if w.q_a_QD is not None and w.q_a_norm_Q is not None:
            q_in = ops.rmsnorm(ops.linear(x_TD, w.q_a_QD), w.q_a_norm_Q, LATENT_NORM_EPS)
        q_TNA = ops.linear(q_in, w.q_b).reshape(tokens, c.num_attention_heads, c.qk_head_dim)
        q_TNK = q_TNA[:, :, : c.qk_nope_head_dim]
        q_pe_TNP = ops.rope(q_TNA[:, :, c.qk_nope_head_dim :], cos[:, None], sin[:, None])
        kv_TA = ops.linear(x_TD, w.kv_a)
        latent = ops.rmsnorm(np.ascontiguousarray(kv_TA[:, : c.kv_lora_rank]), w.kv_a_norm_R, LATENT_NORM_EPS)
        c_kv_SR, k_pe_SP = cache.write(index, latent, ops.rope(kv_TA[:, c.kv_lora_rank :], cos, sin))
        attention = ops.mla_absorbed if tokens <= ABSORB_UP_TO else ops.mla_naive
        o_TNH = attention(q_TNK, q_pe_TNP, c_kv_SR, k_pe_SP, w.w_uk_NKR, w.w_uv_NHR, self._scale)
        return ops.linear(o_TNH.reshape(tokens, -1), w.o)

    def _moe(self, w: Moe, x_TD: np.ndarray) -> np.ndarray:
        c = self.config
        chosen_TK, weight_TK = ops.route(
            ops.linear(x_TD, w.gate_ED),
            w.bias_E,
            top_k=c.num_experts_per_tok,
            n_group=c.n_group,
            topk_group=c.topk_group,
            renormalize=c.norm_topk_prob,
            scale=c.routed_scaling_factor,
        )
        out_TD = _swiglu(w.shared, x_TD)
        for e in np.unique(chosen_TK):
            rows, slots = np.nonzero(chosen_TK == e)
            out_TD[rows] += weight_TK[rows, slots, None] * _swiglu(w.experts[e], x_TD[rows])
        return out_TD


def _swiglu(w: Mlp, x_TD: np.ndarray) -> np.ndarray:
    return _apply(w.down, ops.silu_mul(_apply(w.gate, x_TD), _apply(w.up, x_TD)))


def _apply(w: Matrix, x_TI: np.ndarray) -> np.ndarray:
    """x @ W^T -> float32 [T, out]."""
    if w.int4 is not None and len(x_TI) <= MATVEC_UP_TO:
        return np.stack([ops.int4_matvec(w.int4.packed, w.int4.scale, x) for x in np.ascontiguousarray(x_TI)])
    return ops.linear(x_TI, w.as_float())


def _grown(old: np.ndarray, capacity: int, used: int) -> np.ndarray:
    new = np.zeros((old.shape[0], capacity, old.shape[2]), np.float32)
    new[:, :used] = old[:, :used]
    return new

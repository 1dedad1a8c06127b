"""One forward pass on this machine: chunks of sequences and a latent cache in, logits out; float32 throughout.

The twin of model/k2.py without torch. All tokens go through the layers at once; attention over
a long chunk decompresses keys and values (naive), over a short one it stays in the latent space
(absorbed): the same numbers up to rounding, and the cheaper of the two. Only the normed latent and the
rotated shared key of each token are kept.

Letters: T tokens of a chunk or of all, S tokens of a sequence up to the end of its chunk, D hidden_size,
N heads, R kv_lora_rank, P rope dim, K nope dim, H value dim, E experts, V vocabulary, W wanted rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abruzzi.config import ModelConfig
from abruzzi.engine.weights import Attention, Matrix, Mlp, Moe, Weights
from abruzzi.kernels import ops

LATENT_NORM_EPS = 1e-6  # the latent norms ignore the config's eps, as in transformers
ABSORB_UP_TO = 8  # tokens per chunk; above it decompressing once is cheaper
MATVEC_UP_TO = 4  # tokens per expert; above it unpacking the expert once is cheaper


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence. ids [T]; slots [S]: the cache slot of every position up to the last
    of these, S >= T. all_logits: a row of logits for each token, not only for the last."""

    ids: np.ndarray
    slots: np.ndarray
    all_logits: bool = False


class LatentCache:
    """c_kv [layers, slots, R] and k_pe [layers, slots, P], float32, for tokens of any number of sequences.

    Memory is claimed by the operating system only as slots are written."""

    def __init__(self, config: ModelConfig, slots: int) -> None:
        self.slots = slots
        self._c_kv = np.zeros((config.num_hidden_layers, slots, config.kv_lora_rank), np.float32)
        self._k_pe = np.zeros((config.num_hidden_layers, slots, config.qk_rope_head_dim), np.float32)

    @staticmethod
    def bytes_per_slot(config: ModelConfig) -> int:
        """What one token takes in all layers."""
        return config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * 4

    def write(
        self, layer: int, slots_S: np.ndarray, c_kv_TR: np.ndarray, k_pe_TP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Store the last T of these slots; returns all of them [S, ...], as views where they lie in a row."""
        new = slots_S[len(slots_S) - len(c_kv_TR) :]
        self._c_kv[layer, new] = c_kv_TR
        self._k_pe[layer, new] = k_pe_TP
        first, last = int(slots_S[0]), int(slots_S[-1])
        if last - first == len(slots_S) - 1 and (np.diff(slots_S) == 1).all():
            return self._c_kv[layer, first : last + 1], self._k_pe[layer, first : last + 1]
        return self._c_kv[layer, slots_S], self._k_pe[layer, slots_S]


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

    def forward(self, chunks: Sequence[Chunk], cache: LatentCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it wants all.

        Raises ValueError for a chunk without ids and for an id outside the vocabulary."""
        ids = np.concatenate([c.ids for c in chunks])
        self._check(chunks, ids)
        eps = self.config.rms_norm_eps
        x_TD = self.weights.embed_VD[ids]
        for index, layer in enumerate(self.weights.layers):
            normed = ops.rmsnorm(x_TD, layer.input_norm_D, eps)
            x_TD = x_TD + self._attend(index, layer.attention, normed, chunks, cache)
            normed = ops.rmsnorm(x_TD, layer.post_norm_D, eps)
            mlp = layer.mlp
            x_TD = x_TD + (self._moe(mlp, normed) if isinstance(mlp, Moe) else _swiglu(mlp, normed))
        ends = np.cumsum([len(c.ids) for c in chunks])
        wanted = [np.arange(end - (len(c.ids) if c.all_logits else 1), end) for c, end in zip(chunks, ends)]
        x_WD = ops.rmsnorm(x_TD[np.concatenate(wanted)], self.weights.norm_D, eps)
        logits_WV = ops.linear(x_WD, self.weights.head_VD)
        return np.split(logits_WV, np.cumsum([len(w) for w in wanted])[:-1])

    def _check(self, chunks: Sequence[Chunk], ids: np.ndarray) -> None:
        if any(c.ids.size == 0 for c in chunks):
            raise ValueError("no tokens to run; expected at least one id")
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size:
            worst = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise ValueError(f"token id {worst} is outside the vocabulary of {self.config.vocab_size}")

    def _attend(
        self, index: int, w: Attention, x_TD: np.ndarray, chunks: Sequence[Chunk], cache: LatentCache
    ) -> np.ndarray:
        """The projections of all tokens at once, attention itself sequence by sequence."""
        c = self.config
        positions = np.concatenate([np.arange(len(k.slots) - len(k.ids), len(k.slots)) for k in chunks])
        cos, sin = self._cos[positions], self._sin[positions]
        q_in = x_TD
        if w.q_a_QD is not None and w.q_a_norm_Q is not None:
            q_in = ops.rmsnorm(ops.linear(x_TD, w.q_a_QD), w.q_a_norm_Q, LATENT_NORM_EPS)
        q_TNA = ops.linear(q_in, w.q_b).reshape(len(x_TD), c.num_attention_heads, c.qk_head_dim)
        q_TNK = q_TNA[:, :, : c.qk_nope_head_dim]
        q_pe_TNP = ops.rope(q_TNA[:, :, c.qk_nope_head_dim :], cos[:, None], sin[:, None])
        kv_TA = ops.linear(x_TD, w.kv_a)
        latent_TR = ops.rmsnorm(np.ascontiguousarray(kv_TA[:, : c.kv_lora_rank]), w.kv_a_norm_R, LATENT_NORM_EPS)
        k_pe_TP = ops.rope(kv_TA[:, c.kv_lora_rank :], cos, sin)
        attended, at = [], 0
        for chunk in chunks:
            t = slice(at, at + len(chunk.ids))
            c_kv_SR, k_pe_SP = cache.write(index, chunk.slots, latent_TR[t], k_pe_TP[t])
            attention = ops.mla_absorbed if len(chunk.ids) <= ABSORB_UP_TO else ops.mla_naive
            o_TNH = attention(q_TNK[t], q_pe_TNP[t], c_kv_SR, k_pe_SP, w.w_uk_NKR, w.w_uv_NHR, self._scale)
            attended.append(o_TNH.reshape(len(chunk.ids), -1))
            at = t.stop
        return ops.linear(np.concatenate(attended), w.o)

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

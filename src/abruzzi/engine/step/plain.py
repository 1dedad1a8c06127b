"""One forward pass in plain NumPy: chunks of sequences and a KV cache in, logits out; float32 throughout.

The slow, readable twin of the compiled step (native.py), and of model/k2.py without torch: tests hold all three
against each other, and nothing else runs it. All tokens go through the layers at once, each layer being

    x += attention(norm(x)); x += mlp(norm(x))

with a class for each kind of half layer: `MlaAttention` (DeepSeek-V2, section 2.1), `Dense` and `Experts` with their
`Router` (DeepSeek-V3, equations 12 to 16). Another kind is another class, and a line in `PlainRunner.__init__`.

Letters: T tokens of a chunk or of all, S tokens of a sequence up to the end of its chunk, D hidden_size,
N heads, R kv_lora_rank, P rope dim, K nope dim, H value dim, E experts, V vocabulary, W rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.deepseek import LATENT_NORM_EPS
from abruzzi.engine.step.attention import Mla
from abruzzi.engine.step.state import Chunk, KvCache
from abruzzi.engine.weights import load
from abruzzi.kernels import ref


@dataclass(frozen=True, slots=True)
class Step:
    """The chunks that run together; positions [T]: of all their tokens."""

    chunks: Sequence[Chunk]
    cache: KvCache
    positions: np.ndarray


class Attention(Protocol):
    """The first half of a layer."""

    def run(self, index: int, w: load.Attention, x_TD: np.ndarray, step: Step) -> np.ndarray:
        """What attention adds to the normed x: float32 [T, D]. index: the layer's, in the cache."""
        ...


class MlaAttention:
    """Multi-head latent attention. In the cache: the normed latent and the rotated key, which all heads share."""

    def __init__(self, config: ModelConfig) -> None:
        self.kind = Mla(config)
        self.scale = np.float32(config.softmax_scale)
        self._config = config
        self._inv_freq = np.array(config.rope_inv_freq())

    def run(self, index: int, w: load.Attention, x_TD: np.ndarray, step: Step) -> np.ndarray:
        """The projections of all tokens at once, attention itself sequence by sequence."""
        cos_TP, sin_TP = self._rotation(step.positions)
        q_TNK, q_pe_TNP = self._queries(w, x_TD, cos_TP, sin_TP)
        kv_TA = ref.linear(x_TD, w.kv_a)
        latent_TR = ref.rmsnorm(kv_TA[:, : self.kind.rank], w.kv_a_norm_R, LATENT_NORM_EPS)
        k_pe_TP = ref.rope(kv_TA[:, self.kind.rank :], cos_TP, sin_TP)
        attended, first = [], 0
        for chunk in step.chunks:
            t = slice(first, first + len(chunk.ids))
            c_kv_SR, k_pe_SP = self._store(step.cache, index, chunk, latent_TR[t], k_pe_TP[t])
            prefill = chunk.prefill_tokens(self.kind)
            for form, part in (
                (ref.mla_naive, slice(first, first + prefill)),
                (ref.mla_absorbed, slice(first + prefill, t.stop)),
            ):
                if part.start < part.stop:
                    seen = chunk.start + part.stop - first
                    o_TNH = form(
                        *(q_TNK[part], q_pe_TNP[part], c_kv_SR[:seen], k_pe_SP[:seen]),
                        *(w.w_uk_NKR, w.w_uv_NHR, self.scale),
                    )
                    attended.append(o_TNH.reshape(len(o_TNH), -1))
            first = t.stop
        return ref.linear(np.concatenate(attended), w.o)

    def _rotation(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of each rotary pair's angle, float32 [T, P / 2]."""
        angles, factor = positions[:, None] * self._inv_freq, self._config.rope_attention_factor
        return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)

    def _queries(
        self, w: load.Attention, x_TD: np.ndarray, cos_TP: np.ndarray, sin_TP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[T, N, K] and, rotated, [T, N, P]."""
        c = self._config
        if w.q_a_QD is not None and w.q_a_norm_Q is not None:
            x_TD = ref.rmsnorm(ref.linear(x_TD, w.q_a_QD), w.q_a_norm_Q, LATENT_NORM_EPS)
        q_TNA = ref.linear(x_TD, w.q).reshape(len(x_TD), c.num_attention_heads, c.qk_head_dim)
        nope = c.qk_nope_head_dim
        return q_TNA[:, :, :nope], ref.rope(q_TNA[:, :, nope:], cos_TP[:, None], sin_TP[:, None])

    def _store(
        self, cache: KvCache, index: int, chunk: Chunk, latent_TR: np.ndarray, k_pe_TP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A chunk's tokens into the cache; c_kv [S, R] and k_pe [S, P] of its sequence up to there, as copies."""
        latent, key = slice(0, self.kind.rank), slice(self.kind.latent, self.kind.latent + self.kind.rope)
        slots_S = cache.slots_of(chunk)
        cache.rows[index, slots_S[chunk.start :], latent] = latent_TR
        cache.rows[index, slots_S[chunk.start :], key] = k_pe_TP
        seen = cache.rows[index, slots_S]
        return seen[:, latent], seen[:, key]


class Dense:
    """One SwiGLU for every token."""

    def run(self, w: load.Mlp, x_TD: np.ndarray) -> np.ndarray:
        """down (silu(gate x) * (up x)): float32 [T, D]."""
        return _apply(w.down, ref.silu_mul(_apply(w.gate, x_TD), _apply(w.up, x_TD)))


class Router:
    """Which experts a token goes to, and with what weights. score: how logits become scores (ref.SCORES)."""

    def __init__(self, config: ModelConfig, score: str = "sigmoid") -> None:
        self._config = config
        self.score = score

    def run(self, w: load.Moe, x_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Experts and weights, both [T, K]."""
        c = self._config
        return ref.route(
            ref.linear(x_TD, w.gate_ED),
            w.bias_E,
            top_k=c.num_experts_per_tok,
            n_group=c.n_group,
            topk_group=c.topk_group,
            renormalize=c.norm_topk_prob,
            scale=c.routed_scaling_factor,
            score=self.score,
        )


class Experts:
    """Shared experts for every token, routed ones for those that the router sends."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._dense = Dense()

    def run(self, w: load.Moe, x_TD: np.ndarray) -> np.ndarray:
        """float32 [T, D]."""
        chosen_TK, weight_TK = self.router.run(w, x_TD)
        out_TD = self._dense.run(w.shared, x_TD)
        for e in np.unique(chosen_TK):
            rows, slots = np.nonzero(chosen_TK == e)
            out_TD[rows] += weight_TK[rows, slots, None] * self._dense.run(w.experts[e], x_TD[rows])
        return out_TD


class PlainRunner:
    """Weights and config, and the arithmetic between them. Holds no state of a sequence."""

    def __init__(self, config: ModelConfig, weights: load.Weights) -> None:
        self.config = config
        self.weights = weights
        self.attention: Attention = MlaAttention(config)
        self.dense = Dense()
        self.experts = Experts(Router(config))

    def forward(self, chunks: Sequence[Chunk], cache: KvCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it asks for all.

        Raises ValueError for a chunk without ids and for an id outside the vocabulary."""
        self._check(chunks)
        eps = self.config.rms_norm_eps
        step = Step(chunks, cache, np.concatenate([np.arange(k.start, k.start + len(k.ids)) for k in chunks]))
        x_TD = self.weights.embed_VD[np.concatenate([c.ids for c in chunks])]
        for index, layer in enumerate(self.weights.layers):
            x_TD = x_TD + self.attention.run(index, layer.attention, ref.rmsnorm(x_TD, layer.input_norm_D, eps), step)
            x_TD = x_TD + self._mlp(layer.mlp, ref.rmsnorm(x_TD, layer.post_norm_D, eps))
        ends = np.cumsum([len(c.ids) for c in chunks])
        rows = [np.arange(end - c.logit_rows, end) for c, end in zip(chunks, ends)]
        x_WD = ref.rmsnorm(x_TD[np.concatenate(rows)], self.weights.norm_D, eps)
        logits_WV = ref.linear(x_WD, self.weights.head_VD)
        return np.split(logits_WV, np.cumsum([len(r) for r in rows])[:-1])

    def _mlp(self, w: load.Mlp | load.Moe, x_TD: np.ndarray) -> np.ndarray:
        return self.experts.run(w, x_TD) if isinstance(w, load.Moe) else self.dense.run(w, x_TD)

    def _check(self, chunks: Sequence[Chunk]) -> None:
        if not chunks or any(c.ids.size == 0 for c in chunks):
            raise ValueError("no tokens to run; expected at least one id")
        for c in chunks:
            for worst in (int(c.ids.min()), int(c.ids.max())):
                if not 0 <= worst < self.config.vocab_size:
                    raise ValueError(f"token id {worst} is outside the vocabulary of {self.config.vocab_size}")


def _apply(w: load.Matrix, x_TI: np.ndarray) -> np.ndarray:
    """x @ W^T -> float32 [T, out]."""
    return ref.linear(x_TI, w.as_float())

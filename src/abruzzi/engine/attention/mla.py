"""Multi-head latent attention (DeepSeek-V2, section 2.1): what the engine knows of it.

Two forms with the same result up to rounding: *naive* decompresses keys and values (prefill),
*absorbed* folds the key part of kv_b into the query and the value part into the output, and attends
to the latents (decode); so kv_b is split per head. In the cache: the normed latent, then the
rotated key that all heads share, each filled up with zeros to whole vectors.

Letters: T tokens, D hidden_size, N heads, R kv_lora_rank, P rope dim, K nope dim, H value dim,
Q q_lora_rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from abruzzi.arch.deepseek import ABSORB_UP_TO, LATENT_NORM_EPS, DeepseekConfig
from abruzzi.arch.modes import WeightMode
from abruzzi.engine.attention.kind import PackedAttention, StoredMatrix, floats
from abruzzi.engine.step.state import Chunk, KvCache, PrefillRule, Step
from abruzzi.engine.weights.random_tensors import RandomTensors
from abruzzi.engine.weights.reader import TensorReader
from abruzzi.engine.weights.rounding import pack
from abruzzi.kernels import ops, ref


@dataclass(frozen=True, slots=True)
class MlaWeights:
    """A layer's weights. q makes queries from x or, where there is a q_a, from the normed q_a x."""

    q_a_QD: StoredMatrix | None
    q_a_norm_Q: np.ndarray | None
    q: StoredMatrix  # [N (K+P), Q], or [N (K+P), D] without q_lora
    kv_a: StoredMatrix  # [R+P, D]
    kv_a_norm_R: np.ndarray
    w_uk_NKR: np.ndarray
    w_uv_NHR: np.ndarray
    o: StoredMatrix  # [D, N H]

    def pack(self, weights: WeightMode) -> PackedAttention:
        """absorb_k, expand_k, expand_v: kv_b per head, [R, K], [K, R] and [H, R]."""
        heads = range(len(self.w_uk_NKR))

        def packed(w_OI: StoredMatrix) -> ops.Packed:
            return pack(w_OI, "attention", weights)

        return {
            "q_norm": self.q_a_norm_Q,
            "kv_norm": self.kv_a_norm_R,
            "q_a": None if self.q_a_QD is None else packed(self.q_a_QD),
            "q": packed(self.q),
            "kv_a": packed(self.kv_a),
            "o": packed(self.o),
            "absorb_k": [packed(np.ascontiguousarray(self.w_uk_NKR[n].T)) for n in heads],
            "expand_k": [packed(self.w_uk_NKR[n]) for n in heads],
            "expand_v": [packed(self.w_uv_NHR[n]) for n in heads],
        }


class Mla:
    """MLA of one model (see kind.AttentionKind)."""

    def __init__(self, config: DeepseekConfig) -> None:
        self._config = config

    def prefill_until(self, start: int, prompt_end: int) -> int:
        """All of a long prompt, nothing of a short one."""
        return prompt_end if prompt_end - start > ABSORB_UP_TO else 0

    def load(self, read: TensorReader) -> MlaWeights:
        """A layer's weights, kv_b split per head."""
        c = self._config
        has_lora = read.has("attention", "q_a")
        kv_b = read.array("attention", "kv_b")
        kv_b = kv_b.reshape(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
        return MlaWeights(
            q_a_QD=read.matrix("attention", "q_a") if has_lora else None,
            q_a_norm_Q=read.vector("norm", "q_a") if has_lora else None,
            q=read.matrix("attention", "q"),
            kv_a=read.matrix("attention", "kv_a"),
            kv_a_norm_R=read.vector("norm", "kv_a"),
            w_uk_NKR=np.ascontiguousarray(kv_b[:, : c.qk_nope_head_dim]),
            w_uv_NHR=np.ascontiguousarray(kv_b[:, c.qk_nope_head_dim :]),
            o=read.matrix("attention", "o"),
        )

    def random(self, make: RandomTensors) -> PackedAttention:
        """What MlaWeights.pack gives, at random."""
        has_lora = make.has("attention", "q_a")
        absorb_k, expand_k, expand_v = make.matrices("attention", "kv_b")
        return {
            "q_norm": make.ones("q_a") if has_lora else None,
            "kv_norm": make.ones("kv_a"),
            "q_a": make.matrix("attention", "q_a") if has_lora else None,
            "q": make.matrix("attention", "q"),
            "kv_a": make.matrix("attention", "kv_a"),
            "o": make.matrix("attention", "o"),
            "absorb_k": absorb_k,
            "expand_k": expand_k,
            "expand_v": expand_v,
        }

    def sizes(self) -> Mapping[str, object]:
        """csrc/step/mla.h:MlaSizes."""
        c = self._config
        return {
            "heads": c.num_attention_heads,
            "rank": c.kv_lora_rank,
            "nope": c.qk_nope_head_dim,
            "rope": c.qk_rope_head_dim,
            "value": c.v_head_dim,
            "latent_eps": LATENT_NORM_EPS,
            "softmax_scale": c.softmax_scale,
            "inv_freq": list(c.rope_inv_freq()),
            "rope_factor": c.rope_attention_factor,
        }

    def plain(self) -> MlaAttention:
        """The readable half layer."""
        return MlaAttention(self._config, self)


class MlaAttention:
    """The readable half layer. T tokens of a chunk or of all; S of a sequence up to its chunk's
    end."""

    def __init__(self, config: DeepseekConfig, rule: PrefillRule) -> None:
        self._rule = rule
        self.scale = np.float32(config.softmax_scale)
        self._config = config
        self._inv_freq = np.array(config.rope_inv_freq())

    def run(self, index: int, w: MlaWeights, x_TD: np.ndarray, step: Step) -> np.ndarray:
        """The projections of all tokens at once, attention itself sequence by sequence."""
        cos_TP, sin_TP = self._rotation(step.positions)
        q_TNK, q_pe_TNP = self._queries(w, x_TD, cos_TP, sin_TP)
        kv_TA = ref.linear(x_TD, floats(w.kv_a))
        latent_TR = ref.rmsnorm(kv_TA[:, : self._config.kv_lora_rank], w.kv_a_norm_R, LATENT_NORM_EPS)
        k_pe_TP = ref.rope(kv_TA[:, self._config.kv_lora_rank :], cos_TP, sin_TP)
        attended, first = [], 0
        for chunk in step.chunks:
            t = slice(first, first + len(chunk.ids))
            c_kv_SR, k_pe_SP = self._store(step.cache, index, chunk, latent_TR[t], k_pe_TP[t])
            prefill = chunk.prefill_tokens(self._rule)
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
        return ref.linear(np.concatenate(attended), floats(w.o))

    def _rotation(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of each rotary pair's angle, float32 [T, P / 2]."""
        angles, factor = positions[:, None] * self._inv_freq, self._config.rope_attention_factor
        return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)

    def _queries(
        self, w: MlaWeights, x_TD: np.ndarray, cos_TP: np.ndarray, sin_TP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[T, N, K] and, rotated, [T, N, P]."""
        c = self._config
        if w.q_a_QD is not None and w.q_a_norm_Q is not None:
            x_TD = ref.rmsnorm(ref.linear(x_TD, floats(w.q_a_QD)), w.q_a_norm_Q, LATENT_NORM_EPS)
        q_TNA = ref.linear(x_TD, floats(w.q)).reshape(len(x_TD), c.num_attention_heads, c.qk_head_dim)
        nope = c.qk_nope_head_dim
        return q_TNA[:, :, :nope], ref.rope(q_TNA[:, :, nope:], cos_TP[:, None], sin_TP[:, None])

    def _store(
        self, cache: KvCache, index: int, chunk: Chunk, latent_TR: np.ndarray, k_pe_TP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A chunk's tokens into the cache; c_kv [S, R] and k_pe [S, P] of its sequence up to there,
        as copies."""
        rank, rope = self._config.cached
        padded, _ = self._config.cache_row
        latent, key = slice(0, rank), slice(padded, padded + rope)
        slots_S = cache.slots_of(chunk)
        cache.rows[index, slots_S[chunk.start :], latent] = latent_TR
        cache.rows[index, slots_S[chunk.start :], key] = k_pe_TP
        seen = cache.rows[index, slots_S]
        return seen[:, latent], seen[:, key]

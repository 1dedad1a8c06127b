"""Grouped-query attention (arXiv 2305.13245): what the engine knows of it.

One form for prefill and decode. In the cache: the rotated keys of all heads, then their values,
each head filled up with zeros to whole vectors. Rotation is half-split; the compiled step turns
neighbouring pairs, so rows of q and k (and the weights of their norms) are handed to it in the order
0, A/2, 1, A/2 + 1, ...: what it turns out then is in the order of the file again.

Letters: T tokens, S positions, D hidden_size, N heads of queries, M of keys and values, A head_dim,
P rotary pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from abruzzi.arch.gqa import GroupedQueryConfig
from abruzzi.arch.modes import WeightMode
from abruzzi.engine.attention.kind import PackedAttention, StoredMatrix, floats
from abruzzi.engine.step.state import Chunk, KvCache, Step
from abruzzi.engine.weights.random_tensors import RandomTensors
from abruzzi.engine.weights.reader import TensorReader
from abruzzi.engine.weights.rounding import pack
from abruzzi.kernels import ref
from abruzzi.quant.ggml import GgmlMatrix

_PROJECTIONS = ("q", "k", "v", "o")
_ROTATED = ("q", "k")
Rows = TypeVar("Rows", bound="np.ndarray | GgmlMatrix")


@dataclass(frozen=True, slots=True)
class GqaWeights:
    """A layer's weights. matrices: q [N A, D], k and v [M A, D], o [D, N A]. biases: of those that
    have one. norms: of q and k, [A], where heads are normed. pairs: P."""

    matrices: Mapping[str, StoredMatrix]
    biases: Mapping[str, np.ndarray]
    norms: Mapping[str, np.ndarray]
    width: int
    pairs: int

    def pack(self, weights: WeightMode) -> PackedAttention:
        """Each by its name; biases as q_bias, norms as q_norm."""
        return {
            **{n: pack(self.turned(n, self.matrices[n]), "attention", weights) for n in _PROJECTIONS},
            **{f"{n}_bias": self.turned(n, self.biases[n]) if n in self.biases else None for n in _PROJECTIONS},
            **{f"{n}_norm": self.turned(n, self.norms[n]) if n in self.norms else None for n in _ROTATED},
        }

    def turned(self, name: str, rows: Rows) -> Rows:
        """Rows of every head in the order that the compiled rotation takes."""
        if name not in _ROTATED:
            return rows
        turned = 2 * self.pairs
        order = np.arange(self.width)
        order[:turned] = order[:turned].reshape(2, -1).T.ravel()
        order = (np.arange(0, rows.shape[0], self.width)[:, None] + order).ravel()
        return cast("Rows", rows.in_order(order) if isinstance(rows, GgmlMatrix) else np.ascontiguousarray(rows[order]))


class Gqa:
    """Grouped-query attention of one model (see kind.AttentionKind)."""

    def __init__(self, config: GroupedQueryConfig) -> None:
        self._config = config

    def prefill_until(self, start: int, prompt_end: int) -> int:
        """There is one form."""
        return 0

    def load(self, read: TensorReader) -> GqaWeights:
        """A layer's weights."""
        return GqaWeights(
            matrices={n: read.matrix("attention", n) for n in _PROJECTIONS},
            biases={n: read.vector("bias", n) for n in _PROJECTIONS if read.has("bias", n)},
            norms={n: read.vector("norm", n) for n in _ROTATED if read.has("norm", n)},
            width=self._config.head_width,
            pairs=len(self._config.rope_inv_freq()),
        )

    def random(self, make: RandomTensors) -> PackedAttention:
        """What GqaWeights.pack gives, at random."""
        return {
            **{n: make.matrix("attention", n) for n in _PROJECTIONS},
            **{f"{n}_bias": make.zeros("bias", n) if make.has("bias", n) else None for n in _PROJECTIONS},
            **{f"{n}_norm": make.ones(n) if make.has("norm", n) else None for n in _ROTATED},
        }

    def sizes(self) -> Mapping[str, object]:
        """csrc/step/gqa.h:GqaSizes."""
        c = self._config
        return {
            "heads": c.num_attention_heads,
            "kv_heads": c.kv_heads,
            "width": c.head_width,
            "norm_eps": c.rms_norm_eps,
            "softmax_scale": c.softmax_scale,
            "inv_freq": list(c.rope_inv_freq()),
            "rope_factor": c.rope_attention_factor,
        }

    def plain(self) -> GqaAttention:
        """The readable half layer."""
        return GqaAttention(self._config)


class GqaAttention:
    """The readable half layer. T tokens of a chunk or of all; S of a sequence up to its chunk's
    end."""

    def __init__(self, config: GroupedQueryConfig) -> None:
        self._config = config
        self._inv_freq = np.array(config.rope_inv_freq())

    def run(self, index: int, w: GqaWeights, x_TD: np.ndarray, step: Step) -> np.ndarray:
        """The projections of all tokens at once, attention itself sequence by sequence."""
        angles, factor = step.positions[:, None, None] * self._inv_freq, self._config.rope_attention_factor
        cos_TP, sin_TP = ((turn(angles) * factor).astype(np.float32) for turn in (np.cos, np.sin))
        q_TNA, k_TMA = (ref.rope_half(self._heads(w, name, x_TD), cos_TP, sin_TP) for name in _ROTATED)
        v_TMA = self._heads(w, "v", x_TD)
        attended, first = [], 0
        for chunk in step.chunks:
            t = slice(first, first + len(chunk.ids))
            k_SMA, v_SMA = self._store(step.cache, index, chunk, k_TMA[t], v_TMA[t])
            o_TNA = ref.gqa(q_TNA[t], k_SMA, v_SMA, np.float32(self._config.softmax_scale))
            attended.append(o_TNA.reshape(len(chunk.ids), -1))
            first = t.stop
        return self._projected(w, "o", np.concatenate(attended))

    def _projected(self, w: GqaWeights, name: str, x: np.ndarray) -> np.ndarray:
        y = ref.linear(x, floats(w.matrices[name]))
        return y + w.biases[name] if name in w.biases else y

    def _heads(self, w: GqaWeights, name: str, x_TD: np.ndarray) -> np.ndarray:
        """Queries, keys or values, normed where the family does: [T, heads, A]."""
        heads = self._projected(w, name, x_TD).reshape(len(x_TD), -1, self._config.head_width)
        return ref.rmsnorm(heads, w.norms[name], self._config.rms_norm_eps) if name in w.norms else heads

    def _store(
        self, cache: KvCache, index: int, chunk: Chunk, k_TMA: np.ndarray, v_TMA: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A chunk's tokens into the cache; keys and values [S, M, A] of its sequence up to there, as
        copies."""
        heads, width = k_TMA.shape[1:]
        slots_S = cache.slots_of(chunk)
        rows = cache.rows[index].reshape(cache.slots, 2, heads, -1)
        rows[slots_S[chunk.start :], 0, :, :width] = k_TMA
        rows[slots_S[chunk.start :], 1, :, :width] = v_TMA
        seen = rows[slots_S]
        return seen[:, 0, :, :width], seen[:, 1, :, :width]

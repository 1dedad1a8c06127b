"""One forward pass in plain NumPy: chunks of sequences and a latent cache in, logits out; float32 throughout.

The slow, readable twin of the compiled step (native.py), and of model/k2.py without torch: tests hold all three
against each other, and nothing else runs it. All tokens go through the layers at once; attention over some tokens
decompresses keys and values (naive), over others it stays in the latent space (absorbed): the same numbers up to
rounding. Only the normed latent and the rotated shared key of each token are kept.

Letters: T tokens of a chunk or of all, S tokens of a sequence up to the end of its chunk, D hidden_size,
N heads, R kv_lora_rank, P rope dim, K nope dim, H value dim, E experts, V vocabulary, W wanted rows of logits.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.deepseek import ABSORB_UP_TO, LATENT_NORM_EPS
from abruzzi.engine.weights.load import Attention, Matrix, Mlp, Moe, Weights
from abruzzi.kernels import ref

_HUGE = 32 << 20  # bytes of a cache from which on huge pages are asked for


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence, from position `start` on. ids [T]; blocks: the sequence's block table, at
    least up to its last token; decompress: the first so many tokens attend with keys and values decompressed, None =
    all of them or none, by their number; all_logits: a row of logits for each token, not only for the last."""

    ids: np.ndarray
    start: int
    blocks: np.ndarray
    decompress: int | None = None
    all_logits: bool = False

    @property
    def decompressed(self) -> int:
        """`decompress`, decided."""
        if self.decompress is not None:
            return self.decompress
        return len(self.ids) if len(self.ids) > ABSORB_UP_TO else 0

    @property
    def wanted(self) -> int:
        """Rows of logits."""
        return len(self.ids) if self.all_logits else 1


class LatentCache:
    """What attention keeps of every token: float32 [layers, slots, row], a row being c_kv and k_pe, each filled up
    with zeros to whole vectors. Block b of a table is the slots b * block_tokens and up.

    Memory is claimed by the operating system only as slots are written."""

    def __init__(self, config: ModelConfig, slots: int, block_tokens: int = 1) -> None:
        self.slots = slots
        self.block_tokens = block_tokens
        self.rank, self.rope = config.kv_lora_rank, config.qk_rope_head_dim
        self.rank_padded = _padded(self.rank, 32)
        self.latents = _untouched_zeros((config.num_hidden_layers, slots, self.row(config)))

    @staticmethod
    def row(config: ModelConfig) -> int:
        """Numbers per token and layer."""
        return _padded(config.kv_lora_rank, 32) + _padded(config.qk_rope_head_dim, 16)

    @staticmethod
    def bytes_per_slot(config: ModelConfig) -> int:
        """What one token takes in all layers."""
        return config.num_hidden_layers * LatentCache.row(config) * 4

    def write(
        self, layer: int, chunk: Chunk, c_kv_TR: np.ndarray, k_pe_TP: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Store a chunk's tokens; returns c_kv [S, R] and k_pe [S, P] of its sequence up to there, as copies."""
        end = chunk.start + len(chunk.ids)
        slots_S = (chunk.blocks[:, None].astype(np.int64) * self.block_tokens + np.arange(self.block_tokens)).ravel()
        slots_S = slots_S[:end]
        new = slots_S[chunk.start :]
        self.latents[layer, new, : self.rank] = c_kv_TR
        self.latents[layer, new, self.rank_padded : self.rank_padded + self.rope] = k_pe_TP
        seen = self.latents[layer, slots_S]
        return seen[:, : self.rank], seen[:, self.rank_padded : self.rank_padded + self.rope]


class StepRunner(Protocol):
    """What the engine needs: the compiled NativeRunner, or Runner."""

    config: ModelConfig

    def forward(self, chunks: Sequence[Chunk], cache: LatentCache) -> list[np.ndarray]: ...


class Runner:
    """Weights and config, and the arithmetic between them. Holds no state of a sequence."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self._inv_freq = np.array(config.rope_inv_freq())
        self._scale = np.float32(config.softmax_scale)

    def forward(self, chunks: Sequence[Chunk], cache: LatentCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it wants all.

        Raises ValueError for a chunk without ids and for an id outside the vocabulary."""
        self._check(chunks)
        ids = np.concatenate([c.ids for c in chunks])
        eps = self.config.rms_norm_eps
        x_TD = self.weights.embed_VD[ids]
        for index, layer in enumerate(self.weights.layers):
            normed = ref.rmsnorm(x_TD, layer.input_norm_D, eps)
            x_TD = x_TD + self._attend(index, layer.attention, normed, chunks, cache)
            normed = ref.rmsnorm(x_TD, layer.post_norm_D, eps)
            mlp = layer.mlp
            x_TD = x_TD + (self._moe(mlp, normed) if isinstance(mlp, Moe) else _swiglu(mlp, normed))
        ends = np.cumsum([len(c.ids) for c in chunks])
        wanted = [np.arange(end - c.wanted, end) for c, end in zip(chunks, ends)]
        x_WD = ref.rmsnorm(x_TD[np.concatenate(wanted)], self.weights.norm_D, eps)
        logits_WV = ref.linear(x_WD, self.weights.head_VD)
        return np.split(logits_WV, np.cumsum([len(w) for w in wanted])[:-1])

    def _check(self, chunks: Sequence[Chunk]) -> None:
        if not chunks or any(c.ids.size == 0 for c in chunks):
            raise ValueError("no tokens to run; expected at least one id")
        for c in chunks:
            for worst in (int(c.ids.min()), int(c.ids.max())):
                if not 0 <= worst < self.config.vocab_size:
                    raise ValueError(f"token id {worst} is outside the vocabulary of {self.config.vocab_size}")

    def _attend(
        self, index: int, w: Attention, x_TD: np.ndarray, chunks: Sequence[Chunk], cache: LatentCache
    ) -> np.ndarray:
        """The projections of all tokens at once, attention itself sequence by sequence."""
        c = self.config
        positions = np.concatenate([np.arange(k.start, k.start + len(k.ids)) for k in chunks])
        angles = positions[:, None] * self._inv_freq
        cos = (np.cos(angles) * c.rope_attention_factor).astype(np.float32)
        sin = (np.sin(angles) * c.rope_attention_factor).astype(np.float32)
        q_in = x_TD
        if w.q_a_QD is not None and w.q_a_norm_Q is not None:
            q_in = ref.rmsnorm(ref.linear(x_TD, w.q_a_QD), w.q_a_norm_Q, LATENT_NORM_EPS)
        q_TNA = ref.linear(q_in, w.q).reshape(len(x_TD), c.num_attention_heads, c.qk_head_dim)
        q_TNK = q_TNA[:, :, : c.qk_nope_head_dim]
        q_pe_TNP = ref.rope(q_TNA[:, :, c.qk_nope_head_dim :], cos[:, None], sin[:, None])
        kv_TA = ref.linear(x_TD, w.kv_a)
        latent_TR = ref.rmsnorm(kv_TA[:, : c.kv_lora_rank], w.kv_a_norm_R, LATENT_NORM_EPS)
        k_pe_TP = ref.rope(kv_TA[:, c.kv_lora_rank :], cos, sin)
        attended, at = [], 0
        for chunk in chunks:
            t = slice(at, at + len(chunk.ids))
            c_kv_SR, k_pe_SP = cache.write(index, chunk, latent_TR[t], k_pe_TP[t])
            for attention, part in (
                (ref.mla_naive, slice(at, at + chunk.decompressed)),
                (ref.mla_absorbed, slice(at + chunk.decompressed, t.stop)),
            ):
                if part.start < part.stop:
                    seen = chunk.start + part.stop - at
                    o_TNH = attention(
                        *(q_TNK[part], q_pe_TNP[part], c_kv_SR[:seen], k_pe_SP[:seen]),
                        *(w.w_uk_NKR, w.w_uv_NHR, self._scale),
                    )
                    attended.append(o_TNH.reshape(len(o_TNH), -1))
            at = t.stop
        return ref.linear(np.concatenate(attended), w.o)

    def _moe(self, w: Moe, x_TD: np.ndarray) -> np.ndarray:
        c = self.config
        chosen_TK, weight_TK = ref.route(
            ref.linear(x_TD, w.gate_ED),
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
    return _apply(w.down, ref.silu_mul(_apply(w.gate, x_TD), _apply(w.up, x_TD)))


def _apply(w: Matrix, x_TI: np.ndarray) -> np.ndarray:
    """x @ W^T -> float32 [T, out]."""
    return ref.linear(x_TI, w.as_float())


def _untouched_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros that take memory as they are written to, in huge pages where the system has them: attention reads
    megabytes a step."""
    size = 4 * math.prod(shape)
    if size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, np.float32)
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to

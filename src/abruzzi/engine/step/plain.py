"""One forward pass in plain NumPy: chunks of sequences and a KV cache in, logits out; float32
throughout.

The slow, readable twin of the compiled step (native.py), and of model/k2.py without torch: tests
hold all three against each other, and nothing else runs it. All tokens go through the layers at
once, each layer being

    x += attention(norm(x)); x += mlp(norm(x))

with a class for each kind of half layer: attention as the model's kind has it (engine/attention/),
`Dense` and `Experts` with their `Router` (DeepSeek-V3, equations 12 to 16).

Letters: T tokens of all chunks, D hidden_size, K experts of a token, E experts, V vocabulary, W
rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.engine.attention import attention_of
from abruzzi.engine.step.state import Chunk, KvCache, Step
from abruzzi.engine.weights import load
from abruzzi.kernels import ref


class Dense:
    """One SwiGLU for every token."""

    def run(self, w: load.Mlp, x_TD: np.ndarray) -> np.ndarray:
        """down (silu(gate x) * (up x)): float32 [T, D]."""
        return _apply(w.down, ref.silu_mul(_apply(w.gate, x_TD), _apply(w.up, x_TD)))


class Router:
    """Which experts a token goes to, and with what weights."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config

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
            score=c.ROUTER_SCORE,
        )


class Experts:
    """Shared experts for every token, where there are some; routed ones for those that the router
    sends."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._dense = Dense()

    def run(self, w: load.Moe, x_TD: np.ndarray) -> np.ndarray:
        """float32 [T, D]."""
        chosen_TK, weight_TK = self.router.run(w, x_TD)
        out_TD = np.zeros_like(x_TD) if w.shared is None else self._dense.run(w.shared, x_TD)
        for e in np.unique(chosen_TK):
            rows, slots = np.nonzero(chosen_TK == e)
            out_TD[rows] += weight_TK[rows, slots, None] * self._dense.run(w.experts[e], x_TD[rows])
        return out_TD


class PlainRunner:
    """Weights and config, and the arithmetic between them. Holds no state of a sequence."""

    def __init__(self, config: ModelConfig, weights: load.Weights) -> None:
        self.config = config
        self.weights = weights
        self.attention = attention_of(config).plain()
        self.dense = Dense()
        self.experts = Experts(Router(config))

    def forward(self, chunks: Sequence[Chunk], cache: KvCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it asks for
        all.

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

"""The compiled forward step (csrc/step/model.cpp): one call per step, without the interpreter's
lock.

Weights are handed over once, layer by layer, in one of three weight modes (packing.py). Precision
`exact`: activations and sums in float32, whatever the weights are stored in. Precision `fast`: what
goes into a matrix of 4 or 8 bits is rounded to 8 bits, one scale a token (W4A8, W8A8), which costs
a little precision (tests/oracles/test_fast_mode.py measures it). In both a token gets the same bits
whatever runs beside it, in however many threads. The readable twin of the exact mode is plain.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import Checkpoint
from abruzzi.engine.attention import attention_of
from abruzzi.engine.step.state import Chunk, KvCache
from abruzzi.engine.weights import kept
from abruzzi.engine.weights.load import Weights, load_embedding, load_layer, load_norm, stored_head
from abruzzi.engine.weights.memory import give_back_freed
from abruzzi.engine.weights.packing import PackedLayer, Precision, WeightMode, check_modes, pack_layer
from abruzzi.engine.weights.rounding import pack
from abruzzi.kernels import _ext, ops, selftest
from abruzzi.kernels import isa as default_isa
from abruzzi.kernels import threads as default_threads
from abruzzi.kernels.dispatch import level


class NativeRunner:
    """Weights in the kernels' layout, and the step over them. Holds no state of a sequence.

    tensors: None = they are handed over with set_ends and add_layer. isa, threads: None = what this
    machine has (dispatch.py). Raises BrokenKernelError, which names the kernel, when the self-test
    of the kernels fails, and ValueError for precision="fast" where no matrix has 4 or 8 bits."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Weights | None = None,
        isa: str | None = None,
        threads: int | None = None,
        precision: Precision = "exact",
        weights: WeightMode = "native",
    ) -> None:
        check_modes(weights, precision)
        self.config = config
        self.precision, self.weights = precision, weights
        self._attention = attention_of(config)
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads={threads!r}; expected 1 or more")
        selftest.check(isa or default_isa())
        self._model = _ext.Model(level(isa), self.threads, {**_shape(config), "fast": precision == "fast"})
        if tensors is not None:
            self.set_ends(tensors.embed_VD, tensors.norm_D, pack(tensors.head_VD, "head", weights))
            for layer in tensors.layers:
                self.add_layer(pack_layer(layer, weights))

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        isa: str | None = None,
        threads: int | None = None,
        precision: Precision = "exact",
        weights: WeightMode = "native",
    ) -> NativeRunner:
        """From a checkpoint, holding one layer twice at most. Raises what the checkpoint's reader
        raises, and ValueError for the fast precision where nothing would be fast."""
        if precision == "fast" and weights == "native" and not _has_codes(checkpoint):
            raise ValueError(
                'precision="fast" needs experts in INT4, and this checkpoint is unquantized; hint: `abruzzi quantize`, '
                "or weights int8-dense or all-4-bit"
            )
        runner = cls(checkpoint.config, None, isa, threads, precision, weights)
        parts = kept.load_or_pack(checkpoint.folder, checkpoint.files, weights, lambda: _parts(checkpoint, weights))
        runner.set_ends(**next(parts))
        for part in parts:
            runner.add_layer(PackedLayer.from_flat(part))
        give_back_freed()
        return runner

    def set_ends(self, embed_VD: np.ndarray, norm_D: np.ndarray, head: ops.Packed) -> None:
        """The embedding, float32 or bfloat16 [V, D], the final norm and the head [V, D]."""
        if embed_VD.dtype.name == "bfloat16":
            self._model.set_embedding_bf16(embed_VD.view(np.uint16))
        else:
            self._model.set_embedding_f32(embed_VD)
        self._model.set_head(norm_D, head)

    def add_layer(self, layer: PackedLayer) -> None:
        """The next layer, from the first on."""
        self._model.add_layer(
            input_norm=layer.input_norm, post_norm=layer.post_norm, attention=layer.attention, mlp=_mlp(layer)
        )

    @property
    def weight_bytes(self) -> int:
        """Memory of the packed weights, padding included."""
        return self._model.weight_bytes

    def forward(self, chunks: Sequence[Chunk], cache: KvCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it asks for
        all.

        Raises ValueError for a chunk without ids, an id outside the vocabulary, and a block outside
        the cache."""
        if not chunks or any(c.ids.size == 0 for c in chunks):
            raise ValueError("no tokens to run; expected at least one id")
        plan = np.empty((len(chunks), 7), np.int64)
        first = table = 0
        for row, c in zip(plan, chunks):
            row[:] = (first, len(c.ids), c.start, table, len(c.blocks), c.prefill_tokens(self._attention), c.logit_rows)
            first += len(c.ids)
            table += len(c.blocks)
        ids = np.concatenate([c.ids for c in chunks], dtype=np.int64)
        tables = np.concatenate([c.blocks for c in chunks], dtype=np.int32)
        ends = np.cumsum(plan[:, 6])
        logits_WV = np.empty((int(ends[-1]), self.config.vocab_size), np.float32)
        self._model.forward(ids, plan, tables, cache.block_tokens, cache.rows, logits_WV)
        return np.split(logits_WV, ends[:-1])


def _parts(checkpoint: Checkpoint, weights: WeightMode) -> Iterator[dict[str, Any]]:
    """The arguments of set_ends, then those of PackedLayer.from_flat, layer by layer."""
    yield {
        "embed_VD": load_embedding(checkpoint, widen=False),
        "norm_D": load_norm(checkpoint),
        "head": pack(stored_head(checkpoint), "head", weights),
    }
    for index in range(checkpoint.config.num_hidden_layers):
        yield pack_layer(load_layer(checkpoint, index, widen=False), weights).flat()
        checkpoint.let_go()


def _has_codes(checkpoint: Checkpoint) -> bool:
    """Whether some matrix is stored in 4 or 8 bits."""
    return any(checkpoint.stored_dtype(name) in ("int4", *ops.GGML_KINDS) for name in checkpoint.names())


def _mlp(w: PackedLayer) -> _ext.DenseWeights | _ext.MoeWeights:
    """shared: the dense MLP where there is no router; no matrices: no shared experts."""
    if w.router is None or w.bias is None:
        return _ext.DenseWeights(*w.shared)
    shared = _ext.DenseWeights(*w.shared) if w.shared else None
    return _ext.MoeWeights(
        router=w.router, bias=w.bias, shared=shared, experts=[_ext.DenseWeights(*e) for e in w.experts]
    )


def _shape(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab": c.vocab_size,
        "hidden": c.hidden_size,
        "layers": c.num_hidden_layers,
        "eps": c.rms_norm_eps,
        "attention": {"kind": c.ATTENTION, **attention_of(c).sizes()},
        "experts": c.n_routed_experts,
        "top_k": c.num_experts_per_tok,
        "groups": c.n_group,
        "kept_groups": c.topk_group,
        "renormalize": c.norm_topk_prob,
        "routed_scale": c.routed_scaling_factor,
        "score": ops.SCORES.index(c.ROUTER_SCORE),
    }

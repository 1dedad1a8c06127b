"""The compiled forward step (csrc/model.cpp): one call per step, without the interpreter's lock.

Weights are handed over once, layer by layer, and repacked for the kernels; bfloat16 stays bfloat16 and INT4 stays
INT4, widened as they are used: the numbers are the checkpoint's own (weight mode `native`). Activations and sums
are float32 (exact mode); in the fast mode what goes into an INT4 expert is rounded to 8 bits, one scale a token
(W4A8), which costs a little precision (tests/oracles/test_fast_mode.py measures it). In both a token gets the same
bits whatever runs beside it, in however many threads. The readable twin of the exact mode is runner.py.
Not here: int8-dense and all-4-bit weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abruzzi.checkpoint import Checkpoint
from abruzzi.config import ModelConfig
from abruzzi.engine.runner import LATENT_NORM_EPS, Chunk, LatentCache
from abruzzi.engine.weights import (
    Layer,
    Matrix,
    Mlp,
    Moe,
    Weights,
    load_embedding,
    load_head,
    load_layer,
    load_norm,
)
from abruzzi.kernels import _ext, ops, selftest
from abruzzi.kernels import isa as default_isa
from abruzzi.kernels import threads as default_threads
from abruzzi.kernels.dispatch import level


class NativeRunner:
    """Weights in the kernels' layout, and the step over them. Holds no state of a sequence.

    isa, threads: None = what this machine has (dispatch.py). Raises BrokenKernelError, which names the kernel, when
    the self-test of the kernels fails. fast: INT4 experts take 8-bit inputs; without such experts it is refused."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights | None = None,
        isa: str | None = None,
        threads: int | None = None,
        fast: bool = False,
    ) -> None:
        if fast and config.int4 is None:
            raise ValueError(
                "fast=True needs experts in INT4, and this checkpoint is unquantized; hint: `abruzzi quantize`"
            )
        self.config = config
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads={threads!r}; expected 1 or more")
        selftest.check(isa or default_isa())
        self._model = _ext.Model(level(isa), self.threads, {**_shape(config), "fast_experts": fast})
        if weights is not None:
            self._set_ends(weights.embed_VD, weights.norm_D, weights.head_VD)
            for layer in weights.layers:
                self._add_layer(layer)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, isa: str | None = None, threads: int | None = None, fast: bool = False
    ) -> NativeRunner:
        """From a checkpoint, holding one layer twice at most. Raises what the checkpoint's reader raises."""
        runner = cls(checkpoint.config, None, isa, threads, fast)
        runner._set_ends(
            load_embedding(checkpoint, widen=False), load_norm(checkpoint), load_head(checkpoint, widen=False)
        )
        for index in range(checkpoint.config.num_hidden_layers):
            runner._add_layer(load_layer(checkpoint, index, widen=False))
        return runner

    @property
    def weight_bytes(self) -> int:
        """Memory of the packed weights, padding included."""
        return self._model.weight_bytes

    def forward(self, chunks: Sequence[Chunk], cache: LatentCache) -> list[np.ndarray]:
        """Run the chunks as one batch. Logits float32 [1, V] per chunk, or [T, V] where it wants all.

        Raises ValueError for a chunk without ids, an id outside the vocabulary, and a block outside the cache."""
        if not chunks or any(c.ids.size == 0 for c in chunks):
            raise ValueError("no tokens to run; expected at least one id")
        plan = np.empty((len(chunks), 7), np.int64)
        first = table = 0
        for row, c in zip(plan, chunks):
            row[:] = (first, len(c.ids), c.start, table, len(c.blocks), c.decompressed, c.wanted)
            first += len(c.ids)
            table += len(c.blocks)
        ids = np.concatenate([c.ids for c in chunks], dtype=np.int64)
        tables = np.concatenate([c.blocks for c in chunks], dtype=np.int32)
        ends = np.cumsum(plan[:, 6])
        logits_WV = np.empty((int(ends[-1]), self.config.vocab_size), np.float32)
        self._model.forward(ids, plan, tables, cache.block_tokens, cache.latents, logits_WV)
        return np.split(logits_WV, ends[:-1])

    def _set_ends(self, embed_VD: np.ndarray, norm_D: np.ndarray, head_VD: np.ndarray) -> None:
        if embed_VD.dtype.name == "bfloat16":
            self._model.set_embedding_bf16(embed_VD.view(np.uint16))
        else:
            self._model.set_embedding_f32(embed_VD)
        self._model.set_head(norm_D, ops.pack(head_VD))

    def _add_layer(self, layer: Layer) -> None:
        a, mlp = layer.attention, layer.mlp
        heads = range(self.config.num_attention_heads)
        moe = mlp if isinstance(mlp, Moe) else None
        self._model.add_layer(
            input_norm=layer.input_norm_D,
            post_norm=layer.post_norm_D,
            q_norm=a.q_a_norm_Q,
            kv_norm=a.kv_a_norm_R,
            q_a=None if a.q_a_QD is None else ops.pack(a.q_a_QD),
            q_b=ops.pack(a.q_b),
            kv_a=ops.pack(a.kv_a),
            o=ops.pack(a.o),
            absorb_k=[ops.pack(np.ascontiguousarray(a.w_uk_NKR[n].T)) for n in heads],
            expand_k=[ops.pack(a.w_uk_NKR[n]) for n in heads],
            expand_v=[ops.pack(a.w_uv_NHR[n]) for n in heads],
            shared=_packed_mlp(mlp.shared if isinstance(mlp, Moe) else mlp),
            router=ops.pack(moe.gate_ED) if moe else None,
            bias=moe.bias_E if moe else None,
            experts=[_packed_mlp(e) for e in moe.experts] if moe else [],
        )


def _packed_mlp(mlp: Mlp) -> list[ops.Packed]:
    return [_packed(m) for m in (mlp.gate, mlp.up, mlp.down)]


def _packed(m: Matrix) -> ops.Packed:
    if m.int4 is not None:
        return ops.pack_int4(m.int4.packed, m.int4.scale)
    assert m.dense is not None
    return ops.pack(m.dense)


def _shape(c: ModelConfig) -> dict[str, object]:
    return {
        "vocab": c.vocab_size,
        "hidden": c.hidden_size,
        "layers": c.num_hidden_layers,
        "heads": c.num_attention_heads,
        "rank": c.kv_lora_rank,
        "nope": c.qk_nope_head_dim,
        "rope": c.qk_rope_head_dim,
        "value": c.v_head_dim,
        "experts": c.n_routed_experts,
        "top_k": c.num_experts_per_tok,
        "groups": c.n_group,
        "kept_groups": c.topk_group,
        "renormalize": c.norm_topk_prob,
        "routed_scale": c.routed_scaling_factor,
        "eps": c.rms_norm_eps,
        "latent_eps": LATENT_NORM_EPS,
        "softmax_scale": c.softmax_scale,
        "inv_freq": list(c.rope_inv_freq()),
        "rope_factor": c.rope_attention_factor,
    }

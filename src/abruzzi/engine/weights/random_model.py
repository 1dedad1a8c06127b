"""Models of a named shape with random weights, made in memory: what speed is measured on without a 9 GB file.

Shapes: Moonlight-16B-A3B's, and `mini`, a small one of the same family (facts: Moonlight's config.json).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from abruzzi.config import ModelConfig
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.weights.packing import PackedLayer, PackedMlp, Precision, WeightMode, dense_kind
from abruzzi.kernels import ops

_SHAPES: dict[str, dict[str, Any]] = {
    "mini": {
        "vocab_size": 32000,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "n_shared_experts": 1,
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "kv_lora_rank": 256,
    },
    "moonlight": {
        "vocab_size": 163840,
        "hidden_size": 2048,
        "intermediate_size": 11264,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "n_shared_experts": 2,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "kv_lora_rank": 512,
    },
}


def named_shape(name: str) -> ModelConfig:
    """The configuration of `mini` or `moonlight`. Raises ValueError for another name."""
    if name not in _SHAPES:
        raise ValueError(f"shape {name!r}; expected one of {', '.join(_SHAPES)}")
    return ModelConfig(
        **_SHAPES[name],
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        q_lora_rank=None,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        routed_scaling_factor=2.446,
        rms_norm_eps=1e-5,
        rope_theta=50000.0,
        max_position_embeddings=8192,
    )


@dataclass(frozen=True, slots=True)
class RandomModel:
    """runner: ready to step. Memory of its packed weights: runner.weight_bytes."""

    config: ModelConfig
    runner: NativeRunner


def random_model(
    config: ModelConfig,
    weights: WeightMode = "native",
    precision: Precision = "fast",
    threads: int | None = None,
    seed: int = 0,
    experts: str = "int4",
) -> RandomModel:
    """Every matrix random, of about the size 1 / sqrt(columns). experts: how they are held, one of ops.KINDS.

    Takes as much memory as the weights, and some seconds for gigabytes. Raises ValueError for unknown modes."""
    runner = NativeRunner(config, precision=precision, threads=threads, weights=weights)
    make = _Maker(weights, experts, itertools.count(seed << 32))
    rng = np.random.default_rng(seed)
    embed_VD = rng.standard_normal((1024, config.hidden_size), np.float32).astype(ml_dtypes.bfloat16)
    rows = -(-config.vocab_size // len(embed_VD))
    runner.set_ends(
        np.tile(embed_VD, (rows, 1))[: config.vocab_size],
        np.ones(config.hidden_size, np.float32),
        make.dense(config.vocab_size, config.hidden_size),
    )
    for index in range(config.num_hidden_layers):
        runner.add_layer(make.layer(config, config.is_moe_layer(index)))
    return RandomModel(config, runner)


@dataclass
class _Maker:
    weights: WeightMode
    experts: str
    seeds: itertools.count[int]
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        self.kind = dense_kind(self.weights)

    def dense(self, rows: int, columns: int, kind: str | None = None) -> ops.Packed:
        return ops.pack_random(kind or self.kind, rows, columns, next(self.seeds))

    def mlp(self, hidden: int, inner: int, kind: str | None = None) -> PackedMlp:
        return [self.dense(inner, hidden, kind), self.dense(inner, hidden, kind), self.dense(hidden, inner, kind)]

    def layer(self, c: ModelConfig, sparse: bool) -> PackedLayer:
        heads, rank = range(c.num_attention_heads), c.kv_lora_rank
        nope, value, lora = c.qk_nope_head_dim, c.v_head_dim, c.q_lora_rank
        query = c.num_attention_heads * (nope + c.qk_rope_head_dim)
        shared = c.moe_intermediate_size * c.n_shared_experts if sparse else c.intermediate_size
        experts = range(c.n_routed_experts if sparse else 0)
        return PackedLayer(
            input_norm=np.ones(c.hidden_size, np.float32),
            post_norm=np.ones(c.hidden_size, np.float32),
            q_norm=None if lora is None else np.ones(lora, np.float32),
            kv_norm=np.ones(rank, np.float32),
            q_a=None if lora is None else self.dense(lora, c.hidden_size),
            q_b=self.dense(query, c.hidden_size if lora is None else lora),
            kv_a=self.dense(rank + c.qk_rope_head_dim, c.hidden_size),
            o=self.dense(c.hidden_size, c.num_attention_heads * value),
            absorb_k=[self.dense(rank, nope) for _ in heads],
            expand_k=[self.dense(nope, rank) for _ in heads],
            expand_v=[self.dense(value, rank) for _ in heads],
            shared=self.mlp(c.hidden_size, shared),
            router=self.dense(c.n_routed_experts, c.hidden_size, "bfloat16") if sparse else None,
            bias=np.zeros(c.n_routed_experts, np.float32) if sparse else None,
            experts=[self.mlp(c.hidden_size, c.moe_intermediate_size, self.experts) for _ in experts],
        )

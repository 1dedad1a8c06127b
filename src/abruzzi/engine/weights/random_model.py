"""Models of a named shape with random weights, made in memory: what speed is measured on without a
9 GB file.

Shapes: Moonlight-16B-A3B's, and `mini`, a small one of the same family (facts: Moonlight's
config.json).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.modes import held_format
from abruzzi.arch.tensors import Role
from abruzzi.engine.attention import attention_of
from abruzzi.engine.attention.kind import AttentionKind
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.weights.packing import PackedLayer, PackedMlp, Precision, WeightMode
from abruzzi.engine.weights.random_tensors import RandomTensors
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
    """Every matrix random, of about the size 1 / sqrt(columns). experts: how they are held, one of
    ops.KINDS.

    Takes as much memory as the weights, and some seconds for gigabytes. Raises ValueError for
    unknown modes."""
    runner = NativeRunner(config, precision=precision, threads=threads, weights=weights)
    make = RandomTensors(config.inventory, weights, experts, itertools.count(seed << 32))
    attention = attention_of(config)
    rng = np.random.default_rng(seed)
    embed_VD = rng.standard_normal((1024, config.hidden_size), np.float32).astype(ml_dtypes.bfloat16)
    rows = -(-config.vocab_size // len(embed_VD))
    runner.set_ends(
        np.tile(embed_VD, (rows, 1))[: config.vocab_size],
        make.ones("final"),
        make.matrix("head", "head")
        if make.has("head", "head")
        else ops.pack_random(held_format("head", "bfloat16", weights), config.vocab_size, config.hidden_size, seed),
    )
    for index in range(config.num_hidden_layers):
        runner.add_layer(_layer(replace(make, layer=index), attention))
    return RandomModel(config, runner)


def _layer(make: RandomTensors, attention: AttentionKind) -> PackedLayer:
    sparse = make.has("router", "router")
    shared = "shared_experts" if sparse else "dense_mlp"
    experts = make.tensors.get("routed_experts", "gate", make.layer).experts if sparse else 0
    return PackedLayer(
        input_norm=make.ones("input"),
        post_norm=make.ones("post"),
        attention=attention.random(make),
        shared=_mlp(make, shared) if make.has(shared, "gate") else [],
        router=make.matrix("router", "router") if sparse else None,
        bias=np.zeros(experts, np.float32) if sparse else None,
        experts=[_mlp(make, "routed_experts") for _ in range(experts)],
    )


def _mlp(make: RandomTensors, role: Role) -> PackedMlp:
    return [make.matrix(role, part) for part in ("gate", "up", "down")]

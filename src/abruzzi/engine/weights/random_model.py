"""Models of a named shape with random weights, made in memory: what speed is measured on without a 9 GB file.

Shapes: Moonlight-16B-A3B's, and `mini`, a small one of the same family (facts: Moonlight's config.json).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.modes import held_format
from abruzzi.arch.tensors import Inventory, Role
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.weights.packing import PackedLayer, PackedMlp, Precision, WeightMode
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
    make = _Maker(config.inventory, weights, experts, itertools.count(seed << 32))
    rng = np.random.default_rng(seed)
    embed_VD = rng.standard_normal((1024, config.hidden_size), np.float32).astype(ml_dtypes.bfloat16)
    rows = -(-config.vocab_size // len(embed_VD))
    runner.set_ends(
        np.tile(embed_VD, (rows, 1))[: config.vocab_size],
        make.ones("final"),
        make.matrix("head", "head"),
    )
    for index in range(config.num_hidden_layers):
        runner.add_layer(make.layer(index))
    return RandomModel(config, runner)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Random matrices in the shapes of the inventory and the formats of a weight mode."""

    tensors: Inventory
    weights: WeightMode
    experts: str
    seeds: itertools.count[int]

    def matrices(self, role: Role, part: str, layer: int | None = None) -> list[list[ops.Packed]]:
        """What the engine makes of one tensor, piece by piece."""
        # Experts are held as the caller says: it knows what the checkpoint stores.
        kind = self.experts if role == "routed_experts" else held_format(role, "bfloat16", self.weights)
        pieces = self.tensors.get(role, part, layer).pieces
        return [[ops.pack_random(kind, p.rows, p.columns, next(self.seeds)) for _ in range(p.count)] for p in pieces]

    def matrix(self, role: Role, part: str, layer: int | None = None) -> ops.Packed:
        return self.matrices(role, part, layer)[0][0]

    def mlp(self, role: Role, layer: int) -> PackedMlp:
        return [self.matrix(role, part, layer) for part in ("gate", "up", "down")]

    def ones(self, part: str, layer: int | None = None) -> np.ndarray:
        """A norm's weight."""
        return np.ones(self.tensors.get("norm", part, layer).shape, np.float32)

    def layer(self, index: int) -> PackedLayer:
        has_lora = self.tensors.find("attention", "q_a", index) is not None
        router = self.tensors.find("router", "router", index)
        absorb_k, expand_k, expand_v = self.matrices("attention", "kv_b", index)
        experts = 0 if router is None else self.tensors.get("routed_experts", "gate", index).experts
        return PackedLayer(
            input_norm=self.ones("input", index),
            post_norm=self.ones("post", index),
            q_norm=self.ones("q_a", index) if has_lora else None,
            kv_norm=self.ones("kv_a", index),
            q_a=self.matrix("attention", "q_a", index) if has_lora else None,
            q=self.matrix("attention", "q", index),
            kv_a=self.matrix("attention", "kv_a", index),
            o=self.matrix("attention", "o", index),
            absorb_k=absorb_k,
            expand_k=expand_k,
            expand_v=expand_v,
            shared=self.mlp("dense_mlp" if router is None else "shared_experts", index),
            router=None if router is None else self.matrix("router", "router", index),
            bias=None if router is None else np.zeros(experts, np.float32),
            experts=[self.mlp("routed_experts", index) for _ in range(experts)],
        )

"""Models of a named shape with random weights, made in memory: what speed is measured on without a
9 GB file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import cast

import ml_dtypes
import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.modes import held_format
from abruzzi.arch.shapes import config_of_shape
from abruzzi.arch.tensors import Role
from abruzzi.engine.attention import attention_of
from abruzzi.engine.attention.kind import AttentionKind
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.weights.packing import PackedLayer, PackedMlp, Precision, WeightMode
from abruzzi.engine.weights.random_tensors import RandomTensors
from abruzzi.kernels import ops


def named_shape(name: str) -> ModelConfig:
    """The configuration of one of arch/shapes.py:SHAPES. Raises ValueError for another name."""
    return cast("ModelConfig", config_of_shape(name))


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

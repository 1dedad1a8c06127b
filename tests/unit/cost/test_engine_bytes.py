"""What cost says the weights take, against what the compiled step says that it holds."""

from __future__ import annotations

from typing import get_args

import pytest

from abruzzi import nano_path
from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.arch.int4 import GROUP
from abruzzi.arch.modes import FORMATS, WeightMode, held_format
from abruzzi.checkpoint import open_checkpoint
from abruzzi.cost.bytes import FLOAT32, held_bytes, weights_bytes
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.weights.random_model import named_shape, random_model
from abruzzi.kernels import ops


def vectors_bytes(config: ModelConfig) -> int:
    """Norms and router biases, which the compiled step does not count among its weights."""
    return sum(FLOAT32 * t.size * t.count for t in config.tensors() if len(t.shape) == 1)


@pytest.mark.parametrize("mode", get_args(WeightMode))
def test_mini_takes_in_memory_what_cost_says(mode: WeightMode) -> None:
    config = named_shape("mini").with_int4(Int4Scheme())
    runner = random_model(config, mode, "exact", threads=2).runner
    assert weights_bytes(config, mode) - vectors_bytes(config) == runner.weight_bytes


@pytest.mark.parametrize("mode", get_args(WeightMode))
def test_nano_takes_in_memory_what_cost_says(mode: WeightMode) -> None:
    with open_checkpoint(nano_path()) as checkpoint:
        config = checkpoint.config
        held = NativeRunner.load(checkpoint, threads=1, weights=mode).weight_bytes
        stored = [(checkpoint.tensor(n), checkpoint.stored_dtype(n)) for n in checkpoint.names()]
    assert sum(held_bytes(t, dtype, mode) for t, dtype in stored) - vectors_bytes(config) == held
    assert weights_bytes(config, mode) - vectors_bytes(config) == held


def test_the_formats_are_those_of_the_kernels() -> None:
    assert set(FORMATS) == set(ops.KINDS) and ops.GROUP == GROUP
    for kind, form in FORMATS.items():
        whole = ((16, 256), (1, 512), (100, 768))  # of the K kinds
        for rows, columns in whole if kind.endswith("_k") else ((16, 32), (1, 1), (17, 33), (100, 640)):
            assert ops.pack_random(kind, rows, columns, 0).nbytes == form.matrix_bytes(rows, columns), kind


def test_a_mode_rounds_what_its_table_says() -> None:
    assert held_format("attention", "float16", "native") == "float32"
    assert held_format("attention", "int4", "native") == "float32"  # the engine keeps INT4 of experts only
    assert held_format("router", "bfloat16", "all-4-bit") == "bfloat16"
    assert [held_format("routed_experts", "bfloat16", m) for m in get_args(WeightMode)] == ["bfloat16"] * 2 + ["int4"]
    assert {held_format("routed_experts", "int4", m) for m in get_args(WeightMode)} == {"int4"}
    assert [held_format("head", "bfloat16", m) for m in get_args(WeightMode)] == ["bfloat16", "int8", "int4"]
    with pytest.raises(ValueError, match="'int3' is no mode; expected one of native, int8-dense, all-4-bit"):
        held_format("head", "bfloat16", "int3")

"""Tensor layout of a checkpoint: names, shapes, which are stored in INT4, and in which dtype.

A *logical* tensor is what the model computes with (`...up_proj.weight`). A *stored* tensor is what
lies in the file: the same, or for an INT4 matrix the three parts weight_packed, weight_scale,
weight_shape. Names and shapes come from the family's inventory (arch/tensors.py), which says them
once.
"""

from __future__ import annotations

from dataclasses import dataclass

from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.arch.tensors import Tensor
from abruzzi.quant.int4 import PER_WORD

WRITABLE = {"bfloat16": "BF16", "float32": "F32"}
_READABLE = ("F32", "BF16", "F16")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A logical tensor: its line of the inventory. int4: stored packed."""

    tensor: Tensor
    int4: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """A stored tensor: its shape and the safetensors dtypes that it may have. precise: written in
    float32 always."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    precise: bool = False


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every logical tensor of the model, from the embedding to the head.

    Raises ValueError where the config asks for INT4 on a width that its groups do not divide."""
    scheme = config.int4
    return {name: TensorSpec(tensor, _is_int4(name, tensor, scheme)) for name, tensor in config.inventory}


def stored_tensors(config: ModelConfig) -> dict[str, StoredSpec]:
    """Every tensor that the files must hold, and no other."""
    scheme = config.int4
    stored: dict[str, StoredSpec] = {}
    for name, spec in expected_tensors(config).items():
        if scheme is None or not spec.int4:
            # The selection bias decides which expert is chosen; rounding it would change routes.
            stored[name] = StoredSpec(spec.shape, _READABLE, precise=spec.tensor.role == "router_bias")
            continue
        packed, scale, shape = int4_parts(name)
        rows, width = spec.shape
        stored[packed] = StoredSpec((rows, -(-width // PER_WORD)), ("I32",))
        stored[scale] = StoredSpec((rows, width // scheme.group_size), ("BF16",))
        stored[shape] = StoredSpec((2,), ("I64", "I32"))
    return stored


def written_dtype(spec: StoredSpec, dtype: str) -> str:
    """The safetensors dtype that a checkpoint of `dtype` ("bfloat16", "float32") is written
    with."""
    if spec.dtypes != _READABLE:
        return spec.dtypes[0]
    return "F32" if spec.precise else WRITABLE[dtype]


def int4_parts(name: str) -> tuple[str, str, str]:
    """Names of the packed words, the scales and the shape of the matrix `name` (`....weight`)."""
    return f"{name}_packed", f"{name}_scale", f"{name}_shape"


def _is_int4(name: str, tensor: Tensor, scheme: Int4Scheme | None) -> bool:
    """Every Linear that the scheme does not ignore is stored in INT4."""
    if scheme is None or not tensor.is_linear or scheme.ignores(name.removesuffix(".weight")):
        return False
    width = tensor.shape[1]
    if width % scheme.group_size:
        raise ValueError(f"{name} has {width} columns; INT4 expects a multiple of {scheme.group_size}")
    return True

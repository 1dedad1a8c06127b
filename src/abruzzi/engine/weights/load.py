"""A checkpoint's tensors in the form that the runners compute on.

Unquantized matrices become float32, or stay bfloat16 where that is asked for (the compiled step
widens them as it goes). Routed experts that the checkpoint stores in INT4 stay packed. What
attention makes of its tensors, its kind says (engine/attention/).

Letters: V vocabulary, D hidden_size, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abruzzi.arch.tensors import Role
from abruzzi.checkpoint import Checkpoint
from abruzzi.engine.attention import attention_of
from abruzzi.engine.attention.kind import AttentionWeights
from abruzzi.engine.weights.reader import TensorReader
from abruzzi.quant.ggml import GgmlMatrix
from abruzzi.quant.int4 import Int4Matrix


@dataclass(frozen=True, slots=True)
class Matrix:
    """One [out, in] matrix, plain, INT4 or in a GGUF file's blocks: exactly one of them is there."""

    dense: np.ndarray | None = None
    int4: Int4Matrix | None = None
    ggml: GgmlMatrix | None = None

    def as_float(self) -> np.ndarray:
        """float32 [out, in]; a fresh array each time if it is stored otherwise (it is used and
        dropped)."""
        if self.dense is not None:
            return self.dense.astype(np.float32, copy=False)
        stored = self.int4 or self.ggml
        assert stored is not None
        return stored.dequantize()


@dataclass(frozen=True, slots=True)
class Mlp:
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Moe:
    """bias_E: for the choice of experts; zeros where the family has none. shared: None where it has
    none."""

    gate_ED: np.ndarray
    bias_E: np.ndarray
    experts: tuple[Mlp, ...]
    shared: Mlp | None


@dataclass(frozen=True, slots=True)
class Layer:
    input_norm_D: np.ndarray
    attention: AttentionWeights
    post_norm_D: np.ndarray
    mlp: Mlp | Moe


@dataclass(frozen=True, slots=True)
class Weights:
    embed_VD: np.ndarray
    layers: tuple[Layer, ...]
    norm_D: np.ndarray
    head_VD: np.ndarray


def load_weights(checkpoint: Checkpoint) -> Weights:
    """Every tensor of the checkpoint, converted once to float32. Raises what the checkpoint's
    reader raises."""
    return Weights(
        embed_VD=load_embedding(checkpoint),
        layers=tuple(load_layer(checkpoint, i) for i in range(checkpoint.config.num_hidden_layers)),
        norm_D=load_norm(checkpoint),
        head_VD=load_head(checkpoint),
    )


def load_embedding(checkpoint: Checkpoint, widen: bool = True) -> np.ndarray:
    """[V, D]. widen False: bfloat16 stays as it is; so everywhere here."""
    return TensorReader(checkpoint, None, widen).array("embedding", "tokens")


def load_norm(checkpoint: Checkpoint) -> np.ndarray:
    """The final norm's weight, float32 [D]."""
    return TensorReader(checkpoint, None).array("norm", "final")


def load_head(checkpoint: Checkpoint) -> np.ndarray:
    """float32 [V, D]; the embedding where the two are tied."""
    return TensorReader(checkpoint, None).array(*_head(checkpoint))


def stored_head(checkpoint: Checkpoint) -> np.ndarray | GgmlMatrix:
    """The same as it is stored."""
    return TensorReader(checkpoint, None, widen=False).matrix(*_head(checkpoint))


def _head(checkpoint: Checkpoint) -> tuple[Role, str]:
    has_head = checkpoint.inventory.find("head", "head") is not None
    return ("head", "head") if has_head else ("embedding", "tokens")


def load_layer(checkpoint: Checkpoint, index: int, widen: bool = True) -> Layer:
    """One layer. A loader that hands layers on one by one never holds two."""
    read = TensorReader(checkpoint, index, widen)
    if read.has("router", "router"):
        experts = checkpoint.inventory.get("routed_experts", "gate", index).experts
        biased = read.has("router_bias", "bias")
        mlp: Mlp | Moe = Moe(
            gate_ED=read.array("router", "router"),
            bias_E=read.vector("router_bias", "bias") if biased else np.zeros(experts, np.float32),
            experts=tuple(_mlp(read, "routed_experts", e) for e in range(experts)),
            shared=_mlp(read, "shared_experts") if read.has("shared_experts", "gate") else None,
        )
    else:
        mlp = _mlp(read, "dense_mlp")
    return Layer(
        input_norm_D=read.vector("norm", "input"),
        attention=attention_of(checkpoint.config).load(read),
        post_norm_D=read.vector("norm", "post"),
        mlp=mlp,
    )


def _mlp(read: TensorReader, role: Role, expert: int | None = None) -> Mlp:
    return Mlp(*(_matrix(read, role, part, expert) for part in ("gate", "up", "down")))


def _matrix(read: TensorReader, role: Role, part: str, expert: int | None) -> Matrix:
    name = read.name(role, part, expert)
    if not read.checkpoint.is_int4(name):
        array = read.matrix(role, part, expert)
        return Matrix(ggml=array) if isinstance(array, GgmlMatrix) else Matrix(dense=array)
    stored = read.checkpoint.packed(name)
    return Matrix(int4=Int4Matrix(stored.packed.copy(), stored.scale.copy(), stored.shape))

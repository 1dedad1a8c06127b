"""A checkpoint's tensors in the form that the runners compute on.

Unquantized matrices become float32, or stay bfloat16 where that is asked for (the compiled step widens them as it
goes). Routed experts that the checkpoint stores in INT4 stay packed. The key/value up-projection is split per head
into its key and value parts, because decode folds the first into the query and the second into the output
(absorbed MLA).

Letters: V vocabulary, D hidden_size, N heads, R kv_lora_rank, P rope dim, K nope dim, H value dim,
Q q_lora_rank, E experts, F expert inner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.tensors import Role
from abruzzi.checkpoint import Checkpoint
from abruzzi.quant.int4 import Int4Matrix


@dataclass(frozen=True, slots=True)
class Matrix:
    """One [out, in] matrix, plain or INT4: exactly one of the two is there."""

    dense: np.ndarray | None = None
    int4: Int4Matrix | None = None

    def as_float(self) -> np.ndarray:
        """float32 [out, in]; a fresh array each time if it is stored otherwise (it is used and dropped)."""
        if self.dense is not None:
            return self.dense.astype(np.float32, copy=False)
        assert self.int4 is not None
        return self.int4.dequantize()


@dataclass(frozen=True, slots=True)
class Mlp:
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Attention:
    q_a_QD: np.ndarray | None
    q_a_norm_Q: np.ndarray | None
    q: np.ndarray  # [N (K+P), Q], or [N (K+P), D] without q_lora
    kv_a: np.ndarray  # [R+P, D]
    kv_a_norm_R: np.ndarray
    w_uk_NKR: np.ndarray
    w_uv_NHR: np.ndarray
    o: np.ndarray  # [D, N H]


@dataclass(frozen=True, slots=True)
class Moe:
    gate_ED: np.ndarray
    bias_E: np.ndarray
    experts: tuple[Mlp, ...]
    shared: Mlp


@dataclass(frozen=True, slots=True)
class Layer:
    input_norm_D: np.ndarray
    attention: Attention
    post_norm_D: np.ndarray
    mlp: Mlp | Moe


@dataclass(frozen=True, slots=True)
class Weights:
    embed_VD: np.ndarray
    layers: tuple[Layer, ...]
    norm_D: np.ndarray
    head_VD: np.ndarray


def load_weights(checkpoint: Checkpoint) -> Weights:
    """Every tensor of the checkpoint, converted once to float32. Raises what the checkpoint's reader raises."""
    return Weights(
        embed_VD=load_embedding(checkpoint),
        layers=tuple(load_layer(checkpoint, i) for i in range(checkpoint.config.num_hidden_layers)),
        norm_D=load_norm(checkpoint),
        head_VD=load_head(checkpoint),
    )


def load_embedding(checkpoint: Checkpoint, widen: bool = True) -> np.ndarray:
    """[V, D]. widen False: bfloat16 stays as it is; so everywhere here."""
    return _Reader(checkpoint, None, widen).array("embedding", "tokens")


def load_norm(checkpoint: Checkpoint) -> np.ndarray:
    """The final norm's weight, float32 [D]."""
    return _Reader(checkpoint, None).array("norm", "final")


def load_head(checkpoint: Checkpoint, widen: bool = True) -> np.ndarray:
    """[V, D]"""
    return _Reader(checkpoint, None, widen).array("head", "head")


def load_layer(checkpoint: Checkpoint, index: int, widen: bool = True) -> Layer:
    """One layer. A loader that hands layers on one by one never holds two."""
    read = _Reader(checkpoint, index, widen)
    if read.has("router", "router"):
        experts = checkpoint.inventory.get("routed_experts", "gate", index).experts
        mlp: Mlp | Moe = Moe(
            gate_ED=read.array("router", "router"),
            bias_E=read.vector("router_bias", "bias"),
            experts=tuple(read.mlp("routed_experts", e) for e in range(experts)),
            shared=read.mlp("shared_experts"),
        )
    else:
        mlp = read.mlp("dense_mlp")
    return Layer(
        input_norm_D=read.vector("norm", "input"),
        attention=_attention(read, checkpoint.config),
        post_norm_D=read.vector("norm", "post"),
        mlp=mlp,
    )


def _attention(read: _Reader, c: ModelConfig) -> Attention:
    has_lora = read.has("attention", "q_a")
    kv_b = read.array("attention", "kv_b")
    kv_b = kv_b.reshape(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
    return Attention(
        q_a_QD=read.array("attention", "q_a") if has_lora else None,
        q_a_norm_Q=read.vector("norm", "q_a") if has_lora else None,
        q=read.array("attention", "q"),
        kv_a=read.array("attention", "kv_a"),
        kv_a_norm_R=read.vector("norm", "kv_a"),
        w_uk_NKR=np.ascontiguousarray(kv_b[:, : c.qk_nope_head_dim]),
        w_uv_NHR=np.ascontiguousarray(kv_b[:, c.qk_nope_head_dim :]),
        o=read.array("attention", "o"),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Tensors of one layer (None: of none) by role and part: what the inventory calls them is its business."""

    checkpoint: Checkpoint
    layer: int | None
    widen: bool = True

    def has(self, role: Role, part: str) -> bool:
        return self.checkpoint.inventory.find(role, part, self.layer) is not None

    def name(self, role: Role, part: str, expert: int | None = None) -> str:
        return self.checkpoint.inventory.get(role, part, self.layer).full_name(self.layer, expert)

    def array(self, role: Role, part: str) -> np.ndarray:
        """float32, or bfloat16 as it is stored where it is not to be widened."""
        return _dense(self.checkpoint, self.name(role, part), self.widen)

    def vector(self, role: Role, part: str) -> np.ndarray:
        """float32 in any case."""
        return _dense(self.checkpoint, self.name(role, part))

    def mlp(self, role: Role, expert: int | None = None) -> Mlp:
        names = [self.name(role, part, expert) for part in ("gate", "up", "down")]
        return Mlp(*(_matrix(self.checkpoint, name, self.widen) for name in names))


def _dense(checkpoint: Checkpoint, name: str, widen: bool = True) -> np.ndarray:
    array = checkpoint.array(name)
    if not widen and array.dtype.name == "bfloat16":
        # A copy: the file may be replaced or on a slow disk, and its tensors need not be aligned.
        return np.array(array, order="C")
    return np.ascontiguousarray(array, dtype=np.float32)


def _matrix(checkpoint: Checkpoint, name: str, widen: bool) -> Matrix:
    if not checkpoint.is_int4(name):
        return Matrix(dense=_dense(checkpoint, name, widen))
    stored = checkpoint.packed(name)
    return Matrix(int4=Int4Matrix(stored.packed.copy(), stored.scale.copy(), stored.shape))

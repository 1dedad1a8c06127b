"""Weights in the layout of the compiled step, in one of three weight modes.

    native      what the checkpoint stores: INT4 experts stay INT4, everything else bfloat16 or float32; lossless
    int8-dense  attention, shared experts, dense MLPs and head rounded to 8 bits (groups of 32); experts as stored
    all-4-bit   the same and every expert in 4 bits (groups of 32), what others call Q4_0; lossy

Router, norms and embedding stay as they are in all of them. Letters as in weights.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, cast, get_args

import numpy as np

from abruzzi.engine.weights.load import Layer, Matrix, Mlp, Moe
from abruzzi.kernels import ops

WeightMode = Literal["native", "int8-dense", "all-4-bit"]
Precision = Literal["exact", "fast"]
PackedMlp = list[ops.Packed]  # gate, up, down


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One layer as the compiled model takes it: the arguments of its add_layer. None: there is no such part.

    Norms and bias float32; absorb_k, expand_k, expand_v: kv_b_proj per head, [R, K], [K, R] and [H, R]."""

    input_norm: np.ndarray
    post_norm: np.ndarray
    q_norm: np.ndarray | None
    kv_norm: np.ndarray
    q_a: ops.Packed | None
    q_b: ops.Packed
    kv_a: ops.Packed
    o: ops.Packed
    absorb_k: list[ops.Packed]
    expand_k: list[ops.Packed]
    expand_v: list[ops.Packed]
    shared: PackedMlp
    router: ops.Packed | None
    bias: np.ndarray | None
    experts: list[PackedMlp]


class Modes(TypedDict):
    """What a loader takes by these names."""

    weights: WeightMode
    precision: Precision


def check_modes(weights: str, precision: str) -> Modes:
    """The two, known to be modes. Raises ValueError for a name that is none."""
    for name, given, known in (("weights", weights, WeightMode), ("precision", precision, Precision)):
        if given not in get_args(known):
            raise ValueError(f"{name}={given!r}; expected one of {', '.join(get_args(known))}")
    return Modes(weights=cast("WeightMode", weights), precision=cast("Precision", precision))


def pack_layer(layer: Layer, weights: WeightMode) -> PackedLayer:
    """Raises ValueError where a weight that is to be rounded is not finite."""
    a, mlp = layer.attention, layer.mlp
    moe = mlp if isinstance(mlp, Moe) else None
    heads = range(len(a.w_uk_NKR))
    return PackedLayer(
        input_norm=layer.input_norm_D,
        post_norm=layer.post_norm_D,
        q_norm=a.q_a_norm_Q,
        kv_norm=a.kv_a_norm_R,
        q_a=None if a.q_a_QD is None else pack_dense(a.q_a_QD, weights),
        q_b=pack_dense(a.q_b, weights),
        kv_a=pack_dense(a.kv_a, weights),
        o=pack_dense(a.o, weights),
        absorb_k=[pack_dense(np.ascontiguousarray(a.w_uk_NKR[n].T), weights) for n in heads],
        expand_k=[pack_dense(a.w_uk_NKR[n], weights) for n in heads],
        expand_v=[pack_dense(a.w_uv_NHR[n], weights) for n in heads],
        shared=_pack_mlp(mlp.shared if isinstance(mlp, Moe) else mlp, weights),
        router=ops.pack(moe.gate_ED) if moe else None,
        bias=moe.bias_E if moe else None,
        experts=[_pack_expert(e, weights) for e in moe.experts] if moe else [],
    )


def pack_dense(w_OI: np.ndarray, weights: WeightMode) -> ops.Packed:
    """A matrix that is not a routed expert's."""
    if weights == "native":
        return ops.pack(w_OI)
    return ops.quantize(w_OI, dense_kind(weights))


def dense_kind(weights: WeightMode) -> str:
    """How such matrices are held, as ops.KINDS names it; native: what a bfloat16 checkpoint has."""
    return {"native": "bfloat16", "int8-dense": "int8", "all-4-bit": "int4"}[weights]


def _pack_mlp(mlp: Mlp, weights: WeightMode) -> PackedMlp:
    return [pack_dense(m.as_float() if m.dense is None else m.dense, weights) for m in (mlp.gate, mlp.up, mlp.down)]


def _pack_expert(mlp: Mlp, weights: WeightMode) -> PackedMlp:
    return [_pack_expert_matrix(m, weights) for m in (mlp.gate, mlp.up, mlp.down)]


def _pack_expert_matrix(m: Matrix, weights: WeightMode) -> ops.Packed:
    if m.int4 is not None:
        return ops.pack_int4(m.int4.packed, m.int4.scale)
    assert m.dense is not None
    return ops.quantize(m.dense, "int4") if weights == "all-4-bit" else ops.pack(m.dense)

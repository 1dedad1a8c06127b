"""Weights in the layout of the compiled step, in one of three weight modes: native, int8-dense, all-4-bit.

What a mode rounds, and to what, is arch/modes.py's table. Letters as in load.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, cast, get_args

import numpy as np

from abruzzi.arch.modes import WeightMode, rounded_to
from abruzzi.arch.tensors import Role
from abruzzi.engine.weights.load import Layer, Matrix, Mlp, Moe
from abruzzi.kernels import ops

Precision = Literal["exact", "fast"]
PackedMlp = list[ops.Packed]  # gate, up, down


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One layer as the compiled model takes it: the arguments of its add_layer. None: there is no such part.

    Norms and bias float32; absorb_k, expand_k, expand_v: kv_b per head, [R, K], [K, R] and [H, R]."""

    input_norm: np.ndarray
    post_norm: np.ndarray
    q_norm: np.ndarray | None
    kv_norm: np.ndarray
    q_a: ops.Packed | None
    q: ops.Packed
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

    def attention(w_OI: np.ndarray) -> ops.Packed:
        return pack(w_OI, "attention", weights)

    return PackedLayer(
        input_norm=layer.input_norm_D,
        post_norm=layer.post_norm_D,
        q_norm=a.q_a_norm_Q,
        kv_norm=a.kv_a_norm_R,
        q_a=None if a.q_a_QD is None else attention(a.q_a_QD),
        q=attention(a.q),
        kv_a=attention(a.kv_a),
        o=attention(a.o),
        absorb_k=[attention(np.ascontiguousarray(a.w_uk_NKR[n].T)) for n in heads],
        expand_k=[attention(a.w_uk_NKR[n]) for n in heads],
        expand_v=[attention(a.w_uv_NHR[n]) for n in heads],
        shared=_pack_mlp(mlp.shared, "shared_experts", weights)
        if isinstance(mlp, Moe)
        else _pack_mlp(mlp, "dense_mlp", weights),
        router=pack(moe.gate_ED, "router", weights) if moe else None,
        bias=moe.bias_E if moe else None,
        experts=[_pack_mlp(e, "routed_experts", weights) for e in moe.experts] if moe else [],
    )


def pack(w_OI: np.ndarray, role: Role, weights: WeightMode) -> ops.Packed:
    """A float32 or bfloat16 matrix of this role."""
    kind = rounded_to(role, weights)
    return ops.pack(w_OI) if kind is None else ops.quantize(w_OI, kind)


def _pack_mlp(mlp: Mlp, role: Role, weights: WeightMode) -> PackedMlp:
    return [_pack_matrix(m, role, weights) for m in (mlp.gate, mlp.up, mlp.down)]


def _pack_matrix(m: Matrix, role: Role, weights: WeightMode) -> ops.Packed:
    if m.int4 is not None and role == "routed_experts":
        return ops.pack_int4(m.int4.packed, m.int4.scale)
    return pack(m.as_float() if m.dense is None else m.dense, role, weights)

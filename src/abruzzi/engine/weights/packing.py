"""Weights in the layout of the compiled step, in one of three weight modes: native, int8-dense,
all-4-bit.

What a mode rounds, and to what, is arch/modes.py's table. How attention is packed, its kind says
(engine/attention/).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np

from abruzzi.arch.modes import WeightMode
from abruzzi.arch.tensors import Role
from abruzzi.engine.attention.kind import PackedAttention
from abruzzi.engine.weights.load import Layer, Matrix, Mlp, Moe
from abruzzi.engine.weights.rounding import pack
from abruzzi.kernels import ops

Precision = Literal["exact", "fast"]
PackedMlp = list[ops.Packed]  # gate, up, down


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One layer as the compiled model takes it. None or empty: there is no such part; shared: the
    dense MLP where there is no router. Norms and bias float32."""

    input_norm: np.ndarray
    post_norm: np.ndarray
    attention: PackedAttention
    shared: PackedMlp
    router: ops.Packed | None
    bias: np.ndarray | None
    experts: list[PackedMlp]

    def flat(self) -> dict[str, Any]:
        """All parts by name, those of attention among them: how kept weights lie on the disk."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "attention"}
        assert not own.keys() & self.attention.keys()
        return {**own, **self.attention}

    @classmethod
    def from_flat(cls, parts: Mapping[str, Any]) -> PackedLayer:
        """What `flat` gave: names that no field has are attention's."""
        own = {f.name for f in fields(cls)}
        attention = {name: part for name, part in parts.items() if name not in own}
        return cls(attention=attention, **{name: part for name, part in parts.items() if name in own})


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
    mlp = layer.mlp
    moe = mlp if isinstance(mlp, Moe) else None
    shared, role = (mlp.shared, "shared_experts") if isinstance(mlp, Moe) else (mlp, "dense_mlp")
    return PackedLayer(
        input_norm=layer.input_norm_D,
        post_norm=layer.post_norm_D,
        attention=layer.attention.pack(weights),
        shared=[] if shared is None else _pack_mlp(shared, role, weights),
        router=pack(moe.gate_ED, "router", weights) if moe else None,
        bias=moe.bias_E if moe else None,
        experts=[_pack_mlp(e, "routed_experts", weights) for e in moe.experts] if moe else [],
    )


def _pack_mlp(mlp: Mlp, role: Role, weights: WeightMode) -> PackedMlp:
    packed = [_pack_matrix(m, role, weights) for m in (mlp.gate, mlp.up, mlp.down)]
    if packed[0].kind != packed[1].kind:  # the step takes both in one pass: as floats, if they differ
        packed[:2] = (pack(m.as_float(), role, weights) for m in (mlp.gate, mlp.up))
    return packed


def _pack_matrix(m: Matrix, role: Role, weights: WeightMode) -> ops.Packed:
    if m.int4 is not None and role == "routed_experts":
        return ops.pack_int4(m.int4.packed, m.int4.scale)
    if m.ggml is not None:
        return pack(m.ggml, role, weights)
    return pack(m.as_float() if m.dense is None else m.dense, role, weights)

"""One matrix in the layout of the products, rounded as its role and the weight mode say
(arch/modes.py's table)."""

from __future__ import annotations

import numpy as np

from abruzzi.arch.modes import WeightMode, rounded_to
from abruzzi.arch.tensors import Role
from abruzzi.kernels import ops
from abruzzi.quant.ggml import GgmlMatrix


def pack(w_OI: np.ndarray | GgmlMatrix, role: Role, weights: WeightMode) -> ops.Packed:
    """A matrix of this role: float32, bfloat16, or blocks of a GGUF file, which keep their codes where
    there is a tile for them. Raises ValueError where it is to be rounded and not finite."""
    kind = rounded_to(role, weights)
    if isinstance(w_OI, GgmlMatrix):
        name = w_OI.kind.name.lower()
        if kind is None and name in ops.GGML_KINDS:
            return ops.pack_ggml(name, w_OI.columns, np.ascontiguousarray(w_OI.data))
        w_OI = w_OI.dequantize()
    return ops.pack(w_OI) if kind is None else ops.quantize(w_OI, kind)

"""One matrix in the layout of the products, rounded as its role and the weight mode say
(arch/modes.py's table)."""

from __future__ import annotations

import numpy as np

from abruzzi.arch.modes import WeightMode, rounded_to
from abruzzi.arch.tensors import Role
from abruzzi.kernels import ops


def pack(w_OI: np.ndarray, role: Role, weights: WeightMode) -> ops.Packed:
    """A float32 or bfloat16 matrix of this role. Raises ValueError where it is to be rounded and
    not finite."""
    kind = rounded_to(role, weights)
    return ops.pack(w_OI) if kind is None else ops.quantize(w_OI, kind)

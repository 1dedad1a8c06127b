"""The operations that the engine calls. Each has the same name in ref.py, its NumPy twin.

`int4_matvec` and `rmsnorm` are compiled (csrc/); the others are NumPy's own products and are the twins
themselves. The compiled ones check dtype, shape and layout and never convert silently.
"""

from __future__ import annotations

import numpy as np

from abruzzi.kernels import _ext
from abruzzi.kernels.dispatch import level
from abruzzi.kernels.ref import linear, mla_absorbed, mla_naive, rope, route, silu_mul

__all__ = ["int4_matvec", "linear", "mla_absorbed", "mla_naive", "rmsnorm", "rope", "route", "silu_mul"]

GROUP = 32


def int4_matvec(packed_OW: np.ndarray, scale_OG: np.ndarray, x_I: np.ndarray, isa: str | None = None) -> np.ndarray:
    """float32 [O] = W [O, I] x [I], W in the checkpoint's INT4 layout, float32 activations and sums.

    packed_OW: int32 [O, I/8]; scale_OG: bfloat16, or its bits as uint16, [O, I/32]; x_I: float32 [I].
    Raises ValueError that says what was given and what was expected."""
    _want("packed", packed_OW, np.int32, 2)
    _want("x", x_I, np.float32, 1)
    if scale_OG.dtype.name == "bfloat16":
        scale_OG = scale_OG.view(np.uint16)
    _want("scale", scale_OG, np.uint16, 2)
    rows, width = len(packed_OW), len(x_I)
    if width % GROUP or packed_OW.shape[1] * 8 != width or scale_OG.shape != (rows, width // GROUP):
        raise ValueError(
            f"packed {packed_OW.shape}, scale {scale_OG.shape} and x {x_I.shape} do not fit; "
            f"expected [O, I/8], [O, I/32] and [I] with I a multiple of {GROUP}"
        )
    y_O = np.empty(rows, np.float32)
    _ext.int4_matvec(level(isa), packed_OW.view(np.uint32), scale_OG, x_I, y_O)
    return y_O


def rmsnorm(x_TD: np.ndarray, weight_D: np.ndarray, eps: float, isa: str | None = None) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, row by row: float32 [T, D].

    Raises ValueError that says what was given and what was expected."""
    _want("x", x_TD, np.float32, 2)
    _want("weight", weight_D, np.float32, 1)
    if x_TD.shape[1] != len(weight_D) or not len(weight_D):
        raise ValueError(f"x {x_TD.shape} and weight {weight_D.shape} do not fit; expected [T, D] and [D]")
    if not eps >= 0:
        raise ValueError(f"eps={eps!r}; expected 0 or more")
    y_TD = np.empty_like(x_TD)
    _ext.rmsnorm(level(isa), x_TD, weight_D, eps, y_TD)
    return y_TD


def _want(name: str, array: np.ndarray, dtype: type, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous or not array.flags.aligned:
        layout = "contiguous" if array.flags.c_contiguous and array.flags.aligned else "not contiguous or not aligned"
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}, {layout}; expected contiguous {np.dtype(dtype)} "
            f"with {ndim} axes; hint: np.ascontiguousarray"
        )

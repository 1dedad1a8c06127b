"""INT4 as Kimi-K2-Thinking ships it: symmetric, groups of 32 along the input dimension, bf16 scales.

The exact arithmetic, which quantization-aware training repeats bit for bit:

    absmax = max |w| over the group                       (float32)
    scale  = bfloat16(absmax / 7)                         (round half to even)
    code   = clip(round_half_even(w / float32(scale)), -7, 7)
    weight = code * float32(scale)                        (float32; exact: 3 + 8 significant bits)

The scale is rounded before it divides, so codes are the best ones for the scale that is stored. A group
of zeros, or one so small that its scale would not be a normal bfloat16, gets the scale 1 and codes 0.
Stored form: compressed-tensors `pack-quantized`. Element c of a row lies in word c // 8, bits
4 (c % 8) and up, as code + 8; a row whose length is no multiple of 8 is filled up with zero bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from abruzzi.config import Int4Scheme

GROUP_SIZE = 32
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PER_WORD = 8
_SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """One stored matrix: packed int32 [O, ceil(I/8)], scale bfloat16 [O, I/32], shape (O, I)."""

    packed: np.ndarray
    scale: np.ndarray
    shape: tuple[int, int]

    def dequantize(self) -> np.ndarray:
        """float32 [O, I]."""
        return dequantize(unpack(self.packed, self.shape), self.scale)


def quantize(weight_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [O, I] in -7..7 and scales bfloat16 [O, I/32].

    Raises ValueError for a width that is no multiple of 32 and for values that are not finite."""
    if weight_OI.ndim != 2 or weight_OI.shape[1] % GROUP_SIZE:
        raise ValueError(f"weight of shape {weight_OI.shape}; expected [out, in] with in a multiple of {GROUP_SIZE}")
    grouped = weight_OI.astype(np.float32).reshape(len(weight_OI), -1, GROUP_SIZE)
    absmax = np.abs(grouped).max(axis=-1)
    if not np.isfinite(absmax).all():
        raise ValueError("weight holds NaN or infinity; it cannot be quantized")
    scale = (absmax / np.float32(7)).astype(BFLOAT16)
    if not np.isfinite(scale.astype(np.float32)).all():
        raise ValueError(f"weight as large as {absmax.max():g} has no finite bfloat16 scale")
    scale = np.where(scale.astype(np.float32) < _SMALLEST_NORMAL, BFLOAT16.type(1), scale)
    codes = np.rint(grouped / scale.astype(np.float32)[..., None])
    return np.clip(codes, -7, 7).astype(np.int8).reshape(weight_OI.shape), scale


def dequantize(codes_OI: np.ndarray, scale_OG: np.ndarray) -> np.ndarray:
    """code * scale, float32 [O, I]; scales are bfloat16 (or any float) [O, I/32]."""
    grouped = codes_OI.reshape(len(codes_OI), -1, GROUP_SIZE).astype(np.float32)
    return (grouped * scale_OG.astype(np.float32)[..., None]).reshape(codes_OI.shape)


def pack(codes_OI: np.ndarray) -> np.ndarray:
    """int32 [O, ceil(I/8)] from codes int8 [O, I] in -8..7, lowest bits first."""
    rows, width = codes_OI.shape
    if codes_OI.size and not (int(codes_OI.min()) >= -8 and int(codes_OI.max()) <= 7):
        raise ValueError(f"codes from {codes_OI.min()} to {codes_OI.max()}; expected -8..7")
    nibbles = np.zeros((rows, -(-width // PER_WORD) * PER_WORD), np.uint32)
    nibbles[:, :width] = (codes_OI.astype(np.int32) + 8).astype(np.uint32)
    shifts = np.arange(PER_WORD, dtype=np.uint32) * 4
    words = np.bitwise_or.reduce(nibbles.reshape(rows, -1, PER_WORD) << shifts, axis=-1)
    return words.view(np.int32)


def unpack(packed_OW: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Codes int8 [O, I] from int32 words; the filling behind the last column is cut off."""
    rows, width = shape
    if packed_OW.shape != (rows, -(-width // PER_WORD)):
        raise ValueError(f"packed words of shape {packed_OW.shape} do not hold a {rows} x {width} matrix")
    shifts = np.arange(PER_WORD, dtype=np.uint32) * 4
    words = np.ascontiguousarray(packed_OW).view(np.uint32)
    nibbles = (words[..., None] >> shifts) & np.uint32(15)
    return (nibbles.reshape(rows, -1)[:, :width].astype(np.int8)) - np.int8(8)


def quantize_matrix(weight_OI: np.ndarray) -> Int4Matrix:
    """quantize, then pack."""
    codes, scale = quantize(weight_OI)
    return Int4Matrix(pack(codes), scale, (codes.shape[0], codes.shape[1]))


def is_quantized(module: str, scheme: Int4Scheme) -> bool:
    """Whether the matrix of this module (`model.layers.1.mlp.experts.0.up_proj`) is stored in INT4.

    compressed-tensors' rule: every Linear but those that `ignore` names, by the whole name or, after
    `re:`, by a pattern that matches from its beginning. Norms, the embedding and the router (`mlp.gate`,
    which is no Linear in this family) are never quantized."""
    if not re.search(r"(_proj|_proj_with_mqa|lm_head)$", module):
        return False
    return not any(
        re.match(rule[3:], module) is not None if rule.startswith("re:") else rule == module for rule in scheme.ignore
    )

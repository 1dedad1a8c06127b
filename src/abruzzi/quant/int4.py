"""INT4 as Kimi-K2-Thinking ships it: symmetric, groups of 32 along the input dimension, bf16
scales.

The exact arithmetic, in this order, which quantization-aware training repeats bit for bit:

    absmax = max |w| over the group                 float32 (narrower floats are widened first, exactly)
    scale  = bfloat16(absmax / 7)                   float32 division, then round half to even
    scale  = 1 where scale < 2^-126                 zeros, and groups too small for a normal bfloat16
    code   = round_half_even(w / float32(scale))    a float32 division by the *rounded* scale, never a
                                                    product with its reciprocal: that changes codes
    weight = code * float32(scale)                  float32; exact, 3 + 8 significant bits

Codes stay within -7..7 without a clip: rounding makes a scale smaller by one part in 2^9 at most,
so |w / scale| < 7.02. A group with scale 1 by the third rule has codes 0. Nothing overflows: absmax
/ 7 is far below bfloat16's largest value for every finite float32.

Stored form: compressed-tensors `pack-quantized`. Element c of a row lies in word c // 8, bits 4 (c
% 8) and up, as code + 8; a row whose length is no multiple of 8 is filled up with zero bits, which
would decode to -8, so readers cut to `weight_shape`. The release uses 15 of the 16 codes; -8 is
never written here but is read. Source: K2.6's config.json, compressed-tensors' packing, and the
released weights' statistics. compressed-tensors' own calibration would take absmax / 7.5: not this.
Not here: files (room `checkpoint`), fast products (room `kernels`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from abruzzi.arch.int4 import GROUP

PER_WORD = 8
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_LARGEST_CODE = np.float32(7)
_SMALLEST_NORMAL = np.float32(2.0**-126)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)
_BLOCK = 1 << 18  # elements that are worked on at once: temporaries stay in the cache


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """One stored matrix: packed int32 [O, ceil(I/8)], scale bfloat16 [O, I/32], shape (O, I)."""

    packed: np.ndarray
    scale: np.ndarray
    shape: tuple[int, int]

    def dequantize(self) -> np.ndarray:
        """float32 [O, I]."""
        return dequantize_packed(self.packed, self.scale, self.shape)


def quantize(weight_OI: np.ndarray, group_size: int = GROUP) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [O, I] in -7..7 and scales bfloat16 [O, I/group_size].

    weight_OI: float32, float16 or bfloat16. Raises ValueError for another dtype, for a width that
    is no multiple of group_size and for values that are not finite."""
    _check_floats(weight_OI, group_size)
    rows, width = weight_OI.shape
    codes_OI = np.empty((rows, width), np.int8)
    scale_OG = np.empty((rows, width // group_size), BFLOAT16)
    for at in _row_blocks(rows, width):
        block = weight_OI[at].astype(np.float32, copy=False)
        absmax = np.abs(block).reshape(len(block), -1, group_size).max(axis=-1)
        if not np.isfinite(absmax).all():
            row, group = (int(i) for i in np.argwhere(~np.isfinite(absmax))[0])
            where = f"row {at.start + row}, columns {group * group_size}..{(group + 1) * group_size - 1}"
            raise ValueError(f"weight holds NaN or infinity in {where}; it cannot be quantized")
        scale_OG[at] = _scale_of(absmax)
        codes_OI[at] = _codes(block, scale_OG[at], group_size)
    return codes_OI, scale_OG


def encode(weight_OI: np.ndarray, scale_OG: np.ndarray) -> np.ndarray:
    """Codes int8 [O, I] for scales that are given: round half to even of w / scale, clipped to
    -7..7.

    Raises ValueError unless every scale [O, I/group] is positive and finite."""
    scale = scale_OG.astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("scales must be positive and finite; hint: quantize() chooses them")
    group_size = _group_size(weight_OI.shape, scale_OG.shape)
    _check_floats(weight_OI, group_size)
    return _codes(weight_OI.astype(np.float32, copy=False), scale, group_size)


def dequantize(codes_OI: np.ndarray, scale_OG: np.ndarray) -> np.ndarray:
    """code * scale, float32 [O, I]; scales are bfloat16 (or any float) [O, I/group]."""
    group_size = _group_size(codes_OI.shape, scale_OG.shape)
    rows, width = codes_OI.shape
    out_OI = codes_OI.astype(np.float32, order="C")
    grouped = out_OI.reshape(rows, width // group_size, group_size)
    grouped *= scale_OG.astype(np.float32)[..., None]
    return out_OI


def dequantize_packed(packed_OW: np.ndarray, scale_OG: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 [O, I] straight from the stored parts."""
    return dequantize(unpack(packed_OW, shape), scale_OG)


def pack(codes_OI: np.ndarray) -> np.ndarray:
    """int32 [O, ceil(I/8)] from codes int8 [O, I] in -8..7, lowest bits first. Raises
    ValueError."""
    if codes_OI.ndim != 2 or codes_OI.dtype != np.int8:
        raise ValueError(f"codes are {codes_OI.dtype} of shape {codes_OI.shape}; expected int8 [out, in]")
    if codes_OI.size and (codes_OI.min() < -8 or codes_OI.max() > 7):
        raise ValueError(f"codes run from {codes_OI.min()} to {codes_OI.max()}; expected -8..7")
    rows, width = codes_OI.shape
    nibbles = np.zeros((rows, -(-width // PER_WORD) * PER_WORD), np.uint8)
    nibbles[:, :width] = (codes_OI + np.int8(8)).view(np.uint8)
    # Two nibbles to a byte and four bytes to a little-endian word put element c at bit 4 (c % 8).
    return (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).view("<i4").astype(np.int32, copy=False)


def unpack(packed_OW: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Codes int8 [O, I] from int32 words; the filling behind the last column is cut off.

    Raises ValueError for words that cannot hold a matrix of this shape."""
    rows, width = shape
    if packed_OW.dtype != np.int32 or packed_OW.shape != (rows, -(-width // PER_WORD)):
        raise ValueError(
            f"{packed_OW.dtype} words of shape {packed_OW.shape} do not hold a {rows} x {width} matrix; "
            f"expected int32 {(rows, -(-width // PER_WORD))}"
        )
    pairs = np.ascontiguousarray(packed_OW.astype("<i4", copy=False)).view(np.uint8)
    nibbles = np.empty((rows, pairs.shape[1], 2), np.uint8)
    np.bitwise_and(pairs, 15, out=nibbles[..., 0])
    np.right_shift(pairs, 4, out=nibbles[..., 1])
    codes = nibbles.reshape(rows, 2 * pairs.shape[1])[:, :width].view(np.int8)
    return codes - np.int8(8)


def quantize_matrix(weight_OI: np.ndarray, group_size: int = GROUP) -> Int4Matrix:
    """quantize, then pack."""
    codes, scale = quantize(weight_OI, group_size)
    return Int4Matrix(pack(codes), scale, (codes.shape[0], codes.shape[1]))


def _scale_of(absmax: np.ndarray) -> np.ndarray:
    scale = (absmax / _LARGEST_CODE).astype(BFLOAT16)
    return np.where(scale.astype(np.float32) < _SMALLEST_NORMAL, BFLOAT16.type(1), scale)


def _codes(weight_OI: np.ndarray, scale_OG: np.ndarray, group_size: int) -> np.ndarray:
    grouped = weight_OI.reshape(len(weight_OI), -1, group_size)
    ratio = grouped / scale_OG.astype(np.float32)[..., None]
    np.rint(ratio, out=ratio)
    # Only `encode` can be given a scale that makes this clip anything.
    np.clip(ratio, -_LARGEST_CODE, _LARGEST_CODE, out=ratio)
    return ratio.astype(np.int8).reshape(weight_OI.shape)


def _row_blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _check_floats(weight_OI: np.ndarray, group_size: int) -> None:
    if weight_OI.dtype not in _FLOATS:
        raise ValueError(f"weight is {weight_OI.dtype}; expected float32, float16 or bfloat16")
    if weight_OI.ndim != 2 or weight_OI.shape[1] % group_size or not weight_OI.shape[1]:
        raise ValueError(f"weight of shape {weight_OI.shape}; expected [out, in] with in a multiple of {group_size}")


def _group_size(matrix: tuple[int, ...], scale: tuple[int, ...]) -> int:
    if len(matrix) == len(scale) == 2 and matrix[0] == scale[0] and scale[1] and not matrix[1] % scale[1]:
        return matrix[1] // scale[1]
    raise ValueError(f"scales of shape {scale} do not fit a matrix of shape {matrix}")

"""The block types of GGUF files: how many bytes a block takes, and what it holds as float32.

A row is cut into blocks of 32 or 256 numbers. A block has one or two float16 scales, perhaps smaller
scales within (the K types), and the codes. Sources: ggml's quantization structures, and the gguf
package's NumPy code, which the tests compare with.

    Q4_0    d (q - 8)             Q4_1    d q + m            Q8_0    d q
    Q5_0    d (q - 16)            Q5_1    d q + m
    Q4_K    d s q - e t           Q5_K    the same, of 5 bits, s and t of 6 bits for each 32
    Q6_K    d s (q - 32)          s of 8 bits for each 16
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

Blocks = np.ndarray  # uint8 [blocks, bytes of a block]


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type. elements, bytes: of a block. read: its blocks as float32 [blocks, elements]; None:
    known by name, and not read here. halves: where its float16 numbers lie."""

    name: str
    elements: int
    bytes: int
    read: Callable[[Blocks], np.ndarray] | None = None
    halves: tuple[int, ...] = ()

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor. Raises ValueError where rows are no whole blocks."""
        if shape and shape[-1] % self.elements:
            raise ValueError(f"rows of {shape[-1]} are no whole blocks of {self.elements} in {self.name}")
        return math.prod(shape) // self.elements * self.bytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.elements


@dataclass(frozen=True, slots=True)
class GgmlMatrix:
    """A matrix in a file's blocks. data: uint8 [rows, bytes of a row]."""

    kind: BlockType
    data: np.ndarray
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.data), self.columns

    def dequantize(self) -> np.ndarray:
        """float32 [rows, columns]."""
        return dequantize(self.kind, self.data, self.shape)

    def is_finite(self) -> bool:
        """Whether every scale is: codes are whole numbers."""
        blocks = self.data.reshape(-1, self.kind.bytes)
        halves = (blocks[:, at : at + 2] for at in self.kind.halves)
        return all(np.isfinite(np.ascontiguousarray(h).view(np.float16)).all() for h in halves)

    def in_order(self, order: np.ndarray) -> GgmlMatrix:
        """The rows of these numbers."""
        return GgmlMatrix(self.kind, np.ascontiguousarray(self.data[order]), self.columns)


def dequantize(kind: BlockType, data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor's bytes, uint8, as float32 of this shape. Raises ValueError for a type that is not
    read."""
    if kind.read is None:
        known = ", ".join(t.name for t in TYPES.values() if t.read)
        raise ValueError(f"quantization {kind.name} is not read; expected one of {known}")
    with np.errstate(invalid="ignore", over="ignore"):  # whoever reads weights looks for NaN
        return np.ascontiguousarray(kind.read(data.reshape(-1, kind.bytes)).reshape(shape))


def _half(blocks: Blocks, at: int) -> np.ndarray:
    """The float16 at a byte, float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Low halves of all bytes, then high halves: [blocks, 2 n]."""
    return np.concatenate((codes & 15, codes >> 4), axis=-1)


def _fifth_bits(blocks: Blocks, at: int) -> np.ndarray:
    """32 bits as 0 or 16, [blocks, 32]."""
    return np.unpackbits(blocks[:, at : at + 4], axis=-1, bitorder="little") << 4


def _f32(blocks: Blocks) -> np.ndarray:
    return np.ascontiguousarray(blocks).view(np.float32)


def _f16(blocks: Blocks) -> np.ndarray:
    return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)


def _bf16(blocks: Blocks) -> np.ndarray:
    return np.ascontiguousarray(blocks).view(ml_dtypes.bfloat16).astype(np.float32)


def _q4_0(blocks: Blocks) -> np.ndarray:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> np.ndarray:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Blocks) -> np.ndarray:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (codes.astype(np.float32) - 16)


def _q5_1(blocks: Blocks) -> np.ndarray:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * codes.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Blocks) -> np.ndarray:
    return _half(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)


def small_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 12 bytes of a K block as scales and minima of its eight groups, 6 bits each: uint8
    [blocks, 8] twice."""
    low, high, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate((low & 63, (rest & 15) | (low >> 6) << 4), axis=-1)
    minima = np.concatenate((high & 63, (rest >> 4) | (high >> 6) << 4), axis=-1)
    return scales, minima


def _with_small_scales(blocks: Blocks, codes: np.ndarray) -> np.ndarray:
    """codes: [blocks, 8, 32]."""
    scales, minima = small_scales(blocks[:, 4:16])
    scale, least = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return (scale[..., None] * codes.astype(np.float32) - least[..., None]).reshape(len(blocks), 256)


def _q4_k(blocks: Blocks) -> np.ndarray:
    codes = blocks[:, 16:].reshape(-1, 4, 1, 32)
    return _with_small_scales(blocks, np.concatenate((codes & 15, codes >> 4), axis=2).reshape(-1, 8, 32))


def _q5_k(blocks: Blocks) -> np.ndarray:
    codes = blocks[:, 48:].reshape(-1, 4, 1, 32)
    low = np.concatenate((codes & 15, codes >> 4), axis=2).reshape(-1, 8, 32)
    high = (blocks[:, 16:48][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _with_small_scales(blocks, low | high << 4)


def _q6_k(blocks: Blocks) -> np.ndarray:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = (low | high << 4).astype(np.int16).reshape(-1, 16, 16) - 32
    scale = _half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return (scale[..., None] * codes.astype(np.float32)).reshape(len(blocks), 256)


# By ggml's numbers. Those without a reader are known by name, for a refusal that says which.
TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4, _f32),
    1: BlockType("F16", 1, 2, _f16),
    2: BlockType("Q4_0", 32, 18, _q4_0, (0,)),
    3: BlockType("Q4_1", 32, 20, _q4_1, (0, 2)),
    6: BlockType("Q5_0", 32, 22, _q5_0, (0,)),
    7: BlockType("Q5_1", 32, 24, _q5_1, (0, 2)),
    8: BlockType("Q8_0", 32, 34, _q8_0, (0,)),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144, _q4_k, (0, 2)),
    13: BlockType("Q5_K", 256, 176, _q5_k, (0, 2)),
    14: BlockType("Q6_K", 256, 210, _q6_k, (208,)),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2, _bf16),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
}

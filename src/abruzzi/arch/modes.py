"""Weight modes: in which format the engine holds the matrices of each role. Loader, packing and
cost read this table.

                 attention, MLPs, shared experts, head     routed experts              router, embedding
    native       as stored                                 as stored                   as stored
    int8-dense   rounded to 8 bits                         as stored                   as stored
    all-4-bit    rounded to 4 bits                         rounded to 4 bits           as stored

As stored: bfloat16 stays bfloat16, float32 float32; routed experts in INT4 stay INT4 in every mode;
the rest is widened to float32. Norms and biases are float32 always. 4 and 8 bits are symmetric, in
groups of 32 columns with a bfloat16 scale (4.5 and 8.5 bits a weight; 4 bits so are what others
call Q4_0). Example: an all-4-bit matrix of 16 x 64 takes two tiles of 288 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from abruzzi.arch.int4 import GROUP
from abruzzi.arch.tensors import LINEAR, Role

WeightMode = Literal["native", "int8-dense", "all-4-bit"]
WEIGHT_MODES: tuple[WeightMode, ...] = get_args(WeightMode)
TILE_ROWS, TILE_COLUMNS = (
    16,
    GROUP,
)  # of the compiled step's layout (csrc/kernels/matrix.h): a matrix is held in whole tiles


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers of a matrix are held. group: columns that share a scale of `scale_bits`; 0 =
    there are no scales."""

    bits: int
    group: int = 0
    scale_bits: int = 0

    @property
    def bits_per_weight(self) -> float:
        """With the scales."""
        return self.bits + (self.scale_bits / self.group if self.group else 0)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """A matrix in whole tiles."""
        tiles = -(-rows // TILE_ROWS) * -(-columns // TILE_COLUMNS)
        return tiles * int(TILE_ROWS * TILE_COLUMNS * self.bits_per_weight) // 8


FORMATS = {
    "float32": Format(32),
    "bfloat16": Format(16),
    "int8": Format(8, GROUP, 16),
    "int4": Format(4, GROUP, 16),
    # GGUF's blocks, codes as they are: of the K kinds, scales of scales are shared by eight groups.
    "q4_0": Format(4, GROUP, 16),
    "q4_1": Format(4, GROUP, 32),
    "q8_0": Format(8, GROUP, 16),
    "q4_k": Format(4, GROUP, 20),
    "q6_k": Format(8, GROUP, 18),
}
_BLOCKS = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k")
# What a mode rounds, and to what; every other role is held as it is stored.
_ROUNDED: dict[WeightMode, tuple[tuple[Role, ...], str]] = {
    "native": ((), ""),
    "int8-dense": (tuple(role for role in LINEAR if role != "routed_experts"), "int8"),
    "all-4-bit": (LINEAR, "int4"),
}


def rounded_to(role: Role, mode: str) -> str | None:
    """The format that a mode rounds matrices of this role to; None = it holds them as stored.

    Raises ValueError for a name that is no mode."""
    for known, (roles, to) in _ROUNDED.items():
        if known == mode:
            return to if role in roles else None
    raise ValueError(f"weights {mode!r} is no mode; expected one of {', '.join(WEIGHT_MODES)}")


def held_format(role: Role, stored: str, mode: str) -> str:
    """The format of a matrix in memory, one of FORMATS.

    stored: its dtype in the checkpoint: float32, bfloat16, float16, int4, or a GGUF file's block type.
    Raises ValueError for a
    name that is no mode."""
    rounded = rounded_to(role, mode)
    if role == "routed_experts" and stored == "int4":
        return "int4"
    if rounded is not None:
        return rounded
    if stored in _BLOCKS and role != "embedding":
        return stored
    return "bfloat16" if stored == "bfloat16" else "float32"

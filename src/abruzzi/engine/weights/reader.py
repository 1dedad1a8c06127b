"""A checkpoint's tensors by role and part: what the inventory calls them is its business."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abruzzi.arch.tensors import Role
from abruzzi.checkpoint import Checkpoint
from abruzzi.quant.ggml import GgmlMatrix


@dataclass(frozen=True, slots=True)
class TensorReader:
    """Tensors of one layer (None: of none). widen False: bfloat16 stays as it is stored, but for
    vectors."""

    checkpoint: Checkpoint
    layer: int | None
    widen: bool = True

    def has(self, role: Role, part: str) -> bool:
        return self.checkpoint.inventory.find(role, part, self.layer) is not None

    def name(self, role: Role, part: str, expert: int | None = None) -> str:
        return self.checkpoint.inventory.get(role, part, self.layer).full_name(self.layer, expert)

    def array(self, role: Role, part: str, expert: int | None = None) -> np.ndarray:
        """float32, or bfloat16 as it is stored where it is not to be widened."""
        return self._dense(self.name(role, part, expert), self.widen)

    def matrix(self, role: Role, part: str, expert: int | None = None) -> np.ndarray | GgmlMatrix:
        """As `array`, but in a GGUF file's blocks as they are where it is not to be widened."""
        name = self.name(role, part, expert)
        blocks = None if self.widen else self.checkpoint.blocks(name)
        return self._dense(name, self.widen) if blocks is None else blocks

    def vector(self, role: Role, part: str) -> np.ndarray:
        """float32 in any case."""
        return self._dense(self.name(role, part), True)

    def _dense(self, name: str, widen: bool) -> np.ndarray:
        array = self.checkpoint.array(name)
        if not widen and array.dtype.name == "bfloat16":
            # A copy: the file may be replaced or on a slow disk, and its tensors need not be
            # aligned.
            return np.array(array, order="C")
        return np.ascontiguousarray(array, dtype=np.float32)

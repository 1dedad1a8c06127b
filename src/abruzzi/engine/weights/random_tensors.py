"""Random packed matrices in the shapes of an inventory and the formats of a weight mode."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from abruzzi.arch.modes import WeightMode, held_format
from abruzzi.arch.tensors import Inventory, Role
from abruzzi.kernels import ops


@dataclass(frozen=True, slots=True)
class RandomTensors:
    """Tensors of one layer (None: of none), by role and part. experts: how routed experts are held,
    one of ops.KINDS. Each matrix takes the next seed."""

    tensors: Inventory
    weights: WeightMode
    experts: str
    seeds: itertools.count[int]
    layer: int | None = None

    def has(self, role: Role, part: str) -> bool:
        return self.tensors.find(role, part, self.layer) is not None

    def matrices(self, role: Role, part: str) -> list[list[ops.Packed]]:
        """What the engine makes of one tensor, piece by piece."""
        # Experts are held as the caller says: it knows what the checkpoint stores.
        kind = self.experts if role == "routed_experts" else held_format(role, "bfloat16", self.weights)
        pieces = self.tensors.get(role, part, self.layer).pieces
        return [[ops.pack_random(kind, p.rows, p.columns, next(self.seeds)) for _ in range(p.count)] for p in pieces]

    def matrix(self, role: Role, part: str) -> ops.Packed:
        return self.matrices(role, part)[0][0]

    def ones(self, part: str) -> np.ndarray:
        """A norm's weight."""
        return np.ones(self.tensors.get("norm", part, self.layer).shape, np.float32)

    def zeros(self, role: Role, part: str) -> np.ndarray:
        """A bias that adds nothing."""
        return np.zeros(self.tensors.get(role, part, self.layer).shape, np.float32)

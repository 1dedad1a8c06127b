"""What the engine asks a kind of attention: one protocol, and one file a kind beside this one.

A kind has weights in three forms: as loaded (float32 or bfloat16 arrays), *packed* for the compiled
step, and packed at random. It says when tokens attend in the prefill form, and has a readable half
layer in NumPy, the twin of the compiled one (csrc/step/). Its row in the KV cache is the family's
(`cache_row`), which the room `cost` reads as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from abruzzi.arch.modes import WeightMode
from abruzzi.engine.step.state import PrefillRule, Step
from abruzzi.engine.weights.random_tensors import RandomTensors
from abruzzi.engine.weights.reader import TensorReader
from abruzzi.kernels import ops
from abruzzi.quant.ggml import GgmlMatrix

# By the names under which the compiled step reads them (csrc/bind/model.cpp) and kept weights lie
# on the disk. None: there is no such part.
PackedAttention = Mapping[str, ops.Packed | list[ops.Packed] | np.ndarray | None]


StoredMatrix = np.ndarray | GgmlMatrix  # as a checkpoint holds it: numbers, or a GGUF file's blocks


def floats(matrix: StoredMatrix) -> np.ndarray:
    """A matrix that was loaded to be computed on, as the readable step has it: float32."""
    assert isinstance(matrix, np.ndarray), "blocks are for the compiled step"
    return matrix.astype(np.float32, copy=False)


class AttentionWeights(Protocol):
    """A layer's weights as loaded: a frozen dataclass of the kind."""

    def pack(self, weights: WeightMode) -> PackedAttention:
        """Raises ValueError where a weight that is to be rounded is not finite."""
        ...


class PlainAttention(Protocol):
    """The first half of a layer in NumPy."""

    def run(self, index: int, w: Any, x_TD: np.ndarray, step: Step) -> np.ndarray:
        """What attention adds to the normed x: float32 [T, D]. index: the layer's, in the cache. w:
        as loaded."""
        ...


class AttentionKind(PrefillRule, Protocol):
    """Attention of one model. (And `prefill_until`, see PrefillRule.)"""

    def load(self, read: TensorReader) -> AttentionWeights:
        """A layer's weights, by role and part."""
        ...

    def random(self, make: RandomTensors) -> PackedAttention:
        """A layer's packed weights, made at random in the shapes of the inventory."""
        ...

    def sizes(self) -> Mapping[str, object]:
        """What the compiled step needs to know beside the hidden size, by name."""
        ...

    def plain(self) -> PlainAttention:
        """The readable half layer."""
        ...

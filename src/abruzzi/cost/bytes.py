"""Bytes: of the weights as the engine holds them in each mode, of the cache, and what a decode step
reads.

Modes are the engine's weight modes (arch/modes.py), applied to a checkpoint as K2-Thinking ships
it: routed experts in INT4, the rest bfloat16. `bf16` is that checkpoint before it was quantized.
Matrices are whole tiles, and the key part of MLA's up-projection is held twice, so that what stands
here is what `NativeRunner.weight_bytes` says.
"""

from __future__ import annotations

from abruzzi.arch import ModelConfig
from abruzzi.arch.modes import FORMATS, WEIGHT_MODES, held_format
from abruzzi.arch.tensors import Tensor

UNQUANTIZED = "bf16"
MODES = (UNQUANTIZED, *WEIGHT_MODES)
BFLOAT16, FLOAT32 = 2, 4


def weights_bytes(config: ModelConfig, mode: str) -> int:
    """All weights, norms included. Raises ValueError for an unknown mode."""
    return sum(held_bytes(t, *_planned(t, mode)) * t.count for t in config.tensors())


def held_bytes(tensor: Tensor, stored: str, mode: str) -> int:
    """What the engine holds of one tensor in one of its modes.

    stored: its dtype in the checkpoint: float32, bfloat16, float16 or int4. Raises ValueError for
    an unknown mode."""
    held = held_format(tensor.role, stored, mode)
    if len(tensor.shape) == 1:
        return FLOAT32 * tensor.size
    if tensor.role == "embedding":  # rows are looked up, so it is no tiles
        return FORMATS[held].bits // 8 * tensor.size
    return sum(p.count * FORMATS[held].matrix_bytes(p.rows, p.columns) for p in tensor.pieces)


def read_bytes(tensor: Tensor, stored: str, mode: str, batch: int) -> float:
    """What of that a decode step of `batch` sequences reads on average: of the embedding a row
    each, of an expert its share of the steps that use it, of a split matrix the pieces that decode
    needs."""
    held = held_bytes(tensor, stored, mode)
    if tensor.role == "embedding":
        return batch * held / tensor.shape[0]
    if tensor.experts:
        return held * experts_touched(tensor.experts, tensor.chosen, batch) / tensor.experts
    idle = [p for p in tensor.split if not p.decoded]
    form = FORMATS[held_format(tensor.role, stored, mode)]
    return held - sum(p.count * form.matrix_bytes(p.rows, p.columns) for p in idle)


def kv_bytes_per_token(config: ModelConfig, number_bytes: int = BFLOAT16) -> int:
    """What one token leaves in the cache of all layers, without the engine's padding
    (capacity.py)."""
    return config.num_hidden_layers * sum(config.cached) * number_bytes


def experts_touched(experts: int, chosen: int, batch: int) -> float:
    """How many of a layer's experts a batch of tokens uses on average, if each goes through
    `chosen`, evenly.

    Raises ValueError for an empty batch."""
    if batch < 1:
        raise ValueError(f"batch={batch}; expected 1 or more")
    return experts * (1 - (1 - chosen / experts) ** batch)


def decode_bytes(
    config: ModelConfig, mode: str, batch: int = 1, context: int = 0, kv_number_bytes: int = BFLOAT16
) -> float:
    """What one step of `batch` sequences reads: every weight that it uses once, and what `context`
    tokens per sequence left in the cache once (absorbed MLA: one read for all heads)."""
    read = sum(read_bytes(t, *_planned(t, mode), batch) * t.count for t in config.tensors())
    return read + batch * context * kv_bytes_per_token(config, kv_number_bytes)


def _planned(tensor: Tensor, mode: str) -> tuple[str, str]:
    """How a checkpoint stores a tensor, and in which weight mode the engine holds it, for one of
    MODES."""
    if mode not in MODES:
        raise ValueError(f"weights {mode!r} is no mode; expected one of {', '.join(MODES)}")
    if mode == UNQUANTIZED:
        return "bfloat16", "native"
    return "int4" if tensor.role == "routed_experts" else "bfloat16", mode

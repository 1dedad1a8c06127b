"""Will a checkpoint run on this machine: memory of the weights and of the cache, before anything is loaded.

Pure arithmetic on names, shapes and stored dtypes; the caller reads those from headers and measures the
machine. `loaded_bytes` is the only place that says what the engine makes of a stored tensor: whoever changes
the engine's layouts changes it, and tests/e2e/test_fit_command.py says by how much it is off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from abruzzi.config import ModelConfig
from abruzzi.cost.bytes import BFLOAT16, FLOAT32, experts_touched

CACHE_SHARE = 0.5  # of the memory that the weights leave free: what the engine gives to the latent cache at most
EMBEDDING, KV_UP = "model.embed_tokens.weight", ".self_attn.kv_b_proj.weight"
ROUTER, EXPERTS = ".mlp.gate.weight", ".mlp.experts."


@dataclass(frozen=True, slots=True)
class Stored:
    """A logical tensor as its header describes it: dtype "float32", "bfloat16", "float16" or "int4"."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """weights_bytes: in memory. bytes_per_token: read from memory for one token at
    `context`. max_context: 0 where not even the weights fit; never more than the model was made for."""

    weights_bytes: int
    kv_bytes_per_token: int
    available_bytes: int
    context: int
    max_context: int
    bytes_per_token: float

    @property
    def needed_bytes(self) -> int:
        """Weights, and the cache of one sequence of `context` tokens."""
        return self.weights_bytes + self.context * self.kv_bytes_per_token

    @property
    def weights_fit(self) -> bool:
        return self.weights_bytes < self.available_bytes

    @property
    def fits(self) -> bool:
        return self.weights_fit and self.context <= self.max_context


def capacity(
    config: ModelConfig, tensors: Iterable[Stored], context: int, available: int, weights: str = "native"
) -> Capacity:
    """Hold what a model needs, in a mode of weights, against `available` bytes of memory.

    Raises ValueError for a context that the model was not made for."""
    if not 1 <= context <= config.max_position_embeddings:
        raise ValueError(
            f"context {context}; expected 1 to {config.max_position_embeddings}, the model's max_position_embeddings"
        )
    kv = cache_bytes_per_token(config)
    tensors = list(tensors)
    total = sum(loaded_bytes(t, config, weights) for t in tensors)
    room = max(0, available - total) * CACHE_SHARE
    return Capacity(
        weights_bytes=total,
        kv_bytes_per_token=kv,
        available_bytes=available,
        context=context,
        max_context=min(config.max_position_embeddings, int(room // kv)),
        bytes_per_token=step_bytes(config, tensors, context, weights=weights),
    )


def step_bytes(
    config: ModelConfig, tensors: Iterable[Stored], context: int, batch: int = 1, weights: str = "native"
) -> float:
    """What one step of `batch` sequences, each with `context` tokens behind it, reads from memory: every weight that
    it uses once, so of the experts as many as the batch touches on average if it is routed evenly."""
    read = sum(read_bytes(t, config, batch, weights) for t in tensors)
    return read + batch * context * cache_bytes_per_token(config)


# What the engine makes of a checkpoint: the layouts of csrc/matrix.h, engine/weights/packing.py and
# engine/step/plain.py, with which these change.

_TILE_ROWS, _TILE_COLUMNS = 16, 32
_TILE_BYTES = {"int4": 288, "int8": 544, "bfloat16": 1024, "float32": 2048}
_DENSE = {"int8-dense": "int8", "all-4-bit": "int4"}


def loaded_bytes(tensor: Stored, config: ModelConfig, weights: str = "native") -> int:
    """What the engine holds of one tensor in a mode of weights: matrices as whole tiles; the key/value up-projection
    head by head, its key part a second time, transposed. Raises ValueError for an unknown mode."""
    if weights not in ("native", *_DENSE):
        raise ValueError(f"weights {weights!r}; expected native, {' or '.join(_DENSE)}")
    if len(tensor.shape) == 1:
        return FLOAT32 * tensor.shape[0]
    rows, columns = tensor.shape
    if tensor.name == EMBEDDING:
        return rows * columns * (BFLOAT16 if tensor.dtype == "bfloat16" else FLOAT32)
    kind = held_as(tensor, weights)
    if tensor.name.endswith(KV_UP):
        return sum(_kv_up_bytes(kind, config))
    return _tile_bytes(rows, columns, kind)


def read_bytes(tensor: Stored, config: ModelConfig, batch: int = 1, weights: str = "native") -> float:
    """What of that one decode step of `batch` tokens reads: of the embedding a row each, of the experts those that
    they are sent to, of the key/value up-projection what the absorbed form needs."""
    size = loaded_bytes(tensor, config, weights)
    if tensor.name == EMBEDDING:
        return batch * size / config.vocab_size
    if EXPERTS in tensor.name:
        return size * experts_touched(config, batch) / config.n_routed_experts
    return size - _kv_up_bytes(held_as(tensor, weights), config)[1] if tensor.name.endswith(KV_UP) else size


def held_as(tensor: Stored, weights: str) -> str:
    """How the engine holds a matrix: INT4 and bfloat16 as they are stored and the rest as float32 (native), or rounded,
    all but the router; experts that are stored unquantized only in all-4-bit."""
    if weights == "native" or tensor.name.endswith(ROUTER):
        return "float32" if tensor.dtype == "float16" else tensor.dtype
    if EXPERTS not in tensor.name:
        return _DENSE[weights]
    return "int4" if weights == "all-4-bit" else held_as(tensor, "native")


def cache_bytes_per_token(config: ModelConfig) -> int:
    """Latent and rotary key of all layers, float32, each filled up to whole vectors."""
    numbers = _padded(config.kv_lora_rank, 32) + _padded(config.qk_rope_head_dim, 16)
    return FLOAT32 * config.num_hidden_layers * numbers


def _kv_up_bytes(dtype: str, c: ModelConfig) -> tuple[int, int, int]:
    """All heads' key parts for the absorbed form, key parts for the naive one, value parts."""
    shapes = (
        (c.kv_lora_rank, c.qk_nope_head_dim),
        (c.qk_nope_head_dim, c.kv_lora_rank),
        (c.v_head_dim, c.kv_lora_rank),
    )
    absorb, expand, values = (c.num_attention_heads * _tile_bytes(*shape, dtype) for shape in shapes)
    return absorb, expand, values


def _tile_bytes(rows: int, columns: int, dtype: str) -> int:
    tiles = _padded(rows, _TILE_ROWS) // _TILE_ROWS * (_padded(columns, _TILE_COLUMNS) // _TILE_COLUMNS)
    return tiles * _TILE_BYTES[dtype]


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process may fill without swapping: what Linux calls available, or what is left of the
    control group's limit, a container's for instance, where that is less. Raises OSError on other systems."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([kilobytes * 1024, *_left_in_group(root / "sys/fs/cgroup")])


def _left_in_group(group: Path) -> list[int]:
    """Version 2, then version 1 of control groups; nothing where there is no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if not (group / limit).is_file() or not (group / used).is_file():
            continue
        most = (group / limit).read_text().strip()
        if most == "max" or int(most) >= 1 << 60:  # version 1 writes a huge number for none
            return []
        # Pages of files that were read count as used, but are dropped when memory runs short.
        statistics = (group / limit).with_name("memory.stat")
        dropped = 0
        if statistics.is_file():
            rows = dict(line.split() for line in statistics.read_text().splitlines())
            dropped = int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
        return [max(0, int(most) - int((group / used).read_text()) + dropped)]
    return []

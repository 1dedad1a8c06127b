"""Will a checkpoint run on this machine: memory of the weights and of the cache, before anything is
loaded.

Pure arithmetic on shapes and stored dtypes; the caller reads those from headers and measures the
machine. What the engine makes of a stored tensor is bytes.py's rule; tests/e2e/test_fit_command.py
says by how much it is off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from abruzzi.arch import ModelConfig
from abruzzi.arch.tensors import Tensor
from abruzzi.cost.bytes import FLOAT32, held_bytes, read_bytes

CACHE_SHARE = 0.5  # of the memory that the weights leave free: what the engine gives to the latent cache at most


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of the inventory as a checkpoint stores it: dtype "float32", "bfloat16", "float16"
    or "int4"."""

    tensor: Tensor
    dtype: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """weights_bytes: in memory. bytes_per_token: read from memory for one token at `context`.
    max_context: 0 where not even the weights fit; never more than the model was made for."""

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
    total = loaded_bytes(tensors, weights)
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
    """What one step of `batch` sequences, each with `context` tokens behind it, reads from memory:
    every weight that it uses once, so of the experts as many as the batch touches on average if it
    is routed evenly."""
    read = sum(read_bytes(t.tensor, t.dtype, weights, batch) for t in tensors)
    return read + batch * context * cache_bytes_per_token(config)


def loaded_bytes(tensors: Iterable[Stored], weights: str = "native") -> int:
    """What the engine holds of them in a mode of weights. Raises ValueError for an unknown mode."""
    return sum(held_bytes(t.tensor, t.dtype, weights) for t in tensors)


def cache_bytes_per_token(config: ModelConfig) -> int:
    """What one token takes in the cache of all layers, float32."""
    return FLOAT32 * config.num_hidden_layers * sum(config.cache_row)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process may fill without swapping: what Linux calls available, or what is
    left of the control group's limit, a container's for instance, where that is less. Raises
    OSError on other systems."""
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

"""Model FLOP utilization (MFU) of a run: FLOP of a step, peak, time left.

FLOP are those of the model, not of the implementation: forward and backward of every product,
causal attention within each document, no padding, nothing for what activation checkpointing
computes twice, nothing for the optimizer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch

from abruzzi.arch import ModelConfig
from abruzzi.cost.flops import training
from abruzzi.data.packing import Row


def step_flop(config: ModelConfig, rows: Iterable[Row]) -> float:
    """FLOP of one forward and backward pass over these rows (room `cost` has the formulas)."""
    one = training(config, 2)  # of a token that attends to one position
    sizes = [size for row in rows for size in row.document_sizes()]
    return one.linear * sum(sizes) + one.attention * sum(size * size / 2 for size in sizes)


def measured_peak(device: str, dtype: torch.dtype, seconds: float = 1.0, size: int = 2048) -> float:
    """FLOP per second of a product of two square matrices here and now: the best of several."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best, end = float("inf"), time.monotonic() + seconds
    torch.mm(a, b)  # the first one also starts threads and chooses kernels
    while time.monotonic() < end or best == float("inf"):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


class Pace:
    """Seconds per step, recent steps counting more, so that time left follows a machine that gets
    busy."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def add(self, seconds: float) -> None:
        """One more step was done."""
        self._mean = seconds if self._mean is None else 0.9 * self._mean + 0.1 * seconds

    def left(self, steps: int) -> float:
        """Seconds that so many steps will take."""
        return steps * (self._mean or 0.0)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

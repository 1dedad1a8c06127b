"""Fast operations on the CPU, each with a readable NumPy twin. Arrays and numbers only."""

from __future__ import annotations

from abruzzi.kernels.dispatch import isa, supported_isas, threads

__all__ = ["isa", "supported_isas", "threads"]

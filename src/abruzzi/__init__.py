"""abruzzi: the route to a reasoning agent that you own.

Importing this package is cheap on purpose: it pulls in neither numpy nor torch. Rooms are imported
when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from abruzzi.engine.llm import LLM
    from abruzzi.engine.weights.packing import Precision, WeightMode

__version__ = "0.1.0.dev0"

__all__ = ["__version__", "load", "nano_path"]


def load(
    path: str | Path,
    *,
    weights: WeightMode = "native",
    precision: Precision = "exact",
    threads: int | None = None,
    cache_tokens: int | None = None,
    max_running: int | None = None,
) -> LLM:
    """A model that runs on this machine: `nano`, which ships with abruzzi, or a directory in
    Hugging Face layout.

    weights "int8-dense" and "all-4-bit", and precision "fast", trade exactness for speed
    (engine/weights/packing.py). threads: None = ABRUZZI_THREADS, or every core. cache_tokens: room
    in the cache, of all conversations together; None = four full contexts, or what half of the free
    memory holds. max_running: how many sequences share a step. Raises FileNotFoundError or
    ValueError with a hint. Needs no torch."""
    from abruzzi.engine.llm import LLM

    place = nano_path() if str(path) == "nano" else path
    return LLM.load(place, cache_tokens, threads, precision, weights, max_running)


def nano_path() -> Path:
    """Where the checkpoint lies that ships with the package."""
    from pathlib import Path

    return Path(__file__).resolve().parent / "nano"

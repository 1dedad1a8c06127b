"""bf16 or fp32 checkpoint -> the same model with routed experts in INT4, as K2-Thinking ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from abruzzi.checkpoint.read import Checkpoint, open_checkpoint
from abruzzi.checkpoint.write import save_checkpoint

# What travels along: text files and Kimi's vocabulary. Code and pickles do not.
_CARRIED = (".json", ".jinja", ".txt", ".md")
_NOT_CARRIED = ("config.json", "model.safetensors.index.json")


def quantize_checkpoint(source: str | Path, target: str | Path, *, overwrite: bool = False) -> None:
    """Write `source` to `target` with INT4 experts; one shard at a time is in memory.

    Raises ValueError for a source that is INT4 already, and what reading and writing raise."""
    with open_checkpoint(source) as checkpoint:
        if checkpoint.config.int4 is not None:
            raise ValueError(f"{source} is stored in INT4 already; hint: quantize the bf16 checkpoint it came from")
        carried = {
            f.name: f.read_bytes()
            for f in sorted(Path(source).iterdir())
            if (f.suffix in _CARRIED or f.name == "tiktoken.model") and f.name not in _NOT_CARRIED
        }
        save_checkpoint(
            target, checkpoint.config, _Lazy(checkpoint), int4=True, extra_files=carried, overwrite=overwrite
        )


class _Lazy(Mapping[str, np.ndarray]):
    """A checkpoint as a mapping that reads an array when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names = checkpoint.names()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._checkpoint.array(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

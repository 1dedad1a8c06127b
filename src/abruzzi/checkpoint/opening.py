"""The door to a checkpoint, whichever kind of files it lies in."""

from __future__ import annotations

from pathlib import Path

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint.gguf import GgufCheckpoint
from abruzzi.checkpoint.read import Checkpoint, hint_for_absent
from abruzzi.quant.gguf_file import SUFFIX


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open and check a directory in Hugging Face layout, or a GGUF file.

    Raises FileNotFoundError for a directory or file that is absent; ValueError, in one line that
    lists up to ten tensors with their files and a hint, for whatever does not fit."""
    folder = Path(path)
    if folder.suffix == SUFFIX and folder.is_file():
        return GgufCheckpoint(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder}; hint: {hint_for_absent(folder)}")
    return Checkpoint(ModelConfig.load(folder), folder)


def load_config(path: str | Path) -> ModelConfig:
    """The shape of a checkpoint, of a directory or a GGUF file. Raises what opening it raises."""
    if Path(path).suffix == SUFFIX and Path(path).is_file():
        with open_checkpoint(path) as checkpoint:
            return checkpoint.config
    return ModelConfig.load(path)

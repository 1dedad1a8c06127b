"""The tokenizer of a checkpoint, whichever kind of files it lies in."""

from __future__ import annotations

from pathlib import Path

from abruzzi import tokenizer
from abruzzi.quant.gguf_file import SUFFIX, open_shards
from abruzzi.tokenizer import Tokenizer


def tokenizer_of(path: Path) -> Tokenizer:
    """Of a directory in Hugging Face layout, or of a GGUF file. Raises ValueError with the path and a
    hint."""
    if path.suffix == SUFFIX and path.is_file():
        return tokenizer.from_gguf(open_shards(path)[0].metadata, str(path))
    return tokenizer.load(path)

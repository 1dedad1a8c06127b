"""Checkpoints in Hugging Face layout: config.json, safetensors, tokenizer files. No torch, no
pickle."""

from __future__ import annotations

from abruzzi.checkpoint.convert import quantize_checkpoint
from abruzzi.checkpoint.read import Checkpoint, open_checkpoint
from abruzzi.checkpoint.write import save_checkpoint

__all__ = ["Checkpoint", "open_checkpoint", "quantize_checkpoint", "save_checkpoint"]

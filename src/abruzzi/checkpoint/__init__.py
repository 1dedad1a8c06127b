"""Checkpoints in Hugging Face layout: config.json, safetensors, tokenizer files. No torch, no
pickle."""

from __future__ import annotations

from abruzzi.checkpoint.convert import quantize_checkpoint
from abruzzi.checkpoint.opening import load_config, open_checkpoint
from abruzzi.checkpoint.read import Checkpoint
from abruzzi.checkpoint.write import save_checkpoint

__all__ = ["Checkpoint", "load_config", "open_checkpoint", "quantize_checkpoint", "save_checkpoint"]

"""The door that scripts use: `from abruzzi.config import ModelConfig`. The house itself imports
`abruzzi.arch`."""

from __future__ import annotations

from abruzzi.arch import ModelConfig

__all__ = ["ModelConfig"]

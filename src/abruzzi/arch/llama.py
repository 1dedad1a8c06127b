"""Llama 2 and 3, and what is built like them (SmolLM2, Mistral's first ones): GQA and a dense SwiGLU.

Source: Llama 3 report (arXiv 2407.21783), section 3.2; Meta's inference code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from abruzzi.arch.config import family
from abruzzi.arch.gqa import DenseConfig


@family("llama")
@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig(DenseConfig):
    """The shape of a model. Field names are config.json's keys."""

    FIXED: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu", "mlp_bias": False}
    STATED: ClassVar[tuple[str, ...]] = ("rms_norm_eps",)

    model_type: str = "llama"
    architectures: tuple[str, ...] | None = ("LlamaForCausalLM",)

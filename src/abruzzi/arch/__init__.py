"""Model architectures: config.json, the inventory of a model's tensors, RoPE and INT4 rules. A
family is one file.

A new family: its dataclass in a file of its own with `@family("its_model_type")`, and a line here.
Plain Python, no numpy and no torch: every other room may import this one.
"""

from __future__ import annotations

from abruzzi.arch.deepseek import DeepseekConfig
from abruzzi.arch.glm import Glm4MoeLiteConfig
from abruzzi.arch.int4 import Int4Scheme
from abruzzi.arch.llama import LlamaConfig
from abruzzi.arch.qwen3 import Qwen3Config, Qwen3MoeConfig
from abruzzi.arch.rope import YarnScaling

# What the house computes on, and what a config made in code is by default. `ModelConfig.load` reads
# every family; one of another class offers the same properties (docs/change.md).
ModelConfig = DeepseekConfig

__all__ = [
    "Glm4MoeLiteConfig",
    "Int4Scheme",
    "LlamaConfig",
    "ModelConfig",
    "Qwen3Config",
    "Qwen3MoeConfig",
    "YarnScaling",
]

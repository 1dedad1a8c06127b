"""A tiny model's config and loud random weights, and ways to damage a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint.layout import expected_tensors

CONFIG = ModelConfig(
    vocab_size=21,
    hidden_size=64,
    intermediate_size=40,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    n_routed_experts=4,
    num_experts_per_tok=2,
    kv_lora_rank=32,
    q_lora_rank=24,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
)
UP = "model.layers.1.mlp.experts.3.up_proj.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


def weights(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 arrays for every tensor, no two alike."""
    rng = np.random.default_rng(seed)
    specs = expected_tensors(replace(config, quantization_config=None))
    return {name: rng.standard_normal(spec.shape).astype(np.float32) for name, spec in specs.items()}


def rewrite_header(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Let `change` edit the header of a file in place (or return another one); the data stay."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    other = change(header)
    text = json.dumps(header if other is None else other).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])

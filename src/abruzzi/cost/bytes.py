"""Bytes: of the weights in each mode, of the cache, and what one decoded token reads.

Modes: what a weight takes, by the part of the model it belongs to.

    bf16        2 bytes everywhere (the router's bias 4, as checkpoints store it)
    native      routed experts INT4 in groups of 32 with bf16 scales (4.5 bit), the rest bf16: K2-Thinking
    int8-dense  as native, but matrices outside the routed experts INT8 with a float32 scale per row
    all-4-bit   llama.cpp's Q4_0: 18 bytes per 32 weights, the head Q6_K (210 per 256), router, norms float32

What this project's engine holds in memory is another rule (capacity.py:loaded_bytes).
"""

from __future__ import annotations

from abruzzi.config import ModelConfig
from abruzzi.cost.parameters import Part, parts

MODES = ("bf16", "native", "int8-dense", "all-4-bit")
INT4_GROUP = 32
BFLOAT16, FLOAT32 = 2, 4
_VECTORS = ("norm", "router_bias")


def weights_bytes(config: ModelConfig, mode: str) -> int:
    """All weights. Raises ValueError for an unknown mode."""
    return sum(part_bytes(p, mode) * p.count for p in parts(config))


def part_bytes(part: Part, mode: str) -> int:
    """One tensor of this part in this mode. Raises ValueError for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"weights {mode!r} is no mode; expected one of {', '.join(MODES)}")
    if part.kind == "router_bias" or (mode == "all-4-bit" and part.kind in ("norm", "router")):
        return FLOAT32 * part.size
    if mode == "all-4-bit":
        block, size = (256, 210) if part.kind == "head" else (32, 18)
        return part.rows * -(-part.columns // block) * size
    if part.kind == "routed_experts" and mode != "bf16":
        return int4_bytes(part.rows, part.columns)
    if mode == "int8-dense" and part.kind not in _VECTORS:
        return part.size + FLOAT32 * part.rows
    return BFLOAT16 * part.size


def int4_bytes(rows: int, columns: int) -> int:
    """compressed-tensors' packed words and bf16 scales (without the 16 bytes of weight_shape)."""
    return rows * (-(-columns // 8) * 4 + -(-columns // INT4_GROUP) * BFLOAT16)


def kv_bytes_per_token(config: ModelConfig, number_bytes: int = BFLOAT16) -> int:
    """Latent and rotary key of one token in all layers."""
    return config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * number_bytes


def experts_touched(config: ModelConfig, batch: int) -> float:
    """Of each layer's routed experts, how many a batch of tokens uses on average, if routed evenly."""
    if batch < 1:
        raise ValueError(f"batch={batch}; expected 1 or more")
    share = config.num_experts_per_tok / config.n_routed_experts
    return config.n_routed_experts * (1 - (1 - share) ** batch)


def decode_bytes(
    config: ModelConfig, mode: str, batch: int = 1, context: int = 0, kv_number_bytes: int = BFLOAT16
) -> float:
    """What one step of `batch` sequences reads: every weight that it uses once, of the embedding a row per
    sequence, and the latents of `context` tokens per sequence once (absorbed MLA: one read for all heads)."""
    read = 0.0
    touched = experts_touched(config, batch)
    for part in parts(config):
        size = part_bytes(part, mode)
        if part.kind == "embedding":
            read += batch * size / part.rows
        elif part.kind == "routed_experts":
            read += size * part.count * touched / config.n_routed_experts
        else:
            read += size * part.count
    return read + batch * context * kv_bytes_per_token(config, kv_number_bytes)

"""Which tensors a config calls for: names, shapes, which are stored in INT4, and in which dtype.

A *logical* tensor is what the model computes with (`...up_proj.weight`). A *stored* tensor is what lies
in the file: the same, or for an INT4 matrix the three parts weight_packed, weight_scale, weight_shape.
Names are those of DeepSeek-V3 in Hugging Face's layout; the torch modules carry the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from abruzzi.config import Int4Scheme, ModelConfig
from abruzzi.quant.int4 import PER_WORD, is_quantized

WRITABLE = {"bfloat16": "BF16", "float32": "F32"}
_READABLE = ("F32", "BF16", "F16")
# The selection bias decides which expert is chosen; rounding it would change routes.
_ALWAYS_FLOAT32 = ".e_score_correction_bias"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A logical tensor. int4: stored packed."""

    shape: tuple[int, ...]
    int4: bool = False


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """A stored tensor: its shape and the safetensors dtypes that it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every logical tensor of the model, from the embedding to the head.

    Raises ValueError where the config asks for INT4 on a width that its groups do not divide."""
    scheme = config.int4
    return {name: TensorSpec(shape, _is_int4(name, shape, scheme)) for name, shape in _shapes(config)}


def stored_tensors(config: ModelConfig) -> dict[str, StoredSpec]:
    """Every tensor that the files must hold, and no other."""
    scheme = config.int4
    stored: dict[str, StoredSpec] = {}
    for name, spec in expected_tensors(config).items():
        if scheme is None or not spec.int4:
            stored[name] = StoredSpec(spec.shape, _READABLE)
            continue
        packed, scale, shape = int4_parts(name)
        rows, width = spec.shape
        stored[packed] = StoredSpec((rows, -(-width // PER_WORD)), ("I32",))
        stored[scale] = StoredSpec((rows, width // scheme.group_size), ("BF16",))
        stored[shape] = StoredSpec((2,), ("I64", "I32"))
    return stored


def written_dtype(stored_name: str, spec: StoredSpec, dtype: str) -> str:
    """The safetensors dtype that a checkpoint of `dtype` ("bfloat16", "float32") is written with."""
    if spec.dtypes != _READABLE:
        return spec.dtypes[0]
    return "F32" if stored_name.endswith(_ALWAYS_FLOAT32) else WRITABLE[dtype]


def int4_parts(name: str) -> tuple[str, str, str]:
    """Names of the packed words, the scales and the shape of the matrix `name` (`....weight`)."""
    return f"{name}_packed", f"{name}_scale", f"{name}_shape"


def is_ignored(stored_name: str, config: ModelConfig) -> bool:
    """Stored tensors that this model does not use, by rule: layers of multi-token prediction, and the
    rotary frequencies that old checkpoints carry although they follow from the config."""
    layer = re.match(r"model\.layers\.(\d+)\.", stored_name)
    if layer is None:
        return False
    beyond = int(layer[1]) - config.num_hidden_layers
    return 0 <= beyond < config.num_nextn_predict_layers or stored_name.endswith(".self_attn.rotary_emb.inv_freq")


def _is_int4(name: str, shape: tuple[int, ...], scheme: Int4Scheme | None) -> bool:
    if scheme is None or not is_quantized(name.removesuffix(".weight"), scheme):
        return False
    if shape[1] % scheme.group_size:
        raise ValueError(f"{name} has {shape[1]} columns; INT4 expects a multiple of {scheme.group_size}")
    return True


def _shapes(c: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (c.vocab_size, c.hidden_size)
    for index in range(c.num_hidden_layers):
        at = f"model.layers.{index}"
        yield f"{at}.input_layernorm.weight", (c.hidden_size,)
        yield from _attention(c, f"{at}.self_attn")
        yield f"{at}.post_attention_layernorm.weight", (c.hidden_size,)
        if not c.is_moe_layer(index):
            yield from _mlp(f"{at}.mlp", c.hidden_size, c.intermediate_size)
            continue
        yield f"{at}.mlp.gate.weight", (c.n_routed_experts, c.hidden_size)
        yield f"{at}.mlp.gate.e_score_correction_bias", (c.n_routed_experts,)
        for expert in range(c.n_routed_experts):
            yield from _mlp(f"{at}.mlp.experts.{expert}", c.hidden_size, c.moe_intermediate_size)
        yield from _mlp(f"{at}.mlp.shared_experts", c.hidden_size, c.n_shared_experts * c.moe_intermediate_size)
    yield "model.norm.weight", (c.hidden_size,)
    yield "lm_head.weight", (c.vocab_size, c.hidden_size)


def _attention(c: ModelConfig, at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries = c.num_attention_heads * c.qk_head_dim
    if c.q_lora_rank is None:
        yield f"{at}.q_proj.weight", (queries, c.hidden_size)
    else:
        yield f"{at}.q_a_proj.weight", (c.q_lora_rank, c.hidden_size)
        yield f"{at}.q_a_layernorm.weight", (c.q_lora_rank,)
        yield f"{at}.q_b_proj.weight", (queries, c.q_lora_rank)
    yield f"{at}.kv_a_proj_with_mqa.weight", (c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size)
    yield f"{at}.kv_a_layernorm.weight", (c.kv_lora_rank,)
    yield f"{at}.kv_b_proj.weight", (c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
    yield f"{at}.o_proj.weight", (c.hidden_size, c.num_attention_heads * c.v_head_dim)


def _mlp(at: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.gate_proj.weight", (inner, hidden)
    yield f"{at}.up_proj.weight", (inner, hidden)
    yield f"{at}.down_proj.weight", (hidden, inner)

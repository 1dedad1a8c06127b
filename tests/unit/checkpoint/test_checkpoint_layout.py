"""The list of tensors, against numbers published for Kimi K2 and shapes from DeepSeek-V3's
layout."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tiny_weights import CONFIG

from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.checkpoint.layout import expected_tensors, stored_tensors, written_dtype
from abruzzi.checkpoint.safetensors_file import DTYPES

K2 = ModelConfig(
    model_type="kimi_k2",
    vocab_size=163840,
    hidden_size=7168,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    num_hidden_layers=61,
    num_attention_heads=64,
    n_routed_experts=384,
    num_experts_per_tok=8,
    kv_lora_rank=512,
    q_lora_rank=1536,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
)


def test_k2_has_its_parameters_and_its_bytes() -> None:
    k2 = K2.with_int4(Int4Scheme())
    specs, stored = expected_tensors(k2), stored_tensors(k2)
    experts = sum(math.prod(s.shape) for s in specs.values() if s.int4)
    total = sum(math.prod(s.shape) for s in specs.values())
    assert (round(experts / 1e8), round(total / 1e8)) == (10147, 10264)  # 1014.7 and 1026.4 billion
    size = sum(math.prod(s.shape) * DTYPES[written_dtype(s, "bfloat16")].itemsize for s in stored.values())
    assert round(size / 1e9) == 594  # gigabytes, as its users report
    assert sum(s.int4 for s in specs.values()) == 60 * 384 * 3
    assert len(stored) == len(specs) + 2 * 60 * 384 * 3


def test_k2_shapes() -> None:
    specs = {name: spec.shape for name, spec in expected_tensors(K2).items()}
    at = "model.layers.60"
    for name, shape in {
        "model.embed_tokens.weight": (163840, 7168),
        f"{at}.self_attn.q_a_proj.weight": (1536, 7168),
        f"{at}.self_attn.q_b_proj.weight": (64 * 192, 1536),
        f"{at}.self_attn.kv_a_proj_with_mqa.weight": (576, 7168),
        f"{at}.self_attn.kv_b_proj.weight": (64 * 256, 512),
        f"{at}.self_attn.o_proj.weight": (7168, 8192),
        f"{at}.mlp.gate.weight": (384, 7168),
        f"{at}.mlp.gate.e_score_correction_bias": (384,),
        f"{at}.mlp.experts.383.down_proj.weight": (7168, 2048),
        f"{at}.mlp.shared_experts.up_proj.weight": (2048, 7168),
        "model.layers.0.mlp.gate_proj.weight": (18432, 7168),
        "lm_head.weight": (163840, 7168),
    }.items():
        assert specs[name] == shape, name
    assert f"{at}.self_attn.q_proj.weight" not in specs and "model.layers.0.mlp.gate.weight" not in specs
    short = expected_tensors(replace(CONFIG, q_lora_rank=None, n_shared_experts=2))
    assert short["model.layers.1.self_attn.q_proj.weight"].shape == (2 * 24, 64)
    assert short["model.layers.1.mlp.shared_experts.down_proj.weight"].shape == (64, 64)
    narrow = expected_tensors(replace(CONFIG, v_head_dim=12))
    assert narrow["model.layers.1.self_attn.kv_b_proj.weight"].shape == (2 * (16 + 12), 32)
    assert narrow["model.layers.1.self_attn.o_proj.weight"].shape == (64, 2 * 12)
    assert not any("q_a" in name or "q_b" in name for name in short)


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("model.layers.2.self_attn.o_proj.weight", True),  # 2 layers, so this is the first of multi-token prediction
        ("model.layers.2.shared_head.norm.weight", True),
        ("model.layers.3.enorm.weight", False),
        ("model.layers.1.self_attn.o_proj.weight", False),
        ("model.layers.1.enorm.weight", False),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", True),
        ("model.layers.9.mlp.rotary_emb.inv_freq", False),
        ("model.layers.22.enorm.weight", False),
    ],
)
def test_what_is_left_alone(name: str, ignored: bool) -> None:
    assert replace(CONFIG, num_nextn_predict_layers=1).leaves_out(name) == ignored

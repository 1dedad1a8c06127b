"""Named shapes: what speed and memory are measured on where no checkpoint lies. Facts from the
public config.json of each model; `mini` is a small one of Moonlight's family."""

from __future__ import annotations

from typing import Any

from abruzzi.arch.config import Config

_MOONLIGHT: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 163840,
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "n_shared_experts": 2,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "q_lora_rank": None,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.446,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "max_position_embeddings": 8192,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES: dict[str, dict[str, Any]] = {
    "mini": {
        **_MOONLIGHT,
        **{"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096, "moe_intermediate_size": 512},
        **{"num_hidden_layers": 12, "num_attention_heads": 8, "n_shared_experts": 1, "n_routed_experts": 32},
        **{"num_experts_per_tok": 4, "kv_lora_rank": 256},
    },
    "moonlight": _MOONLIGHT,
    "glm-4.7-flash": {
        **_MOONLIGHT,
        **{"model_type": "glm4_moe_lite", "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240},
        **{"moe_intermediate_size": 1536, "num_hidden_layers": 47, "num_attention_heads": 20, "q_lora_rank": 768},
        **{"qk_nope_head_dim": 192, "v_head_dim": 256, "n_shared_experts": 1, "num_experts_per_tok": 4},
        **{"routed_scaling_factor": 1.8, "rope_theta": 1e6, "max_position_embeddings": 202752},
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e7,
        "max_position_embeddings": 262144,
    },
    "qwen3-4b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
}


def config_of_shape(name: str) -> Config:
    """The configuration of one of SHAPES. Raises ValueError for another name."""
    if name not in SHAPES:
        raise ValueError(f"shape {name!r}; expected one of {', '.join(SHAPES)}")
    return Config.from_dict(SHAPES[name])

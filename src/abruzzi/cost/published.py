"""Two published models that every estimate is held against: DeepSeek-V3, whose bill is known, and
Kimi K2.

Sources: DeepSeek-V3 report (arXiv 2412.19437), table 1 and sections 4.1-4.2; Kimi K2 report (arXiv
2507.20534), sections 2.3-2.5; both models' config.json.
"""

from __future__ import annotations

from dataclasses import replace

from abruzzi.arch import ModelConfig

DEEPSEEK_V3 = ModelConfig(
    vocab_size=129280,
    hidden_size=7168,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    num_hidden_layers=61,
    num_attention_heads=128,
    n_routed_experts=256,
    num_experts_per_tok=8,
    kv_lora_rank=512,
    q_lora_rank=1536,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_group=8,
    topk_group=4,
    first_k_dense_replace=3,
    num_nextn_predict_layers=1,
    routed_scaling_factor=2.5,
    max_position_embeddings=163840,
)
KIMI_K2 = replace(
    DEEPSEEK_V3,
    model_type="kimi_k2",
    vocab_size=163840,
    num_attention_heads=64,
    n_routed_experts=384,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    num_nextn_predict_layers=0,
    routed_scaling_factor=2.827,
    max_position_embeddings=262144,
)
SHAPES = {"deepseek-v3": DEEPSEEK_V3, "kimi-k2": KIMI_K2}

PRETRAINING_CONTEXT = 4096  # both
V3_TOKENS, K2_TOKENS = 14.8e12, 15.5e12
# H800 hours of DeepSeek-V3: pre-training, extension of the context, post-training. At 2 dollars,
# 5.576 million.
V3_PRETRAINING_HOURS, V3_CONTEXT_HOURS, V3_POST_TRAINING_HOURS = 2.664e6, 0.119e6, 0.005e6
V3_HOURS = V3_PRETRAINING_HOURS + V3_CONTEXT_HOURS + V3_POST_TRAINING_HOURS

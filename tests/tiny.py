"""A tiny random checkpoint with a real chat tokenizer, for tests of what surrounds a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from abruzzi import tokenizer
from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.tokenizer.train import train_bpe

TEXT = [
    "You are a tiny model. You think, use tools and answer.",
    "functions.calculator:0 ## Return of tool_declare system user assistant",
    'Mia has 12 marbles and buys 30 more. {"expression": "12 + 30"}',
    "the quick brown fox jumps over the lazy dog while seven wizards pack five dozen quality jugs",
]


def vocabulary(size: int = 300) -> tokenizer.Tokenizer:
    """A byte-level BPE with Kimi's control tokens."""
    defaults = tokenizer.ChatDefaults(system="You are tiny.", preserve_thinking=True, cut_long_runs=False)
    return tokenizer.from_json(train_bpe(TEXT, size), defaults)


def write(folder: Path, seed: int = 0, context: int = 256, int4: bool = True, padding: int = 0) -> Path:
    """A checkpoint directory of random weights. padding: ids of the model behind the
    tokenizer's."""
    vocab = vocabulary()
    config = ModelConfig(
        vocab_size=vocab.vocab_size + padding,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        max_position_embeddings=context,
        bos_token_id=vocab.id_of("[BOS]"),
        eos_token_id=vocab.id_of("<|im_end|>"),
    )
    rng = np.random.default_rng(seed)
    tensors = {
        name: (rng.uniform(0.5, 1.5, spec.shape) if len(spec.shape) == 1 else rng.normal(0, 0.3, spec.shape)).astype(
            np.float32
        )
        for name, spec in expected_tensors(config).items()
    }
    files = tokenizer.chat_files(vocab, max_context=context)
    save_checkpoint(folder, config, tensors, int4=int4, extra_files=files)
    return folder

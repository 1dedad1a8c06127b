"""A GGUF file of random weights, of one of our named shapes with grouped-query attention.

    python bench/peers/make_gguf.py llama-1b q4_0|q4_k OUT.gguf

Needs the package gguf. Codes are random bits, scales of ordinary size; norms are ones. q4_k: Q4_K with
half of v and down and the head in Q6_K, as files called Q4_K_M have it; q4_0: Q4_0, head Q6_K.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

from abruzzi.arch import rope
from abruzzi.arch.gguf import FREQUENCIES, tensor_name
from abruzzi.arch.shapes import config_of_shape
from abruzzi.arch.tensors import Tensor

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3moe"}
SCALES = {"Q4_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}  # where a block's float16 numbers lie
MIXED = {"q4_0": ("Q4_0", "Q4_0"), "q4_k": ("Q4_K", "Q6_K")}


def main(arguments: list[str]) -> int:
    shape, quantization, out = arguments
    config = config_of_shape(shape)
    usual, finer = MIXED[quantization]
    writer = gguf.GGUFWriter(out, ARCHITECTURES[config.model_type])
    metadata(writer, config)
    rng = np.random.default_rng(0)
    for tensor in config.tensors():
        for layer in [None] if tensor.layers is None else tensor.layers:
            name = tensor_name(tensor, layer, ())
            rows = (tensor.experts, *tensor.shape) if tensor.experts else tensor.shape
            if len(tensor.shape) == 1:
                writer.add_tensor(name, np.ones(rows, np.float32))
                continue
            kind = kind_of(tensor, layer, usual, finer)
            writer.add_tensor(name, blocks(kind, rows, rng), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {Path(out).stat().st_size / 1e9:.2f} GB of {quantization}")
    return 0


def kind_of(tensor: Tensor, layer: int | None, usual: str, finer: str) -> str:
    if tensor.role in ("head", "embedding"):
        return "Q6_K"
    better = tensor.part in ("v", "down") and layer is not None and layer % 2 == 0
    return "F32" if tensor.role == "router" else finer if better else usual


def blocks(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random blocks, uint8 [..., bytes of a row]."""
    if kind == "F32":
        return rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    count = int(np.prod(shape)) // elements
    data = np.frombuffer(rng.bytes(count * size), np.uint8).reshape(count, size).copy()
    scale = np.float16(0.2 / shape[-1] ** 0.5 / (1 if kind == "Q4_0" else 32))
    for at in SCALES[kind]:
        data[:, at : at + 2] = np.array([scale if at != 2 else scale * 8]).view(np.uint8)
    return data.reshape(*shape[:-1], shape[-1] // elements * size)


def metadata(writer: gguf.GGUFWriter, c) -> None:
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_width)
    writer.add_value_length(c.head_width)
    writer.add_rope_dimension_count(c.head_width)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_vocab_size(c.vocab_size)
    if c.rope_scaling is not None:
        plain = rope.inv_freq(c.head_width, c.rope_theta, None)
        divided = [p / f for p, f in zip(plain, c.rope_inv_freq())]
        writer.add_tensor(FREQUENCIES, np.array(divided, np.float32))
    if c.n_routed_experts:
        writer.add_expert_count(c.n_routed_experts)
        writer.add_expert_used_count(c.num_experts_per_tok)
        writer.add_expert_feed_forward_length(c.moe_intermediate_size)
    # A vocabulary that nobody will use: llama.cpp wants one.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([f"t{i}" for i in range(c.vocab_size)])
    writer.add_token_types([1] * c.vocab_size)
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""A checkpoint's tensors in the form that the runner computes on.

Unquantized matrices become float32. Routed experts that the checkpoint stores in INT4 stay packed. The
key/value up-projection is split per head into its key and value parts, because decode folds the first
into the query and the second into the output (absorbed MLA).

Letters: V vocabulary, D hidden_size, N heads, R kv_lora_rank, P rope dim, K nope dim, H value dim,
Q q_lora_rank, E experts, F expert inner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abruzzi.checkpoint import Checkpoint
from abruzzi.config import ModelConfig
from abruzzi.quant.int4 import Int4Matrix


@dataclass(frozen=True, slots=True)
class Matrix:
    """One [out, in] matrix, float32 or INT4: exactly one of the two is there."""

    dense: np.ndarray | None = None
    int4: Int4Matrix | None = None

    def as_float(self) -> np.ndarray:
        """float32 [out, in]; for INT4 a fresh array each time (it is used and dropped)."""
        if self.dense is not None:
            return self.dense
        assert self.int4 is not None
        return self.int4.dequantize()


@dataclass(frozen=True, slots=True)
class Mlp:
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Attention:
    q_a_QD: np.ndarray | None
    q_a_norm_Q: np.ndarray | None
    q_b: np.ndarray  # [N (K+P), Q], or [N (K+P), D] without q_lora
    kv_a: np.ndarray  # [R+P, D]
    kv_a_norm_R: np.ndarray
    w_uk_NKR: np.ndarray
    w_uv_NHR: np.ndarray
    o: np.ndarray  # [D, N H]


@dataclass(frozen=True, slots=True)
class Moe:
    gate_ED: np.ndarray
    bias_E: np.ndarray
    experts: tuple[Mlp, ...]
    shared: Mlp


@dataclass(frozen=True, slots=True)
class Layer:
    input_norm_D: np.ndarray
    attention: Attention
    post_norm_D: np.ndarray
    mlp: Mlp | Moe


@dataclass(frozen=True, slots=True)
class Weights:
    embed_VD: np.ndarray
    layers: tuple[Layer, ...]
    norm_D: np.ndarray
    head_VD: np.ndarray


def load_weights(checkpoint: Checkpoint) -> Weights:
    """Every tensor of the checkpoint, converted once. Raises what the checkpoint's reader raises."""
    c = checkpoint.config
    return Weights(
        embed_VD=_float(checkpoint, "model.embed_tokens.weight"),
        layers=tuple(_layer(checkpoint, c, i) for i in range(c.num_hidden_layers)),
        norm_D=_float(checkpoint, "model.norm.weight"),
        head_VD=_float(checkpoint, "lm_head.weight"),
    )


def _float(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return np.ascontiguousarray(checkpoint.array(name), dtype=np.float32)


def _matrix(checkpoint: Checkpoint, name: str) -> Matrix:
    if not checkpoint.is_int4(name):
        return Matrix(dense=_float(checkpoint, name))
    stored = checkpoint.packed(name)
    # Copies: the file may be replaced or on a slow disk, and its tensors need not be aligned.
    return Matrix(int4=Int4Matrix(stored.packed.copy(), stored.scale.copy(), stored.shape))


def _mlp(checkpoint: Checkpoint, prefix: str) -> Mlp:
    return Mlp(*(_matrix(checkpoint, f"{prefix}.{part}_proj.weight") for part in ("gate", "up", "down")))


def _layer(checkpoint: Checkpoint, c: ModelConfig, index: int) -> Layer:
    at = f"model.layers.{index}"
    if c.is_moe_layer(index):
        mlp: Mlp | Moe = Moe(
            gate_ED=_float(checkpoint, f"{at}.mlp.gate.weight"),
            bias_E=_float(checkpoint, f"{at}.mlp.gate.e_score_correction_bias"),
            experts=tuple(_mlp(checkpoint, f"{at}.mlp.experts.{e}") for e in range(c.n_routed_experts)),
            shared=_mlp(checkpoint, f"{at}.mlp.shared_experts"),
        )
    else:
        mlp = _mlp(checkpoint, f"{at}.mlp")
    return Layer(
        input_norm_D=_float(checkpoint, f"{at}.input_layernorm.weight"),
        attention=_attention(checkpoint, c, f"{at}.self_attn"),
        post_norm_D=_float(checkpoint, f"{at}.post_attention_layernorm.weight"),
        mlp=mlp,
    )


def _attention(checkpoint: Checkpoint, c: ModelConfig, at: str) -> Attention:
    has_lora = c.q_lora_rank is not None
    kv_b = _float(checkpoint, f"{at}.kv_b_proj.weight")
    kv_b = kv_b.reshape(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
    return Attention(
        q_a_QD=_float(checkpoint, f"{at}.q_a_proj.weight") if has_lora else None,
        q_a_norm_Q=_float(checkpoint, f"{at}.q_a_layernorm.weight") if has_lora else None,
        q_b=_float(checkpoint, f"{at}.q_b_proj.weight" if has_lora else f"{at}.q_proj.weight"),
        kv_a=_float(checkpoint, f"{at}.kv_a_proj_with_mqa.weight"),
        kv_a_norm_R=_float(checkpoint, f"{at}.kv_a_layernorm.weight"),
        w_uk_NKR=np.ascontiguousarray(kv_b[:, : c.qk_nope_head_dim]),
        w_uv_NHR=np.ascontiguousarray(kv_b[:, c.qk_nope_head_dim :]),
        o=_float(checkpoint, f"{at}.o_proj.weight"),
    )

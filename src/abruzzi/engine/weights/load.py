"""A checkpoint's tensors in the form that the runners compute on.

Unquantized matrices become float32, or stay bfloat16 where that is asked for (the compiled step widens them as it
goes). Routed experts that the checkpoint stores in INT4 stay packed. The key/value up-projection is split per head
into its key and value parts, because decode folds the first into the query and the second into the output
(absorbed MLA).

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
    """One [out, in] matrix, plain or INT4: exactly one of the two is there."""

    dense: np.ndarray | None = None
    int4: Int4Matrix | None = None

    def as_float(self) -> np.ndarray:
        """float32 [out, in]; a fresh array each time if it is stored otherwise (it is used and dropped)."""
        if self.dense is not None:
            return self.dense.astype(np.float32, copy=False)
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
    """Every tensor of the checkpoint, converted once to float32. Raises what the checkpoint's reader raises."""
    return Weights(
        embed_VD=load_embedding(checkpoint),
        layers=tuple(load_layer(checkpoint, i) for i in range(checkpoint.config.num_hidden_layers)),
        norm_D=load_norm(checkpoint),
        head_VD=load_head(checkpoint),
    )


def load_embedding(checkpoint: Checkpoint, widen: bool = True) -> np.ndarray:
    """[V, D]. widen False: bfloat16 stays as it is; so everywhere here."""
    return _dense(checkpoint, "model.embed_tokens.weight", widen)


def load_norm(checkpoint: Checkpoint) -> np.ndarray:
    """The final norm's weight, float32 [D]."""
    return _dense(checkpoint, "model.norm.weight")


def load_head(checkpoint: Checkpoint, widen: bool = True) -> np.ndarray:
    """[V, D]"""
    return _dense(checkpoint, "lm_head.weight", widen)


def load_layer(checkpoint: Checkpoint, index: int, widen: bool = True) -> Layer:
    """One layer. A loader that hands layers on one by one never holds two."""
    c = checkpoint.config
    at = f"model.layers.{index}"
    if c.is_moe_layer(index):
        mlp: Mlp | Moe = Moe(
            gate_ED=_dense(checkpoint, f"{at}.mlp.gate.weight", widen),
            bias_E=_dense(checkpoint, f"{at}.mlp.gate.e_score_correction_bias"),
            experts=tuple(_mlp(checkpoint, f"{at}.mlp.experts.{e}", widen) for e in range(c.n_routed_experts)),
            shared=_mlp(checkpoint, f"{at}.mlp.shared_experts", widen),
        )
    else:
        mlp = _mlp(checkpoint, f"{at}.mlp", widen)
    return Layer(
        input_norm_D=_dense(checkpoint, f"{at}.input_layernorm.weight"),
        attention=_attention(checkpoint, c, f"{at}.self_attn", widen),
        post_norm_D=_dense(checkpoint, f"{at}.post_attention_layernorm.weight"),
        mlp=mlp,
    )


def _dense(checkpoint: Checkpoint, name: str, widen: bool = True) -> np.ndarray:
    array = checkpoint.array(name)
    if not widen and array.dtype.name == "bfloat16":
        # A copy: the file may be replaced or on a slow disk, and its tensors need not be aligned.
        return np.array(array, order="C")
    return np.ascontiguousarray(array, dtype=np.float32)


def _matrix(checkpoint: Checkpoint, name: str, widen: bool) -> Matrix:
    if not checkpoint.is_int4(name):
        return Matrix(dense=_dense(checkpoint, name, widen))
    stored = checkpoint.packed(name)
    return Matrix(int4=Int4Matrix(stored.packed.copy(), stored.scale.copy(), stored.shape))


def _mlp(checkpoint: Checkpoint, prefix: str, widen: bool) -> Mlp:
    return Mlp(*(_matrix(checkpoint, f"{prefix}.{part}_proj.weight", widen) for part in ("gate", "up", "down")))


def _attention(checkpoint: Checkpoint, c: ModelConfig, at: str, widen: bool) -> Attention:
    has_lora = c.q_lora_rank is not None
    kv_b = _dense(checkpoint, f"{at}.kv_b_proj.weight", widen)
    kv_b = kv_b.reshape(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
    return Attention(
        q_a_QD=_dense(checkpoint, f"{at}.q_a_proj.weight", widen) if has_lora else None,
        q_a_norm_Q=_dense(checkpoint, f"{at}.q_a_layernorm.weight") if has_lora else None,
        q_b=_dense(checkpoint, f"{at}.q_b_proj.weight" if has_lora else f"{at}.q_proj.weight", widen),
        kv_a=_dense(checkpoint, f"{at}.kv_a_proj_with_mqa.weight", widen),
        kv_a_norm_R=_dense(checkpoint, f"{at}.kv_a_layernorm.weight"),
        w_uk_NKR=np.ascontiguousarray(kv_b[:, : c.qk_nope_head_dim]),
        w_uv_NHR=np.ascontiguousarray(kv_b[:, c.qk_nope_head_dim :]),
        o=_dense(checkpoint, f"{at}.o_proj.weight", widen),
    )

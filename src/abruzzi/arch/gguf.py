"""GGUF's names for what the families have: metadata keys as config.json's, and tensor names by role
and part.

Source: the constants of the gguf package and llama.cpp's converter. Four architectures: `llama`,
`qwen3`, `qwen3moe`, and `deepseek2` (DeepSeek-V3, Kimi K2, Moonlight, GLM-4.7-Flash).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from abruzzi.arch.rope import Llama3Scaling, inv_freq
from abruzzi.arch.tensors import Tensor

_PER_LAYER = {
    ("norm", "input"): "attn_norm.weight",
    ("norm", "post"): "ffn_norm.weight",
    ("norm", "q"): "attn_q_norm.weight",
    ("norm", "k"): "attn_k_norm.weight",
    ("norm", "q_a"): "attn_q_a_norm.weight",
    ("norm", "kv_a"): "attn_kv_a_norm.weight",
    **{("attention", part): f"attn_{name}.weight" for part, name in (("q", "q"), ("k", "k"), ("v", "v"))},
    **{("bias", part): f"attn_{name}.bias" for part, name in (("q", "q"), ("k", "k"), ("v", "v"))},
    ("attention", "o"): "attn_output.weight",
    ("bias", "o"): "attn_output.bias",
    ("attention", "q_a"): "attn_q_a.weight",
    ("attention", "kv_a"): "attn_kv_a_mqa.weight",
    ("attention", "kv_b"): "attn_kv_b.weight",
    ("router", "router"): "ffn_gate_inp.weight",
    ("router_bias", "bias"): "exp_probs_b.bias",
    **{("dense_mlp", part): f"ffn_{part}.weight" for part in ("gate", "up", "down")},
    **{("shared_experts", part): f"ffn_{part}_shexp.weight" for part in ("gate", "up", "down")},
    **{("routed_experts", part): f"ffn_{part}_exps.weight" for part in ("gate", "up", "down")},
}
_ONCE = {
    ("embedding", "tokens"): "token_embd.weight",
    ("norm", "final"): "output_norm.weight",
    ("head", "head"): "output.weight",
}
_LORA_QUERIES = "attn_q_b.weight"  # of a q that reads the normed q_a
SPLIT_KEYS, SPLIT_VALUES = "attn_k_b.weight", "attn_v_b.weight"  # kv_b in two, the keys transposed per head
FREQUENCIES = "rope_freqs.weight"
_FALLBACK_BIAS = "exp_probs_b.weight"  # as some older files have it

# Llama 3.1 and later store by what each pair's frequency is divided; config.json says it in four
# numbers, of which these three are the same in all of them.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def tensor_name(tensor: Tensor, layer: int | None, stored: Container[str]) -> str:
    """The name in a GGUF file of a tensor of this layer; of an expert, that of all experts together."""
    if layer is None:
        return _ONCE[tensor.role, tensor.part]
    at = f"blk.{layer}."
    if (tensor.role, tensor.part) == ("attention", "q") and f"{at}{_LORA_QUERIES}" in stored:
        return f"{at}{_LORA_QUERIES}"
    if (tensor.role, tensor.part) == ("router_bias", "bias") and f"{at}{_FALLBACK_BIAS}" in stored:
        return f"{at}{_FALLBACK_BIAS}"
    return at + _PER_LAYER[tensor.role, tensor.part]


def left_out(name: str, layers: int) -> bool:
    """Whether a model of so many layers does not use this tensor: multi-token prediction behind the
    last layer, and frequencies that the config says as well."""
    parts = name.split(".")
    behind = parts[0] == "blk" and parts[1].isdecimal() and int(parts[1]) >= layers
    return behind or parts[-2:] == FREQUENCIES.split(".")


def pairs_by_rows(architecture: str) -> bool:
    """Whether the converter put rows of q and k in the order of rotary pairs, which half-split
    rotation has to undo."""
    return architecture == "llama"


def config_of(metadata: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], factors: Sequence[float]) -> dict:
    """config.json of the model in a file. shapes: of its tensors. factors: FREQUENCIES, if it is
    there.

    Raises ValueError that names the key or the architecture."""
    architecture = metadata.get("general.architecture")
    if architecture not in _CONFIGS:
        raise ValueError(
            f"general.architecture {architecture!r:.60} is not supported; expected one of {', '.join(_CONFIGS)}"
        )
    read = _Keys(metadata, architecture)
    if "token_embd.weight" not in shapes:
        raise ValueError("it has no token_embd.weight; hint: a projector or an adapter, not a model")
    common = {
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": read.whole("embedding_length"),
        "num_hidden_layers": read.whole("block_count") - (read.whole("nextn_predict_layers", 0) or 0),
        "num_attention_heads": read.whole("attention.head_count"),
        "max_position_embeddings": read.whole("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in shapes,
        **_ends(metadata),
    }
    return {**common, **_rope(read, factors), **_CONFIGS[architecture](read, shapes)}


class _Keys:
    """Metadata of one architecture. Raises ValueError for a key that is absent or of another type."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata, self._at = metadata, f"{architecture}."

    def get(self, key: str) -> Any:
        return self._metadata.get(self._at + key)

    def whole(self, key: str, otherwise: int | None = -1) -> Any:
        """A whole number. otherwise: where the key may be absent; -1: it may not."""
        return self._typed(key, int, otherwise)

    def number(self, key: str, otherwise: float | None = -1) -> Any:
        return self._typed(key, (int, float), otherwise)

    def _typed(self, key: str, kinds: Any, otherwise: Any) -> Any:
        value = self.get(key)
        if value is None and otherwise != -1:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"{self._at}{key}={value!r:.60} is missing or has the wrong type")
        return value


def _ends(metadata: Mapping[str, Any]) -> dict[str, Any]:
    named = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {key: metadata.get(f"tokenizer.ggml.{name}_token_id") for key, name in named.items()}
    return {key: value for key, value in found.items() if type(value) is int}


def _rope(read: _Keys, factors: Sequence[float]) -> dict[str, Any]:
    theta = read.number("rope.freq_base", 10000.0)
    kind = read.get("rope.scaling.type")
    if len(factors):
        return {"rope_theta": theta, "rope_scaling": _llama3(theta, factors)}
    if kind in (None, "none"):
        return {"rope_theta": theta}
    block: dict[str, Any] = {"rope_type": kind, "factor": read.number("rope.scaling.factor")}
    if kind == "yarn":
        block["original_max_position_embeddings"] = read.whole("rope.scaling.original_context_length")
        log = read.number("rope.scaling.yarn_log_multiplier", None)
        # The converter writes a tenth of mscale_all_dim, to which mscale is equal in what it reads.
        block |= {} if not log else {"mscale": round(log * 10, 6), "mscale_all_dim": round(log * 10, 6)}
    return {"rope_theta": theta, "rope_scaling": block}


def _llama3(theta: float, factors: Sequence[float]) -> dict[str, Any]:
    """The four numbers that give these divisors of the frequencies."""
    factor = max(factors)
    scaling = Llama3Scaling(factor=factor, **_LLAMA3)  # type: ignore[arg-type]
    plain = inv_freq(2 * len(factors), theta, None)
    divided = [p / f for p, f in zip(plain, inv_freq(2 * len(factors), theta, scaling))]
    if not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(factors, divided)):
        raise ValueError(f"{FREQUENCIES} are not the divisors of Llama 3, factor {factor:g}; other ones are not read")
    return {"rope_type": "llama3", "factor": float(factor), **_LLAMA3}


def _llama(read: _Keys, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    if read.whole("expert_count", 0):
        raise ValueError("llama with experts (Mixtral) is not supported; expected a dense one")
    return {"model_type": "llama", **_grouped(read, shapes)}


def _qwen3(read: _Keys, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {"model_type": "qwen3", **_grouped(read, shapes)}


def _qwen3moe(read: _Keys, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        "model_type": "qwen3_moe",
        **_grouped(read, shapes),
        "num_experts": read.whole("expert_count"),
        "num_experts_per_tok": read.whole("expert_used_count"),
        "moe_intermediate_size": read.whole("expert_feed_forward_length"),
        "norm_topk_prob": True,  # the converter does not say; every released one is so, and llama.cpp takes it so
    }


def _grouped(read: _Keys, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    heads = read.whole("attention.head_count")
    return {
        "intermediate_size": read.whole("feed_forward_length", None) or read.whole("expert_feed_forward_length"),
        "num_key_value_heads": read.whole("attention.head_count_kv", heads),
        "head_dim": read.whole("attention.key_length", None) or read.whole("embedding_length") // heads,
        "attention_bias": "blk.0.attn_output.bias" in shapes,
    }


def _deepseek2(read: _Keys, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    gating = read.whole("expert_gating_func", None)
    if gating != 2:
        raise ValueError(f"deepseek2 with expert_gating_func={gating!r} (DeepSeek-V2) is not supported; expected 2")
    rotary = read.whole("rope.dimension_count")
    wide = read.whole("attention.key_length_mla", None) or read.whole("attention.key_length")
    return {
        "model_type": "deepseek_v3",
        "intermediate_size": read.whole("feed_forward_length"),
        "moe_intermediate_size": read.whole("expert_feed_forward_length"),
        "n_routed_experts": read.whole("expert_count"),
        "n_shared_experts": read.whole("expert_shared_count"),
        "num_experts_per_tok": read.whole("expert_used_count"),
        "n_group": read.whole("expert_group_count", None) or 1,
        "topk_group": read.whole("expert_group_used_count", None) or 1,
        "norm_topk_prob": bool(read.get("expert_weights_norm")),
        "routed_scaling_factor": read.number("expert_weights_scale"),
        "first_k_dense_replace": read.whole("leading_dense_block_count"),
        "q_lora_rank": read.whole("attention.q_lora_rank", None),
        "kv_lora_rank": read.whole("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotary,
        "qk_nope_head_dim": wide - rotary,
        "v_head_dim": read.whole("attention.value_length_mla", None) or read.whole("attention.value_length"),
    }


_CONFIGS: dict[str, Callable[[_Keys, Mapping[str, Sequence[int]]], dict[str, Any]]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "deepseek2": _deepseek2,
}

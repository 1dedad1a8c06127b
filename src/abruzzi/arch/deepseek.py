"""DeepSeek-V3 and Kimi K2: multi-head latent attention (MLA) and a mixture of experts with a
sigmoid router.

Sources: DeepSeek-V3 report (arXiv 2412.19437), sections 2.1.1 (MLA, eqs 1-11) and 2.1.2 (experts,
eqs 12-16); Kimi K2 report (arXiv 2507.20534), section 2.3; DeepSeek's inference code.

    attention   c = norm(kv_a x)[:R], the latent that is cached, and k_pe = rope(kv_a x)[R:], one for all heads;
                [k_n | v_n] = kv_b c and [q_n | q_pe_n] = q x (or q norm(q_a x)) for every head n;
                out = o [ softmax(scale (q_n k_n + rope(q_pe_n) k_pe)) v_n ]
    experts     s = sigmoid(router x); the `num_experts_per_tok` largest of s + bias are chosen;
                out = shared(x) + routed_scaling_factor sum_e s_e expert_e(x)

Letters: V vocab_size, D hidden_size, N num_attention_heads, R kv_lora_rank, Q q_lora_rank, K
qk_nope_head_dim, P qk_rope_head_dim, H v_head_dim, E n_routed_experts, F moe_intermediate_size.

Example, Kimi K2: V 163840, D 7168, N 64, R 512, Q 1536, K 128, P 64, H 128, E 384, F 2048 and 61
layers, of which the first is dense. Its kv_b is [64 (128 + 128), 512]; a token caches 512 + 64
numbers a layer.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from abruzzi.arch import rope
from abruzzi.arch.config import Config, family
from abruzzi.arch.tensors import Piece, Tensor, gated_mlp

# The two latent norms use this whatever rms_norm_eps says: transformers builds them without passing
# the config's value, and checkpoints with rms_norm_eps = 1e-5 (K2-Thinking) are served that way.
LATENT_NORM_EPS = 1e-6
# Tokens of a prompt with a cache behind it up to which attention stays in the latent space
# (absorbed); above, decompressing keys and values once (naive) is cheaper.
ABSORB_UP_TO = 8

_ARCHITECTURES = ("DeepseekV3ForCausalLM",)
_LAYER = "model.layers.{l}"
_IN_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.(.+)")
_ROTARY_TABLE = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"
)
# A layer of multi-token prediction (DeepSeek-V3 report, section 2.2): its own tensors around a
# block like the others.
_PREDICTION = re.compile(
    r"((enorm|hnorm|eh_proj|embed_tokens|shared_head\.(norm|head)|input_layernorm|post_attention_layernorm"
    r"|self_attn\.(q_proj|q_a_proj|q_a_layernorm|q_b_proj|kv_a_proj_with_mqa|kv_a_layernorm|kv_b_proj|o_proj)"
    r"|mlp\.(gate|((experts\.\d+|shared_experts)\.)?(gate|up|down)_proj))"
    r"\.weight(_packed|_scale|_shape|_scale_inv)?)|mlp\.gate\.e_score_correction_bias"
)


@family("deepseek_v3", "kimi_k2")
@dataclass(frozen=True, slots=True, kw_only=True)
class DeepseekConfig(Config):
    """The shape of a model. Field names are config.json's keys."""

    ATTENTION: ClassVar[str] = "mla"
    ATTENTION_NAME: ClassVar[str] = "multi-head latent attention"
    FIXED: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "silu",
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_interleave": True,
    }
    STATED: ClassVar[tuple[str, ...]] = (
        "n_shared_experts",
        "n_group",
        "topk_group",
        "norm_topk_prob",
        "routed_scaling_factor",
        "first_k_dense_replace",
        "rms_norm_eps",
    )
    STATED_OR_NULL: ClassVar[tuple[str, ...]] = ("q_lora_rank",)

    model_type: str = "deepseek_v3"
    architectures: tuple[str, ...] | None = _ARCHITECTURES
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_shared_experts: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 1
    num_nextn_predict_layers: int = 0

    # the tensors

    def tensors(self) -> Iterator[Tensor]:
        """The inventory, in the order of the model. Part "q" makes queries, from x or, with
        q_lora_rank, from q_a x."""
        every = range(self.num_hidden_layers)
        yield Tensor("embedding", "tokens", "model.embed_tokens.weight", (self.vocab_size, self.hidden_size))
        yield Tensor("norm", "input", f"{_LAYER}.input_layernorm.weight", (self.hidden_size,), every)
        yield from self._attention(f"{_LAYER}.self_attn", every)
        yield Tensor("norm", "post", f"{_LAYER}.post_attention_layernorm.weight", (self.hidden_size,), every)
        yield from self._mlp(f"{_LAYER}.mlp", every)
        yield Tensor("norm", "final", "model.norm.weight", (self.hidden_size,))
        yield Tensor("head", "head", "lm_head.weight", (self.vocab_size, self.hidden_size))

    def _attention(self, at: str, every: range) -> Iterator[Tensor]:
        heads, hidden, rank, lora = self.num_attention_heads, self.hidden_size, self.kv_lora_rank, self.q_lora_rank
        nope, rotary, value = self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim
        queries = heads * self.qk_head_dim
        # Decode folds the key part into the query and reads it transposed; prefill reads it as it
        # is.
        kv_b = (Piece(heads, rank, nope), Piece(heads, nope, rank, decoded=False), Piece(heads, value, rank))
        if lora is None:
            yield Tensor("attention", "q", f"{at}.q_proj.weight", (queries, hidden), every)
        else:
            yield Tensor("attention", "q_a", f"{at}.q_a_proj.weight", (lora, hidden), every)
            yield Tensor("norm", "q_a", f"{at}.q_a_layernorm.weight", (lora,), every)
            yield Tensor("attention", "q", f"{at}.q_b_proj.weight", (queries, lora), every)
        yield Tensor("attention", "kv_a", f"{at}.kv_a_proj_with_mqa.weight", (rank + rotary, hidden), every)
        yield Tensor("norm", "kv_a", f"{at}.kv_a_layernorm.weight", (rank,), every)
        yield Tensor("attention", "kv_b", f"{at}.kv_b_proj.weight", (heads * (nope + value), rank), every, split=kv_b)
        yield Tensor("attention", "o", f"{at}.o_proj.weight", (hidden, heads * value), every)

    def _mlp(self, at: str, every: range) -> Iterator[Tensor]:
        hidden, inner, experts = self.hidden_size, self.moe_intermediate_size, self.n_routed_experts
        dense, sparse = every[: self.first_k_dense_replace], every[self.first_k_dense_replace :]
        yield from gated_mlp("dense_mlp", at, hidden, self.intermediate_size, dense)
        yield Tensor("router", "router", f"{at}.gate.weight", (experts, hidden), sparse)
        yield Tensor("router_bias", "bias", f"{at}.gate.e_score_correction_bias", (experts,), sparse)
        yield from gated_mlp(
            "routed_experts", f"{at}.experts.{{e}}", hidden, inner, sparse, experts, self.num_experts_per_tok
        )
        yield from gated_mlp("shared_experts", f"{at}.shared_experts", hidden, self.n_shared_experts * inner, sparse)

    def leaves_out(self, stored_name: str, beside: Container[str] = ()) -> bool:
        """Layers of multi-token prediction, and the rotary tables that old checkpoints carry
        although they follow from the config. Where the config announces no such layer, its
        `eh_proj` tells it from a layer that config.json forgot, and its tensors are known by
        name."""
        if _ROTARY_TABLE.fullmatch(stored_name):
            return True
        layer = _IN_LAYER.fullmatch(stored_name)
        if layer is None:
            return False
        number = int(layer[1])
        if number < self.num_hidden_layers:
            return False
        if number - self.num_hidden_layers < self.num_nextn_predict_layers:
            return True
        return f"model.layers.{number}.eh_proj.weight" in beside and _PREDICTION.fullmatch(layer[2]) is not None

    def is_moe_layer(self, layer: int) -> bool:
        """Layers before `first_k_dense_replace` have one dense MLP; the others have experts."""
        return layer >= self.first_k_dense_replace

    def cut_to(self, dense: int, sparse: int, experts: int, vocab_size: int) -> Self:
        """Fewer layers, experts and words."""
        return replace(
            self,
            num_hidden_layers=dense + sparse,
            first_k_dense_replace=dense,
            n_routed_experts=experts or self.n_routed_experts,
            vocab_size=vocab_size,
        )

    # attention

    @property
    def qk_head_dim(self) -> int:
        """K + P."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def cached(self) -> tuple[int, int]:
        """Numbers that a token leaves in a layer's cache: its latent, and the rotary key that all
        heads share."""
        return self.kv_lora_rank, self.qk_rope_head_dim

    @property
    def cache_row(self) -> tuple[int, int]:
        """The same, each filled up to whole vectors of the kernels: the row that the engine
        keeps."""
        return -(-self.kv_lora_rank // 32) * 32, -(-self.qk_rope_head_dim // 16) * 16

    @property
    def attention_text(self) -> str:
        """Its shape in a line, for model cards and `abruzzi show`."""
        return f"MLA, {self.num_attention_heads} heads, kv_lora_rank {self.kv_lora_rank}"

    def attention_macs(self, absorbed: bool) -> int:
        """Multiply-adds for one attended position, scores and weighted sum, over all heads and
        layers."""
        wide = 2 * self.kv_lora_rank + self.qk_rope_head_dim if absorbed else self.qk_head_dim + self.v_head_dim
        return self.num_hidden_layers * self.num_attention_heads * wide

    @property
    def softmax_scale(self) -> float:
        """(K + P)^-1/2, times mscale squared where YaRN is on."""
        return rope.softmax_scale(self.qk_head_dim, self.rope_scaling)

    @property
    def rope_attention_factor(self) -> float:
        """What cos and sin are multiplied by."""
        return rope.attention_factor(self.rope_scaling)

    def rope_inv_freq(self) -> tuple[float, ...]:
        """Radians per position of each rotary pair, [P / 2]."""
        return rope.inv_freq(self.qk_rope_head_dim, self.rope_theta, self.rope_scaling)

    # reading and writing

    @classmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        """MLA has as many keys as queries, and one architecture runs."""
        heads, kv_heads = given.get("num_attention_heads"), given.get("num_key_value_heads")
        if kv_heads is not None and kv_heads != heads:
            raise ValueError(
                f"num_key_value_heads={kv_heads!r} is not supported; MLA expects num_attention_heads={heads!r}"
            )
        if given.get("pretraining_tp") not in (None, 1):
            raise ValueError(f"pretraining_tp={given['pretraining_tp']!r} is not supported; expected 1")
        architectures = given.get("architectures")
        expected = list(cls.__dataclass_fields__["architectures"].default)
        if architectures is not None and architectures != expected:
            raise ValueError(f"architectures={architectures!r} is not supported; expected {expected!r}")

    def derived(self) -> Mapping[str, Any]:
        """Keys and values are decompressed for every head."""
        return {"num_key_value_heads": self.num_attention_heads}

    def check(self) -> None:
        """Raises ValueError for fields that are out of range or do not fit each other."""
        self.at_least_one("intermediate_size", "moe_intermediate_size", "n_routed_experts", "num_experts_per_tok")
        self.at_least_one("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        self.at_least_one("n_shared_experts", "n_group", "topk_group")
        self.above_zero("routed_scaling_factor")
        if self.tie_word_embeddings:
            raise ValueError("tie_word_embeddings=True is not supported; expected False")
        if self.q_lora_rank is not None and self.q_lora_rank < 1:
            raise ValueError(f"q_lora_rank={self.q_lora_rank!r} is out of range; expected 1 or more, or null")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim={self.qk_rope_head_dim} is odd; rotary pairs need an even number")
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace={self.first_k_dense_replace} is out of range; "
                f"expected 0..{self.num_hidden_layers}"
            )
        self._check_groups()

    def _check_groups(self) -> None:
        """Experts are chosen within the `topk_group` best of `n_group` groups."""
        experts, groups, kept = self.n_routed_experts, self.n_group, self.topk_group
        if experts % groups or kept > groups:
            raise ValueError(
                f"n_group={groups}, topk_group={kept} do not fit n_routed_experts={experts}; "
                "expected n_group to divide the experts and topk_group <= n_group"
            )
        per_group = experts // groups
        if groups > 1 and per_group < 2:
            raise ValueError(f"n_group={groups} leaves {per_group} expert a group; the group score needs two")
        if self.num_experts_per_tok > per_group * kept:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} is more than the {per_group * kept} experts "
                "that the kept groups hold"
            )

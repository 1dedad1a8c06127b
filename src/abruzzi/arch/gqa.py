"""What families with grouped-query attention (GQA) share: Llama and Qwen3.

Source: Ainslie et al., "GQA" (arXiv 2305.13245); Llama 2 and 3, Qwen3 reports.

    attention   q_n = rope(norm(q x)_n), k_m = rope(norm(k x)_m), v_m = (v x)_m for N query heads and M
                heads of keys and values; out = o [ softmax(scale q_n k_m) v_m ] with m = n M / N

The norm of q and k per head is Qwen3's; Llama has none. Rotation is *half-split*: dimension j turns
with j + A/2.

Letters: V vocab_size, D hidden_size, N num_attention_heads, M num_key_value_heads, A head_dim, F
intermediate_size. Example, Llama 3.2 1B: V 128256, D 2048, N 32, M 8, A 64, F 8192; a token caches
2 x 8 x 64 numbers a layer.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from abruzzi.arch import rope
from abruzzi.arch.config import Config
from abruzzi.arch.tensors import Tensor, gated_mlp

LAYER = "model.layers.{l}"
_VECTOR = 16  # a head's keys and values are filled up with zeros to whole vectors of the kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryConfig(Config):
    """The shape of such a model. Field names are config.json's keys."""

    ATTENTION: ClassVar[str] = "gqa"
    ATTENTION_NAME: ClassVar[str] = "grouped-query attention"
    # Whether queries and keys are normed head by head, before rotation.
    QK_NORM: ClassVar[bool] = False
    FIXED: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu"}
    # What the rooms that compute experts ask of every family: no groups, no scale.
    n_group: ClassVar[int] = 1
    topk_group: ClassVar[int] = 1
    routed_scaling_factor: ClassVar[float] = 1.0
    n_shared_experts: ClassVar[int] = 0

    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    attention_bias: bool = False

    # the tensors

    def tensors(self) -> Iterator[Tensor]:
        """The inventory, in the order of the model."""
        every = range(self.num_hidden_layers)
        yield Tensor("embedding", "tokens", "model.embed_tokens.weight", (self.vocab_size, self.hidden_size))
        yield Tensor("norm", "input", f"{LAYER}.input_layernorm.weight", (self.hidden_size,), every)
        yield from self._attention(f"{LAYER}.self_attn", every)
        yield Tensor("norm", "post", f"{LAYER}.post_attention_layernorm.weight", (self.hidden_size,), every)
        yield from self._mlp(f"{LAYER}.mlp", every)
        yield Tensor("norm", "final", "model.norm.weight", (self.hidden_size,))
        if not self.tie_word_embeddings:
            yield Tensor("head", "head", "lm_head.weight", (self.vocab_size, self.hidden_size))

    def _attention(self, at: str, every: range) -> Iterator[Tensor]:
        hidden, width = self.hidden_size, self.head_width
        queries, keys = self.num_attention_heads * width, self.kv_heads * width
        shapes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
        for part, shape in shapes.items():
            yield Tensor("attention", part, f"{at}.{part}_proj.weight", shape, every)
            if part in self.biased:
                yield Tensor("bias", part, f"{at}.{part}_proj.bias", shape[:1], every)
        if self.QK_NORM:
            yield Tensor("norm", "q", f"{at}.q_norm.weight", (width,), every)
            yield Tensor("norm", "k", f"{at}.k_norm.weight", (width,), every)

    def _mlp(self, at: str, every: range) -> Iterator[Tensor]:
        yield from gated_mlp("dense_mlp", at, self.hidden_size, self.intermediate_size, every)

    def leaves_out(self, stored_name: str, beside: Container[str] = ()) -> bool:
        """A tied head that is stored again, and rotary tables, which follow from the config."""
        if stored_name.endswith("rotary_emb.inv_freq"):
            return True
        return self.tie_word_embeddings and stored_name == "lm_head.weight"

    # attention

    @property
    def biased(self) -> tuple[str, ...]:
        """The projections of attention that add a bias."""
        return ("q", "k", "v", "o") if self.attention_bias else ()

    @property
    def head_width(self) -> int:
        """A: of a head's queries, keys and values."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        """M: heads of keys and values, each shared by N / M heads of queries."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def cached(self) -> tuple[int, int]:
        """Numbers that a token leaves in a layer's cache: its keys and its values."""
        return self.kv_heads * self.head_width, self.kv_heads * self.head_width

    @property
    def cache_row(self) -> tuple[int, int]:
        """The same, each head filled up to whole vectors of the kernels: the row that the engine
        keeps."""
        wide = self.kv_heads * (-(-self.head_width // _VECTOR) * _VECTOR)
        return wide, wide

    @property
    def attention_text(self) -> str:
        """Its shape in a line, for model cards and `abruzzi show`."""
        return f"GQA, {self.num_attention_heads} heads over {self.kv_heads} of keys and values, {self.head_width} wide"

    def attention_macs(self, absorbed: bool) -> int:
        """Multiply-adds for one attended position, scores and weighted sum, over all heads and
        layers; of one form."""
        return self.num_hidden_layers * self.num_attention_heads * 2 * self.head_width

    @property
    def softmax_scale(self) -> float:
        """A^-1/2."""
        return self.head_width**-0.5

    @property
    def rope_attention_factor(self) -> float:
        """What cos and sin are multiplied by."""
        return rope.attention_factor(self.rope_scaling)

    def rope_inv_freq(self) -> tuple[float, ...]:
        """Radians per position of each rotary pair, [A / 2]."""
        return rope.inv_freq(self.head_width, self.rope_theta, self.rope_scaling)

    # checks

    @classmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        """Raises ValueError for what only some models of these families have."""
        if given.get("use_sliding_window"):
            raise ValueError("use_sliding_window=true is not supported; expected false")

    def check(self) -> None:
        """Raises ValueError for fields that are out of range or do not fit each other."""
        self.at_least_one("intermediate_size")
        heads, keys = self.num_attention_heads, self.kv_heads
        if keys < 1 or heads % keys:
            raise ValueError(f"num_key_value_heads={keys} does not fit num_attention_heads={heads}; expected a divisor")
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={heads}")
        if self.head_width < 1 or self.head_width % 2:
            raise ValueError(f"head_dim={self.head_width} is not supported; rotary pairs need an even number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig(GroupedQueryConfig):
    """One without experts. What the rooms that compute them ask is answered with none."""

    n_routed_experts: ClassVar[int] = 0
    num_experts_per_tok: ClassVar[int] = 0
    norm_topk_prob: ClassVar[bool] = False
    moe_intermediate_size: ClassVar[int] = 0

    @property
    def first_k_dense_replace(self) -> int:
        """Layers with one dense MLP: all."""
        return self.num_hidden_layers

    def is_moe_layer(self, layer: int) -> bool:
        return False

    def cut_to(self, dense: int, sparse: int, experts: int, vocab_size: int) -> Self:
        """Fewer layers and words; of experts there are none."""
        return replace(self, num_hidden_layers=dense + sparse, vocab_size=vocab_size)

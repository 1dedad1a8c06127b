"""Qwen3: GQA with queries and keys normed head by head, over a dense SwiGLU or a mixture of experts.

Source: Qwen3 technical report (arXiv 2505.09388), section 2.

    experts     s = softmax(router x); the `num_experts_per_tok` largest are chosen;
                out = sum_e s_e expert_e(x), the chosen s divided by their sum where norm_topk_prob says so

Example, Qwen3-30B-A3B: V 151936, D 2048, N 32, M 4, A 128, 48 layers of 128 experts 768 wide, of
which a token goes through 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from abruzzi.arch.config import Config, family
from abruzzi.arch.gqa import DenseConfig, GroupedQueryConfig
from abruzzi.arch.tensors import Tensor, gated_mlp


@family("qwen3")
@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Config(DenseConfig):
    """The shape of a dense model. Field names are config.json's keys."""

    QK_NORM: ClassVar[bool] = True
    STATED: ClassVar[tuple[str, ...]] = ("rms_norm_eps", "head_dim")

    model_type: str = "qwen3"
    architectures: tuple[str, ...] | None = ("Qwen3ForCausalLM",)


@family("qwen3_moe")
@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3MoeConfig(GroupedQueryConfig):
    """The shape of a model with experts in every layer. Field names are config.json's keys."""

    QK_NORM: ClassVar[bool] = True
    ROUTER_SCORE: ClassVar[str] = "softmax"
    FIXED: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu", "decoder_sparse_step": 1, "mlp_only_layers": []}
    STATED: ClassVar[tuple[str, ...]] = ("rms_norm_eps", "head_dim", "norm_topk_prob")
    ALIASES: ClassVar[Mapping[str, str]] = {"num_experts": "num_local_experts"}  # transformers 5 writes it
    first_k_dense_replace: ClassVar[int] = 0

    model_type: str = "qwen3_moe"
    architectures: tuple[str, ...] | None = ("Qwen3MoeForCausalLM",)
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False

    @property
    def n_routed_experts(self) -> int:
        """E, by the name that the other rooms use."""
        return self.num_experts

    def is_moe_layer(self, layer: int) -> bool:
        return True

    def cut_to(self, dense: int, sparse: int, experts: int, vocab_size: int) -> Config:
        """Fewer layers, experts and words. There is no dense layer in this family: with some, it is
        Qwen3's other one."""
        if not dense:
            return replace(self, num_hidden_layers=sparse, num_experts=experts, vocab_size=vocab_size)
        return Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.moe_intermediate_size,
            num_hidden_layers=dense,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.max_position_embeddings,
        )

    def _mlp(self, at: str, every: range) -> Iterator[Tensor]:
        hidden, inner, experts = self.hidden_size, self.moe_intermediate_size, self.num_experts
        yield Tensor("router", "router", f"{at}.gate.weight", (experts, hidden), every)
        yield from gated_mlp(
            "routed_experts", f"{at}.experts.{{e}}", hidden, inner, every, experts, self.num_experts_per_tok
        )

    def check(self) -> None:
        """Raises ValueError for fields that are out of range or do not fit each other."""
        GroupedQueryConfig.check(self)
        self.at_least_one("num_experts", "num_experts_per_tok", "moe_intermediate_size")
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} is more than num_experts={self.num_experts}"
            )

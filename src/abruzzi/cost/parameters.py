"""How many parameters a config means, and how many of them one token uses.

One list of matrices, `parts`, from which parameters, FLOP (flops.py) and bytes (bytes.py) all follow.
Source of the shapes: DeepSeek-V3 report (arXiv 2412.19437), section 2.1; they are those of
checkpoint/layout.py, which a test compares name by name. Not counted: multi-token prediction modules, which
plain readers ignore (DeepSeek-V3's hub page says 685 B with them, 671 B without).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from abruzzi.config import ModelConfig

Kind = Literal[
    "embedding", "head", "attention", "dense_mlp", "shared_experts", "routed_experts", "router", "router_bias", "norm"
]


@dataclass(frozen=True, slots=True)
class Part:
    """`count` tensors of rows x columns (a vector has one row); one token uses `active` of them."""

    kind: Kind
    rows: int
    columns: int
    count: int
    active: int

    @property
    def size(self) -> int:
        """Elements of one of them."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts. A token uses one row of the embedding; `active` nevertheless counts all of it, as published
    figures do (K2's 32.9 B), and `active_without_embedding` does not (31.7 B): that is what is multiplied.
    `active_without_either` leaves out embedding and head (30.5 B)."""

    total: int
    active: int
    embedding: int
    head: int
    routed_experts: int

    @property
    def total_without_either(self) -> int:
        return self.total - self.embedding - self.head

    @property
    def active_without_embedding(self) -> int:
        return self.active - self.embedding

    @property
    def active_without_either(self) -> int:
        return self.active - self.embedding - self.head


def parameters(config: ModelConfig) -> Parameters:
    """Count every parameter of the model that config.json describes."""
    found = parts(config)

    def sum_of(kind: Kind) -> int:
        return sum(p.size * p.count for p in found if p.kind == kind)

    return Parameters(
        total=sum(p.size * p.count for p in found),
        active=sum(p.size * p.active for p in found),
        embedding=sum_of("embedding"),
        head=sum_of("head"),
        routed_experts=sum_of("routed_experts"),
    )


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """Every tensor of the model, alike ones together."""
    return tuple(_parts(config))


def _parts(c: ModelConfig) -> Iterator[Part]:
    layers, moe = c.num_hidden_layers, c.num_hidden_layers - c.first_k_dense_replace

    def all_layers(kind: Kind, rows: int, columns: int) -> Part:
        return Part(kind, rows, columns, layers, layers)

    yield Part("embedding", c.vocab_size, c.hidden_size, 1, 1)
    yield Part("head", c.vocab_size, c.hidden_size, 1, 1)
    yield Part("norm", 1, c.hidden_size, 2 * layers + 1, 2 * layers + 1)

    queries = c.num_attention_heads * c.qk_head_dim
    if c.q_lora_rank is None:
        yield all_layers("attention", queries, c.hidden_size)
    else:
        yield all_layers("attention", c.q_lora_rank, c.hidden_size)
        yield all_layers("norm", 1, c.q_lora_rank)
        yield all_layers("attention", queries, c.q_lora_rank)
    yield all_layers("attention", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size)
    yield all_layers("norm", 1, c.kv_lora_rank)
    yield all_layers("attention", c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
    yield all_layers("attention", c.hidden_size, c.num_attention_heads * c.v_head_dim)

    yield from _mlp("dense_mlp", c.hidden_size, c.intermediate_size, layers - moe, layers - moe)
    if moe:
        yield from _mlp(
            "routed_experts",
            c.hidden_size,
            c.moe_intermediate_size,
            moe * c.n_routed_experts,
            moe * c.num_experts_per_tok,
        )
        yield from _mlp("shared_experts", c.hidden_size, c.n_shared_experts * c.moe_intermediate_size, moe, moe)
        yield Part("router", c.n_routed_experts, c.hidden_size, moe, moe)
        yield Part("router_bias", 1, c.n_routed_experts, moe, moe)


def _mlp(kind: Kind, hidden: int, inner: int, count: int, active: int) -> Iterator[Part]:
    """Gate, up and down."""
    yield Part(kind, inner, hidden, 2 * count, 2 * active)
    yield Part(kind, hidden, inner, count, active)

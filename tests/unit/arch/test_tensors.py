"""The inventory: lookup by role and part, order, and counts, on a model that is listed by hand."""

from __future__ import annotations

import pytest

from abruzzi.arch.tensors import Inventory, Piece, Tensor, gated_mlp
from abruzzi.cost.published import DEEPSEEK_V3

# Three layers; the second alone has two experts, of which a token goes through one. Layer 2 has
# wider queries, as hybrids do: two lines with one role and part.
TOY = Inventory(
    [
        Tensor("embedding", "tokens", "embed", (10, 4)),
        Tensor("attention", "q", "layer.{l}.q", (8, 4), range(2)),
        Tensor("attention", "q", "layer.{l}.wide_q", (16, 4), (2,)),
        Tensor("router", "router", "layer.{l}.router", (2, 4), (1,)),
        *gated_mlp("routed_experts", "layer.{l}.{e}", 4, 6, (1,), experts=2, chosen=1),
        Tensor("norm", "final", "norm", (4,)),
    ]
)


def test_it_is_walked_layer_by_layer_and_expert_by_expert() -> None:
    assert [name for name, _ in TOY] == [
        "embed",
        "layer.0.q",
        "layer.1.q",
        "layer.1.router",
        *("layer.1.0.gate_proj.weight", "layer.1.0.up_proj.weight", "layer.1.0.down_proj.weight"),
        *("layer.1.1.gate_proj.weight", "layer.1.1.up_proj.weight", "layer.1.1.down_proj.weight"),
        "layer.2.wide_q",
        "norm",
    ]


def test_a_tensor_is_found_by_role_part_and_layer() -> None:
    assert TOY.get("attention", "q", 1).full_name(1) == "layer.1.q"
    assert TOY.get("attention", "q", 2).shape == (16, 4)
    assert TOY.get("routed_experts", "down", 1).full_name(1, 1) == "layer.1.1.down_proj.weight"
    assert TOY.find("router", "router", 0) is None and TOY.find("norm", "final", 0) is None
    assert TOY.get("norm", "final").full_name() == "norm"
    with pytest.raises(KeyError, match="'router' of router in layer 2"):
        TOY.get("router", "router", 2)


def test_counts_and_pieces() -> None:
    assert [t.count for t in TOY.tensors] == [1, 2, 1, 1, 2, 2, 2, 1]
    assert [t.active for t in TOY.tensors] == [1, 2, 1, 1, 1, 1, 1, 1]
    assert TOY.get("attention", "q", 0).pieces == (Piece(1, 8, 4),)
    assert TOY.get("attention", "q", 0).size == 32
    # kv_b is held per head: the key part for both forms of attention, and the value part.
    absorb, expand, values = DEEPSEEK_V3.inventory.get("attention", "kv_b", 0).pieces
    assert (absorb, values) == (Piece(128, 512, 128), Piece(128, 128, 512))
    assert expand == Piece(128, 128, 512, decoded=False)


def test_queries_are_one_part_with_and_without_a_low_rank() -> None:
    from dataclasses import replace

    short = replace(DEEPSEEK_V3, q_lora_rank=None).inventory
    assert DEEPSEEK_V3.inventory.get("attention", "q", 3).name.endswith("q_b_proj.weight")
    assert short.get("attention", "q", 3).name.endswith("q_proj.weight")
    assert short.find("attention", "q_a", 3) is None and short.find("norm", "q_a", 3) is None

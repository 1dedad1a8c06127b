"""YaRN and routing against published vectors (shared/data/k2), computed by other people's formulas
and code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from abruzzi.arch import ModelConfig, YarnScaling
from abruzzi.model.moe import Router
from abruzzi.model.rope import rotate, rotations
from tests.oracles import twins


def _yarn_config(vector: dict) -> ModelConfig:
    yarn = YarnScaling(vector["factor"], vector["original_max"], vector["beta_fast"], vector["beta_slow"], 1.0, 1.0)
    return replace(
        twins.PLAIN,
        qk_nope_head_dim=128,
        qk_rope_head_dim=vector["dim"],
        rope_theta=vector["theta"],
        rope_scaling=yarn,
        max_position_embeddings=262144,
    )


def test_yarn_frequencies_and_softmax_scale(k2_data: Path) -> None:
    vectors = json.loads((k2_data / "yarn_vectors.json").read_text())
    assert len(vectors) >= 4
    for vector in vectors:
        config = _yarn_config(vector)
        assert config.rope_inv_freq() == pytest.approx(vector["inv_freq"], rel=1e-6), vector["name"]
        assert config.softmax_scale == pytest.approx(vector["softmax_scale"], rel=1e-9), vector["name"]
        assert config.rope_attention_factor == 1.0


def test_far_positions_turn_by_the_vectors_frequencies(k2_data: Path) -> None:
    """A unit pair at position p ends at angle p * inv_freq, also where float32 angles are 0.02 rad
    off."""
    vector = json.loads((k2_data / "yarn_vectors.json").read_text())[1]
    config = _yarn_config(vector)
    positions = torch.tensor([[0, 1, 4097, 262143]])
    unit = torch.zeros(1, 4, vector["dim"])
    unit[..., 0::2] = 1.0
    turned = rotate(unit, *rotations(config, positions)).double()
    angle = positions.double()[..., None] * torch.tensor(config.rope_inv_freq(), dtype=torch.float64)
    assert (turned[..., 0::2] - angle.cos()).abs().max() < 1e-6
    assert (turned[..., 1::2] - angle.sin()).abs().max() < 1e-6


def test_router_on_vectors(k2_data: Path) -> None:
    vectors = json.loads((k2_data / "router_vectors.json").read_text())
    assert {v["n_group"] for v in vectors} >= {1, 4}
    for vector in vectors:
        experts = vector["n_experts"]
        config = replace(
            twins.PLAIN,
            hidden_size=experts,
            n_routed_experts=experts,
            num_experts_per_tok=vector["top_k"],
            n_group=vector["n_group"],
            topk_group=vector["topk_group"],
            routed_scaling_factor=vector["scale"],
        )
        router = Router(config)
        with torch.no_grad():
            router.weight.copy_(torch.eye(experts))  # so that the input is the logits
            router.e_score_correction_bias.copy_(torch.tensor(vector["bias"]))
            chosen, weights, _ = router(torch.tensor([vector["logits"]]))
        got = {int(e): float(w) for e, w in zip(chosen[0], weights[0])}
        want = {s["expert"]: s["weight"] for s in vector["selected"]}
        assert got == pytest.approx(want, rel=1e-5)

"""Costs of training and serving, and prices, against published figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from abruzzi.arch import ModelConfig
from abruzzi.cost import published
from abruzzi.cost.hardware import gpu
from abruzzi.cost.prices import TOKENS, hour_price, token_price
from abruzzi.cost.serving import Node, serving_cost, usd_per_mtok
from abruzzi.cost.training import k2_by_analogy, training_cost, v3_mfu


def test_the_published_shapes_are_those_of_the_releases(k2_data: Path) -> None:
    given = json.loads((k2_data / "configs" / "family_configs.json").read_text())
    for name, ours in (("deepseek-v3", published.DEEPSEEK_V3), ("kimi-k2-thinking", published.KIMI_K2)):
        theirs = ModelConfig.from_dict(given[name])
        for key in ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
                    "num_attention_heads", "n_routed_experts", "num_experts_per_tok", "n_shared_experts",
                    "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_group",
                    "topk_group", "first_k_dense_replace", "num_nextn_predict_layers", "routed_scaling_factor",
                    "model_type", "max_position_embeddings"):  # fmt: skip
            assert getattr(ours, key) == getattr(theirs, key), key


def test_deepseek_v3s_bill() -> None:
    # eval-and-cost.md 5: 386 TFLOP/s per GPU, 39.1 % of the BF16 peak; at 36 %, 2.89 M hours and
    # $5.78 M.
    assert v3_mfu() == pytest.approx(0.391, rel=0.005)
    assert v3_mfu() * gpu("h800").bf16_flop_s == pytest.approx(386e12, rel=0.005)
    forward = training_cost(published.DEEPSEEK_V3, 14.8e12, gpu("h800"), 2.0, mfu=0.36)
    assert forward.gpu_hours == pytest.approx(2.89e6, rel=0.005)
    assert forward.usd == pytest.approx(5.78e6, rel=0.005)
    assert forward.attention_share == pytest.approx(0.12, abs=0.005)
    # The report: 180 thousand hours per trillion tokens, 5.576 million dollars for everything.
    per_trillion = training_cost(published.DEEPSEEK_V3, 1e12, gpu("h800"), 2.0)
    assert per_trillion.gpu_hours == pytest.approx(180e3, rel=0.005)
    assert published.V3_HOURS * hour_price("h800").usd == pytest.approx(5.576e6)
    # 3.35 GWh for the whole run.
    assert per_trillion.kwh / per_trillion.gpu_hours * published.V3_HOURS == pytest.approx(3.35e6, rel=0.005)


def test_k2_at_v3s_throughput_is_about_4_6_million() -> None:
    found = k2_by_analogy()
    assert found.flop == pytest.approx(3.185e24, rel=0.001)
    assert found.gpu_hours == pytest.approx(2.289e6, rel=0.005)
    assert found.usd == pytest.approx(4.58e6, rel=0.005)
    assert k2_by_analogy(1.7).usd == pytest.approx(3.9e6, rel=0.01)
    assert k2_by_analogy(2.35).usd == pytest.approx(5.4e6, rel=0.01)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"mfu": 40.0}, "hint: 0.4 is 40 %"), ({"tokens": 0.0}, "tokens=0.0"), ({"usd_per_hour": -1.0}, "usd_per_hour")],
)
def test_what_cannot_be_trained(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        training_cost(published.KIMI_K2, **{"tokens": 1e12, "on": gpu("h100"), "usd_per_hour": 2.0, **options})  # type: ignore[arg-type]


def test_k2_on_eight_h200() -> None:
    # eval-and-cost.md 5 (a model as well): decode tok/s at 16k of context, $20 an hour for the
    # node. Its bytes are those of experts at 4.0 bit, without the scales that make 4.5 of it: a
    # little faster than this, never slower.
    node = Node(gpu("h200"))
    for batch, tok_s, usd in ((1, 138, 40), (8, 759, 7.3), (64, 2440, 2.3), (256, 6177, 0.90)):
        found = serving_cost(published.KIMI_K2, node, batch, 16384)
        assert 0.90 * tok_s < found.tok_s < tok_s
        assert found.usd_per_mtok == pytest.approx(usd, rel=0.11)
        assert found.bound == "memory bandwidth"
        assert found.tok_s_per_user * batch == pytest.approx(found.tok_s)
    # 590 GB of cache and 594 GB of weights exceed 1128 GB: about 430 sequences are the ceiling.
    with pytest.raises(ValueError, match=r"needs 11\d\d\.\d GB.*1128 GB.*holds at most 4\d\d sequences"):
        serving_cost(published.KIMI_K2, node, 512, 16384)
    with pytest.raises(ValueError, match="does not hold the weights"):
        serving_cost(published.KIMI_K2, Node(gpu("h100"), gpus=4), 1, 16384)


def test_deepseeks_day_of_serving() -> None:
    # open-infra-index, day 6: 226.75 nodes of eight H800 cost $87,072 a day; 14.8 k tok/s out and
    # 73.7 k in per node.
    node = Node(gpu("h800"), usd_per_gpu_hour=2.0)
    assert 226.75 * 24 * node.usd_per_hour == 87_072
    assert usd_per_mtok(node.usd_per_hour, 14_800) == pytest.approx(0.30, rel=0.005)
    assert usd_per_mtok(node.usd_per_hour, 73_700) == pytest.approx(0.06, rel=0.01)
    # Income at R1's prices, 608 billion tokens in (56.3 % cached) and 168 billion out: $562,027.
    r1 = token_price("deepseek-r1")
    assert r1.usd(608_000_000_000, 168_000_000_000, cached_tokens=342_000_000_000) == pytest.approx(562_027, rel=0.001)


def test_a_run_of_the_intelligence_index_costs_what_was_published() -> None:
    # 96.87 M tokens in and 100.01 M out of Kimi K2 Thinking: $308.15 (eval-and-cost.md 1).
    assert token_price("Kimi K2 Thinking").usd(96_870_000, 100_010_000) == pytest.approx(308.15, abs=0.01)


def test_every_price_is_in_the_collected_table(shared: Path) -> None:
    with (shared / "data" / "published" / "prices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def number(text: str) -> float | None:
        return round(float(text), 9) if text else None

    known = {
        (r["model"], r["date"], *(number(r[f"usd_per_1m_{part}"]) for part in ("input", "cached_input", "output")))
        for r in rows
    }
    for price in TOKENS:
        assert (price.model, price.date, price.input, price.cached_input, price.output) in known, price
        assert price.source
    assert {p.vendor for p in TOKENS} >= {"DeepSeek", "Alibaba", "Z.ai", "MiniMax", "OpenAI", "xAI", "Anthropic"}


def test_prices_by_any_of_their_names() -> None:
    assert token_price("moonshotai/Kimi-K2-Thinking") is token_price("kimi k2 thinking")
    assert token_price("Kimi-K2-Thinking-Turbo").output == 8
    assert token_price("deepseek-chat").date == "2026-11"  # the newest of two
    assert token_price("GPT-5 (high)").id == "gpt-5"
    assert hour_price("H100").usd == 2.95
    with pytest.raises(ValueError, match="the nearest that has one is 'claude-sonnet-4-5'"):
        token_price("claude-sonnet-4.6")
    with pytest.raises(ValueError, match="did you mean 'h100'"):
        hour_price("a100")
    with pytest.raises(ValueError, match="did you mean 'h800'"):
        gpu("h80")
    with pytest.raises(ValueError, match="cached_tokens=5"):
        token_price("gpt-5").usd(4, 0, cached_tokens=5)

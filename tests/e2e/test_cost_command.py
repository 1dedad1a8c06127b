"""`abruzzi cost` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from abruzzi.cli.cost import parse_tokens
from tests import tiny
from tests.e2e.test_cli import abruzzi, one_clear_line


def test_the_bill_of_k2_by_analogy_with_deepseek_v3() -> None:
    done = abruzzi(
        "cost", "train", "--config", "kimi-k2", "--tokens", "15.5T", "--gpu", "h800", "--usd-per-hour", "2", "--json"
    )
    assert done.returncode == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    assert {"params_total", "params_active", "flop_per_token", "gpu_hours", "usd", "kwh"} <= set(found)
    assert found["params_total"] == pytest.approx(1026.4e9, rel=0.005)
    assert found["usd"] == pytest.approx(4.58e6, rel=0.005)
    text = abruzzi("cost", "train", "--config", "deepseek-v3", "--tokens", "14.8e12", "--mfu", "0.36").stdout
    for part in (
        "671.0 B, of which a token uses 37.6 B",
        "for 14.8 T tokens",
        "2,892 thousand H800 hours at 36.0% of the BF16 peak (given)",
        "$5.78 M at $2.00 an hour (rental assumed in DeepSeek-V3's report, 2024-12)",
        "2,664 thousand H800 hours of pre-training, as published; 2,892 thousand by these formulas at 36.0%",
        "$4.58 M at $2.00, if trained at DeepSeek-V3's throughput: an estimate by analogy",
        "not Moonshot's bill",
    ):
        assert part in text


def test_a_config_of_ones_own_and_a_node_of_ones_own(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    for given in (folder, folder / "config.json"):
        done = abruzzi("cost", "train", "--config", str(given), "--tokens", "300M", "--json")
        assert json.loads(done.stdout)["assumed"]["context"] == 256
    shown = json.loads(abruzzi("show", "--json", str(folder)).stdout)
    found = json.loads(done.stdout)
    assert (found["params_total"], found["params_active"]) == (shown["parameters"], shown["active_parameters"])
    served = abruzzi("cost", "serve", "--config", "kimi-k2", "--usd-per-hour", "2.5", "--batch", "8", "--json")
    node = json.loads(served.stdout)
    assert {"tok_s", "usd_per_mtok", "wh_per_mtok"} <= set(node)
    assert node["usd_per_mtok"] == pytest.approx(20 / 3600 / node["tok_s"] * 1e6)
    text = abruzzi("cost", "serve", "--config", "deepseek-v3", "--weights", "bf16", "--gpus", "16").stdout
    for part in ("1343.1 GB of weights (bf16)", "not a measurement", "Kimi K2 Thinking $0.6 and $2.5"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--config", "kimi-k3", "--tokens", "1T"], "kimi-k3 does not exist; hint: --config takes"),
        (["train", "--config", "kimi-k2", "--tokens", "lots"], "'lots' is no number of tokens"),
        (["train", "--config", "kimi-k2", "--tokens", "1T", "--gpu", "h20"], "did you mean 'h200'"),
        (["train", "--config", "kimi-k2", "--tokens", "1T", "--mfu", "40"], "hint: 0.4 is 40 %"),
        (["serve", "--config", "kimi-k2", "--weights", "int3"], "'int3' is no mode; expected one of bf16, native"),
        (
            ["serve", "--config", "kimi-k2", "--gpus", "2"],
            "282 GB, of which 5% stay free, and does not hold the weights",
        ),
        (["serve", "--config", "kimi-k2", "--bandwidth-share", "6"], "bandwidth_share=6.0; expected a share"),
    ],
)
def test_what_has_no_price_is_one_line(arguments: list[str], says: str) -> None:
    one_clear_line(abruzzi("cost", *arguments), says)


@pytest.mark.parametrize(
    ("text", "count"), [("1000", 1000), ("2e9", 2e9), ("300M", 3e8), ("14.8T", 14.8e12), ("5k", 5e3)]
)
def test_counts_of_tokens(text: str, count: float) -> None:
    assert parse_tokens(text) == pytest.approx(count)


@pytest.mark.parametrize("text", ["", "T", "-1M", "0", "nan", "inf", "12X"])
def test_wrong_counts_of_tokens(text: str) -> None:
    with pytest.raises(ValueError, match="no number of tokens"):
        parse_tokens(text)

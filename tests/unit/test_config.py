"""ModelConfig against the published configs of the family and against transformers' own reader and
writer."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.arch import Int4Scheme, ModelConfig, YarnScaling

FAMILY = ["kimi-k2-instruct (0711)", "kimi-k2-thinking", "moonlight-16b-a3b", "deepseek-v3"]
OTHERS = ["deepseek-v2-lite", "kimi-linear-48b-a3b", "glm-4.6", "minimax-m2"]

TINY: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "rope_scaling": None,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def published(k2_data: Path) -> dict[str, dict[str, Any]]:
    return json.loads((k2_data / "configs" / "family_configs.json").read_text())


@pytest.mark.parametrize("name", FAMILY)
def test_published_configs_lose_nothing(published: dict[str, dict[str, Any]], name: str) -> None:
    given_ = published[name]
    config = ModelConfig.from_dict(given_)
    assert json.dumps(config.to_dict()) == json.dumps(given_)
    as_v5 = config.to_dict("rope_parameters")
    assert "rope_theta" not in as_v5 and "rope_scaling" not in as_v5
    assert ModelConfig.from_dict(as_v5) == config
    assert ModelConfig.from_dict(as_v5).to_dict() == as_v5


def test_k2_thinking_is_read_right(published: dict[str, dict[str, Any]]) -> None:
    config = ModelConfig.from_dict(published["kimi-k2-thinking"])
    assert (config.n_routed_experts, config.num_experts_per_tok, config.routed_scaling_factor) == (384, 8, 2.827)
    assert config.rope_scaling == YarnScaling(64.0, 4096, 1.0, 1.0, 1.0, 1.0)
    assert config.int4 == Int4Scheme() and config.eos_token_ids == (163586,)
    # The block that we write is the block that K2-Thinking ships.
    ours = Int4Scheme().to_dict()
    assert ours == published["kimi-k2-thinking"]["quantization_config"]


def test_kimi_k26_text_config_with_forty_unknown_keys_round_trips(k2_data: Path) -> None:
    outer = json.loads((k2_data / "configs" / "kimi-k2.6_text_and_vision_config.json").read_text())
    config = ModelConfig.from_dict(outer["text_config"])
    assert config.to_dict() == outer["text_config"]
    with pytest.raises(ValueError, match=r"kimi_k25.*text_config"):
        ModelConfig.from_dict(outer)


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_named(published: dict[str, dict[str, Any]], name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(published[name]["model_type"]))):
        ModelConfig.from_dict(published[name])


def test_fp8_is_read_as_a_shape_but_its_weights_are_refused(published: dict[str, dict[str, Any]]) -> None:
    config = ModelConfig.from_dict(published["deepseek-v3"])
    with pytest.raises(ValueError, match="fp8"):
        _ = config.int4


@pytest.mark.parametrize("rope", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("yarn", [None, YarnScaling(64.0, 4096, 1.0, 1.0, 1.0, 1.0)])
def test_transformers_reads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, rope: str, yarn: YarnScaling | None
) -> None:
    from transformers import AutoConfig

    config = replace(ModelConfig.from_dict(TINY), rope_scaling=yarn, raw={})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(rope)))
    theirs: Any = AutoConfig.from_pretrained(tmp_path)
    for key in TINY:
        if key not in ("rope_theta", "rope_scaling"):
            assert getattr(theirs, key) == TINY[key], key
    assert theirs.rope_parameters["rope_theta"] == 50000.0
    assert theirs.rope_parameters.get("factor") == (yarn and yarn.factor)
    theirs.save_pretrained(tmp_path / "again")
    again = ModelConfig.load(tmp_path / "again")
    assert replace(again, bos_token_id=None, eos_token_id=None) == config
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again.to_dict() == written


@given(
    key=st.sampled_from(["vocab_size", "num_hidden_layers", "rms_norm_eps", "rope_theta"]),
    extra=st.dictionaries(st.text(min_size=1).map(lambda k: "x_" + k), st.none() | st.booleans() | st.text()),
    v5=st.booleans(),
)
def test_a_changed_field_is_written_and_nothing_else(key: str, extra: dict[str, Any], v5: bool) -> None:
    given_ = {**TINY, **extra}
    if v5:
        del given_["rope_theta"], given_["rope_scaling"]
        given_["rope_parameters"] = {"rope_type": "default", "rope_theta": 50000.0}
    config = ModelConfig.from_dict(given_)
    changed = replace(config, **{key: getattr(config, key) * 2})
    out = changed.to_dict()
    assert ModelConfig.from_dict(out) == changed
    touched = "rope_parameters" if v5 and key == "rope_theta" else key
    assert {k: v for k, v in out.items() if k != touched} == {k: v for k, v in given_.items() if k != touched}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt_oss"}, "gpt_oss"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ({"topk_method": "greedy"}, "topk_method='greedy'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2"),
        ({"rope_interleave": False}, "rope_interleave=False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ({"hidden_size": "64"}, "hidden_size='64'"),
        ({"hidden_size": True}, "hidden_size=True"),
        ({"kv_lora_rank": None}, "kv_lora_rank"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim=7"),
        ({"n_group": 3}, "n_group=3"),
        ({"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}, "num_experts_per_tok=3"),
        ({"first_k_dense_replace": 4}, "first_k_dense_replace=4"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"type": "linear"}}, "'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor=0"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "original_max_position_embeddings"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 8, "truncate": False}},
            "truncate",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
    ],
)
def test_unsupported_values_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        ModelConfig.from_dict({**TINY, **change})


@pytest.mark.parametrize("key", ["n_group", "routed_scaling_factor", "q_lora_rank", "norm_topk_prob", "rms_norm_eps"])
def test_keys_on_whose_default_readers_disagree_must_be_stated(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ModelConfig.from_dict({k: v for k, v in TINY.items() if k != key})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_bits": 8}, "num_bits=8"),
        ({"group_size": 128}, "group_size=128"),
        ({"symmetric": False}, "symmetric=False"),
        ({"strategy": "channel"}, "strategy='channel'"),
        ({"actorder": "group"}, "actorder='group'"),
    ],
)
def test_other_int4_schemes_are_named(change: dict[str, Any], named: str) -> None:
    block = Int4Scheme().to_dict()
    block["config_groups"]["group_0"]["weights"].update(change)
    with pytest.raises(ValueError, match=re.escape(named)):
        ModelConfig.from_dict({**TINY, "quantization_config": block})


def test_bad_files_give_one_line_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="hint"):
        ModelConfig.load(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON.*hint"):
        ModelConfig.load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json: a config must be a JSON object"):
        ModelConfig.load(tmp_path)


def test_the_promised_door_is_the_family() -> None:
    from abruzzi import config

    assert config.ModelConfig is ModelConfig and config.__all__ == ["ModelConfig"]


def test_every_real_config_loads_or_is_refused_by_name(shared: Path) -> None:
    found = json.loads((shared / "data" / "families" / "configs.json").read_text())
    loaded = set()
    for name, entry in found.items():
        given_ = entry["config"]
        try:
            config = ModelConfig.from_dict(given_)
        except ValueError as error:
            assert repr(given_["model_type"]) in str(error) and "expected one of deepseek_v3, kimi_k2" in str(error)
        else:
            assert config.to_dict() == given_
            loaded.add(name)
    assert len(found) == 27
    assert loaded == {
        *("moonlight-16b-a3b", "deepseek-v3", "kimi-k2.6", "glm-4.7-flash", "smollm2-135m-instruct"),
        *("llama-3.1-8b", "llama-3.2-3b", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b"),
        *("qwen3-30b-a3b", "qwen3-235b-a22b"),
    }


def test_a_config_under_a_false_name_is_refused_with_the_key(shared: Path) -> None:
    """The other families' keys, read as ours: a clear refusal, never a stray exception."""
    refused = {}
    for name, entry in json.loads((shared / "data" / "families" / "configs.json").read_text()).items():
        try:
            ModelConfig.from_dict({**entry["config"], "model_type": "deepseek_v3", "architectures": None})
        except ValueError as error:
            refused[name] = str(error)
    assert len(refused) == 27 - 4  # glm-4.7-flash is of this shape
    assert "hidden_act" in refused["gemma-4-26b-a4b"] or "lacks" in refused["gemma-4-26b-a4b"]
    assert "num_key_value_heads=4" in refused["qwen3-30b-a3b"]


WRONG: list[Any] = [None, True, -1, 0, 3, 1.5, math.nan, "x", [], ["x"], {}, {"type": "yarn"}, {"type": []}]


@pytest.mark.parametrize(
    "key", [*TINY, "rope_parameters", "quantization_config", "eos_token_id", "tie_word_embeddings"]
)
def test_whatever_stands_in_a_key_is_read_or_refused(key: str) -> None:
    for value in WRONG:
        try:
            config = ModelConfig.from_dict({**TINY, key: value})
        except ValueError as error:
            assert re.search(rf"{key}|model_type|n_group|num_|lacks", str(error)), (value, str(error))
        else:
            assert config.to_dict() == {**TINY, key: value} or value != value


@pytest.mark.parametrize("key", [k for k in TINY if TINY[k] is None or k in ("rope_theta", "max_position_embeddings")])
def test_null_counts_as_absent(key: str) -> None:
    absent = ModelConfig.from_dict({**{k: v for k, v in TINY.items() if k != key}, "q_lora_rank": None})
    null = {**TINY, key: None}
    assert ModelConfig.from_dict(null) == absent
    assert ModelConfig.from_dict(null).to_dict() == null
    yarn = {"type": "yarn", "factor": 2, "original_max_position_embeddings": 8, "rope_theta": None}
    plain = ModelConfig.from_dict({**TINY, "rope_scaling": yarn})
    known = {**yarn, "attention_factor": None, "truncate": True, "mscale": None}
    assert ModelConfig.from_dict({**TINY, "rope_scaling": known}) == plain
    assert plain.rope_theta == 50000.0


def test_types_are_checked_whatever_the_annotation_is_called() -> None:
    for key, value, expected in (
        ("pad_token_id", "0", "pad_token_id='0' has the wrong type; expected an integer"),
        ("norm_topk_prob", 1, "norm_topk_prob=1 has the wrong type; expected true or false"),
        ("rms_norm_eps", True, "rms_norm_eps=True has the wrong type; expected a number"),
        ("eos_token_id", [1, "x"], "eos_token_id='x' has the wrong type; expected an integer"),
        ("eos_token_id", "x", "eos_token_id='x' has the wrong type; expected an integer or a list"),
        ("quantization_config", [], "quantization_config=[] has the wrong type; expected an object"),
        ("rope_theta", "1e4", "rope_theta='1e4' has the wrong type; expected a number"),
    ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            ModelConfig.from_dict({**TINY, key: value})


@pytest.mark.parametrize("wrong", [[], "x", 4, None])
@pytest.mark.parametrize("key", ["config_groups", "group_0", "weights"])
def test_a_malformed_int4_block_is_refused_with_its_path(key: str, wrong: Any) -> None:
    block = Int4Scheme().to_dict()
    holder = {"config_groups": block, "group_0": block["config_groups"], "weights": block["config_groups"]["group_0"]}
    holder[key][key] = wrong
    with pytest.raises(ValueError, match=r"quantization_config\.config_groups.*expected an object"):
        ModelConfig.from_dict({**TINY, "quantization_config": block})

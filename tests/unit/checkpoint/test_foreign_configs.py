"""config.json and tokenizer.json as other tools write them: null is absent, and nothing ends in a
TypeError."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi import tokenizer
from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.llm import LLM
from tests import tiny

YARN: dict[str, Any] = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("quirks") / "base", int4=False)


def config_of(base: Path) -> dict[str, Any]:
    return json.loads((base / "config.json").read_text())


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {},
        {"type": None},
        {**YARN, "attention_factor": None, "mscale": None},
        {**YARN, "truncate": True},
        {**YARN, "truncate": None},
        {**YARN, "rope_type": "yarn"},
        {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.0},
    ],
)
@pytest.mark.parametrize("theta", [None, 10000, 50000.0])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_null_counts_as_absent_and_defaults_may_be_spelt_out(base: Path, scaling: Any, theta: Any, key: str) -> None:
    given = config_of(base) | {"rope_theta": theta, "rope_scaling": None}
    if key == "rope_parameters" and scaling is not None:
        scaling = {**scaling, "rope_theta": theta}
    config = ModelConfig.from_dict(given | {key: scaling})
    assert config.rope_theta == (theta or 10000)
    assert (config.rope_scaling is not None) is bool(scaling and scaling.get("type"))
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("factor", "beta_fast", "beta_slow") for value in (0, 0.0, float("nan"), 1e999)),
        {"original_max_position_embeddings": 0},
        {"mscale": float("nan")},
        {"rope_theta": 1},
    ],
)
def test_numbers_that_yarn_cannot_divide_by_are_refused_by_name(base: Path, changes: dict[str, Any]) -> None:
    given = config_of(base) | {"rope_theta": None, "rope_scaling": {**YARN, **changes}}
    with pytest.raises(ValueError, match=next(iter(changes))):
        ModelConfig.from_dict(given)


@pytest.mark.parametrize("changes", [{"truncate": False}, {"attention_factor": 1.5}, {"attention_factor": "1"}])
def test_what_would_have_to_be_ignored_is_refused_by_name(base: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"rope_scaling.{next(iter(changes))}="):
        ModelConfig.from_dict(config_of(base) | {"rope_scaling": {**YARN, **changes}})


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, v in inner for p in paths(v, (*path, key)))]


ODD = st.sampled_from([None, True, -1, 0, 0.5, float("nan"), "x", "re:(", [], [None], {}, {"a": None}, 1 << 70])


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_in_a_config_loads_or_is_one_value_error(data: st.DataObject) -> None:
    config = ModelConfig(
        **{k: v for k, v in CONFIG.items()}, rope_scaling=None, quantization_config=Int4Scheme().to_dict()
    ).to_dict()
    config |= {"rope_scaling": dict(YARN)}
    config = copy.deepcopy(config)
    target: Any = config
    path = data.draw(st.sampled_from(paths(config)[1:]))
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(ODD)
    try:
        read = ModelConfig.from_dict(config)
        assert read.int4 is None or read.int4.group_size == 32
        if read.qk_rope_head_dim < 1000:
            assert len(read.rope_inv_freq()) == read.qk_rope_head_dim // 2
    except ValueError as error:
        assert "\n" not in str(error)


CONFIG = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "kv_lora_rank": 32,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "eos_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("normalizer", "loads"),
    [
        (None, True),
        ({"type": "Sequence", "normalizers": []}, True),
        ({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, True),
        ({"type": "NFC"}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, False),
        ({"type": "NFKC"}, False),
        ({"type": "Sequence"}, False),
        ("Sequence", False),
    ],
)
def test_a_normalizer_may_do_nothing_or_compose_characters(base: Path, normalizer: Any, loads: bool) -> None:
    given = json.loads((base / "tokenizer.json").read_text()) | {"normalizer": normalizer}
    if not loads:
        with pytest.raises(ValueError, match="normalizer"):
            tokenizer.bpe.from_json(json.dumps(given))
        return
    plain, read = tokenizer.load(base), tokenizer.bpe.from_json(json.dumps(given))
    assert read.encode("Ünicode  text\n") == plain.encode("Ünicode  text\n")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_named_with_its_cure(base: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n")
    with pytest.raises(ValueError, match=rf"{name} is a git-lfs pointer.*hint: .*git lfs pull"):
        LLM.load(folder)


def test_the_engine_ends_where_generation_config_says(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "m"))
    with open_checkpoint(folder) as checkpoint:
        (own,) = checkpoint.config.eos_token_ids
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, own]}))
    assert LLM.load(folder, threads=1).config.eos_token_ids == (own, 3)

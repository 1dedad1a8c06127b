"""quantize_checkpoint: experts become INT4, nothing else changes, and what belongs to the model
travels along."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_weights import BIAS, CONFIG, UP, weights

from abruzzi.arch import Int4Scheme, LlamaConfig, ModelConfig
from abruzzi.checkpoint import open_checkpoint, quantize_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.quant.int4 import quantize_matrix


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_experts_only(dtype: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "float", CONFIG, weights(), dtype=dtype, max_shard_bytes=30_000)
    quantize_checkpoint(tmp_path / "float", tmp_path / "int4", max_shard_bytes=30_000)
    with open_checkpoint(tmp_path / "float") as before, open_checkpoint(tmp_path / "int4") as after:
        assert len(after.files) > 1
        for name in before.names():
            stored = before.array(name)
            if after.is_int4(name):
                assert ".mlp.experts." in name
                want = quantize_matrix(stored)
                got = after.packed(name)
                assert np.array_equal(got.packed, want.packed) and np.array_equal(got.scale, want.scale)
            else:
                assert ".mlp.experts." not in name
                assert after.array(name).dtype == stored.dtype and np.array_equal(after.array(name), stored)
    config = json.loads((tmp_path / "int4" / "config.json").read_text())
    assert config["torch_dtype"] == dtype and ModelConfig.from_dict(config).int4 == Int4Scheme()
    assert ModelConfig.from_dict(config).with_int4(None) == CONFIG


def test_dtype_is_obeyed_and_float16_widens(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "float", CONFIG, weights(), dtype="float32")
    quantize_checkpoint(tmp_path / "float", tmp_path / "narrow", dtype="bfloat16")
    with open_checkpoint(tmp_path / "narrow") as checkpoint:
        dtypes = {n: checkpoint.stored_dtype(n) for n in checkpoint.names()}
    assert dtypes.pop(BIAS) == "float32" and set(dtypes.values()) == {"bfloat16", "int4"}
    half = {n: a.astype(np.float16) for n, a in weights().items()}
    save_file(half, tmp_path / "float" / "model.safetensors")
    quantize_checkpoint(tmp_path / "float", tmp_path / "wide")
    with open_checkpoint(tmp_path / "wide") as checkpoint:
        name = "lm_head.weight"
        assert checkpoint.stored_dtype(name) == "float32" and np.array_equal(checkpoint.array(name), half[name])


def test_what_travels(tmp_path: Path) -> None:
    carried = {"tokenizer.json": "{}", "chat_template.jinja": "{{ x }}", "tiktoken.model": "aGk= 0", "README.md": "#"}
    carried |= {"LICENSE": "terms", "generation_config.json": '{"temperature": 1.0}'}
    save_checkpoint(tmp_path / "m", CONFIG, weights(), max_shard_bytes=30_000, extra_files=carried)
    for name in ("pytorch_model.bin", "optimizer.pt", "modeling.py", "pytorch_model.bin.index.json", "x.safetensors"):
        (tmp_path / "m" / name).write_bytes(b"cos\nsystem\n")
    (tmp_path / "m" / "figures.md").mkdir()
    quantize_checkpoint(tmp_path / "m", tmp_path / "int4")
    assert set(os.listdir(tmp_path / "int4")) == {*carried, "config.json", "model.safetensors"}
    assert all((tmp_path / "int4" / name).read_text() == text for name, text in carried.items())


def test_refusals_leave_both_as_they_were(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", CONFIG, weights())
    quantize_checkpoint(tmp_path / "m", tmp_path / "int4")
    (tmp_path / "link").symlink_to("m")
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match="INT4 already; hint"):
        quantize_checkpoint(tmp_path / "int4", tmp_path / "again")
    for target in ("m", "link"):
        with pytest.raises(ValueError, match="is the source itself; hint"):
            quantize_checkpoint(tmp_path / "m", tmp_path / target, overwrite=True)
    with pytest.raises(FileExistsError, match="hint"):
        quantize_checkpoint(tmp_path / "m", tmp_path / "int4")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        quantize_checkpoint(tmp_path / "nothing", tmp_path / "new")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors[UP] = tensors[UP].copy()
    tensors[UP][3, 7] = ml_dtypes.bfloat16(np.nan)
    (tmp_path / "sick").mkdir()
    CONFIG.save(tmp_path / "sick")
    save_file(tensors, tmp_path / "sick" / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        quantize_checkpoint(tmp_path / "sick", tmp_path / "int4", overwrite=True)
    assert f"sick/model.safetensors: {UP} holds NaN or infinity, first at [3, 7]" in str(caught.value)
    assert all(f.read_bytes() == data for f, data in before.items())
    assert {p.name for p in tmp_path.iterdir()} == {"m", "int4", "link", "sick"}


def test_what_has_no_experts_and_what_is_a_file_are_refused(tmp_path: Path) -> None:
    config: Any = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    ones = {n: np.ones(spec.shape, np.float32) for n, spec in expected_tensors(config).items()}
    save_checkpoint(tmp_path / "llama", config, ones, dtype="float32", int4=False)
    with pytest.raises(ValueError, match="has no routed experts to quantize; hint: --weights all-4-bit"):
        quantize_checkpoint(tmp_path / "llama", tmp_path / "out")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a file; hint"):
        quantize_checkpoint(tmp_path / "m.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()

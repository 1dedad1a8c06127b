"""`abruzzi fit`: what it predicts is what loading then takes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from abruzzi import tokenizer
from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.arch.tensors import Tensor
from abruzzi.checkpoint.layout import stored_tensors, written_dtype
from abruzzi.checkpoint.safetensors_file import write_safetensors
from abruzzi.cli import fit as command
from abruzzi.cost.capacity import Stored, available_memory, cache_bytes_per_token, capacity, loaded_bytes
from abruzzi.engine.measure import estimate
from abruzzi.engine.step.state import KvCache
from abruzzi.engine.weights.random_model import named_shape
from tests import tiny
from tests.e2e.test_cli import abruzzi, one_clear_line

# Prints how much anonymous memory a loaded model holds: not the files that are mapped, whose pages
# the system drops when it needs them, nor what malloc keeps of memory that was freed (up to one
# layer, as it was read).
LOAD = """
import ctypes, sys
from abruzzi.engine.llm import LLM
def anonymous():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("RssAnon"))
before = anonymous()
llm = LLM.load(sys.argv[1], cache_tokens=16)
ctypes.CDLL(None).malloc_trim(0)
print(anonymous() - before)
"""


def write_random(folder: Path) -> ModelConfig:
    """82 MB of random INT4 experts and bf16 matrices, straight from a random generator (no
    quantizing)."""
    vocab = tiny.vocabulary()
    config = ModelConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1024,
        moe_intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        n_routed_experts=48,
        num_experts_per_tok=4,
        q_lora_rank=256,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=vocab.id_of("[BOS]"),
        eos_token_id=vocab.id_of("<|im_end|>"),
    ).with_int4(Int4Scheme())
    rng = np.random.default_rng(0)
    floats = rng.uniform(0.01, 0.02, 4096 * 1024).astype(np.float32)
    words = rng.integers(-(1 << 31), 1 << 31, 1 << 20, np.int32)

    def array(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("_shape"):
            rows, columns = entries[name.removesuffix("_shape") + "_packed"][1]
            return np.array([rows, columns * 8], np.int64)
        if dtype == "I32":
            return words[: math.prod(shape)].reshape(shape)
        return floats[: math.prod(shape)].reshape(shape).astype(np.float32 if dtype == "F32" else ml_dtypes.bfloat16)

    stored = stored_tensors(config)
    entries = {n: (written_dtype(spec, "bfloat16"), spec.shape) for n, spec in stored.items()}
    folder.mkdir()
    arrays = ((n, array(n, dtype, shape)) for n, (dtype, shape) in entries.items())
    write_safetensors(folder / "model.safetensors", entries, arrays)
    config.save(folder)
    for name, content in tokenizer.chat_files(vocab, max_context=2048).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return config


def fit(folder: Path) -> dict[str, Any]:
    """The command in this process, with a short probe."""
    return json.loads(printed(folder, as_json=True))


def printed(folder: Path, as_json: bool = False, weights: str = "native") -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(estimate, "WINDOW_SECONDS", 0.001)
        assert command.fit(str(folder), None, weights, "exact", None, as_json) == 0  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "random"
    write_random(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_predicted_memory_is_what_loading_takes(model: Path) -> None:
    done = abruzzi("fit", "--json", str(model))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    said = json.loads(done.stdout)
    assert {"weights_bytes", "kv_bytes_per_token", "max_context", "decode_tok_s_estimate", "fits"} <= set(said)
    measured = int(subprocess.run([sys.executable, "-c", LOAD, str(model)], capture_output=True, check=True).stdout)
    assert said["weights_bytes"] > 60e6
    assert said["weights_bytes"] == pytest.approx(measured, rel=0.05)
    assert said["fits"] and said["max_context"] == 2048 and said["context"] == 2048
    assert said["decode_tok_s_estimate"] > said["decode_tok_s_at_context"] > 0
    text = abruzzi("fit", str(model), "--context", "100").stdout
    assert "fits, with a context of 100 tokens" in text and "timed just now" in text


def test_config_json_alone_is_enough(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "config.json", tmp_path)
    whole, alone = fit(model), fit(tmp_path)
    assert alone["weights_from"] == "config.json alone"
    for key in ("weights_bytes", "kv_bytes_per_token", "bytes_per_token"):
        assert alone[key] == whole[key]


def test_an_unquantized_model_is_told_what_int4_would_take(model: Path, tmp_path: Path) -> None:
    whole = ModelConfig.load(model)
    whole.with_int4(None).save(tmp_path)
    bf16, int4 = fit(tmp_path), fit(model)
    assert bf16["weights_bytes"] > 1.5 * int4["weights_bytes"]
    assert (bf16["weights_bytes_in_int4"], int4["weights_bytes_in_int4"]) == (int4["weights_bytes"], None)
    # Far too large for any machine: one clear answer, no rate, and the hint.
    replace(whole.with_int4(None), vocab_size=1 << 40).save(tmp_path)
    huge = fit(tmp_path)
    assert (huge["fits"], huge["max_context"], huge["decode_tok_s_estimate"]) == (False, 0, None)
    text = printed(tmp_path)
    assert "does not fit" in text and "`abruzzi quantize`" in text and "tok/s" not in text


def test_what_cannot_be_answered_is_one_line(model: Path, tmp_path: Path) -> None:
    one_clear_line(abruzzi("fit", str(model), "--context", "4096"), "context 4096; expected 1 to 2048")
    one_clear_line(abruzzi("fit", "http://127.0.0.1:1"), "runs elsewhere")
    one_clear_line(abruzzi("fit", str(tmp_path / "none")), "is not there")
    one_clear_line(abruzzi("fit", str(model), "--weights", "bf16"), "weights='bf16'; expected one of native")
    one_clear_line(abruzzi("fit", str(model), "--precision", "quick"), "precision='quick'; expected one of exact")
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    one_clear_line(abruzzi("fit", str(broken)), "truncated")


@pytest.mark.parametrize("weights", ["native", "int8-dense", "all-4-bit"])
def test_every_matrix_takes_what_the_engine_says(model: Path, weights: Any) -> None:
    from abruzzi.checkpoint import open_checkpoint
    from abruzzi.engine.step.native import NativeRunner

    with open_checkpoint(model) as checkpoint:
        tensors = [Stored(checkpoint.tensor(n), checkpoint.stored_dtype(n)) for n in checkpoint.names()]
        held = NativeRunner.load(checkpoint, threads=1, weights=weights).weight_bytes
        cache = KvCache.bytes_per_slot(checkpoint.config)
    config = ModelConfig.load(model)
    assert loaded_bytes([t for t in tensors if len(t.tensor.shape) == 2], weights) == held
    assert cache_bytes_per_token(config) == cache
    assert json.loads(printed(model, as_json=True, weights=weights))["weights_bytes"] == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("weights", ["native", "int8-dense", "all-4-bit"])
@pytest.mark.parametrize("shape", ["moonlight", "with q_lora", "all dense"])
def test_the_pieces_that_are_timed_make_the_whole(monkeypatch: pytest.MonkeyPatch, shape: str, weights: Any) -> None:
    """On a machine that is a formula: so many bytes per second, so much time for a layer and a
    position."""
    from abruzzi.cli.fit import planned
    from abruzzi.cost.capacity import step_bytes

    whole = named_shape("moonlight").with_int4(Int4Scheme())
    if shape == "with q_lora":
        whole = replace(whole, q_lora_rank=768, n_group=4, topk_group=2, first_k_dense_replace=3)
    elif shape == "all dense":
        whole = replace(whole, first_k_dense_replace=27)

    def seconds(config: ModelConfig, depth: int) -> float:
        layers = config.num_hidden_layers
        bytes_read = step_bytes(config, planned(config), depth, 1, weights)
        return bytes_read / 36e9 + layers * 20e-6 + layers * depth * 0.3e-6

    seen: list[ModelConfig] = []

    def made(config: ModelConfig, *_: object, **__: object) -> Any:
        seen.append(config)
        return type("Made", (), {"runner": type("R", (), {"config": config})})

    monkeypatch.setattr(estimate, "random_model", made)
    monkeypatch.setattr(estimate, "_step_seconds", lambda runner, depth: seconds(runner.config, depth))
    depths = (0, 500, 8000)
    got = estimate.decode_seconds(whole, depths, 10 << 30, weights)
    assert got == pytest.approx([seconds(whole, d) for d in depths], rel=0.02)
    held = [loaded_bytes(planned(c), weights) for c in seen]
    assert max(held) < 1.2e9 and all(c.num_hidden_layers <= 2 for c in seen)


def test_a_model_that_is_too_large() -> None:
    config = replace(tiny_config(), max_position_embeddings=1000)
    norm, experts = Tensor("norm", "final", "n", (1000,)), Tensor("routed_experts", "up", "e", (17, 96), experts=4)
    tensors = [Stored(norm, "bfloat16"), Stored(experts, "int4")]
    needed = 4 * 1000 + 2 * 3 * 288  # a float32 vector, and tiles of 16 rows and 32 columns
    kv = 4 * 2 * (32 + 16)
    found = capacity(config, tensors, 50, needed + 2 * 70 * kv)
    assert (found.weights_bytes, found.kv_bytes_per_token, found.max_context) == (needed, kv, 70)
    assert found.fits and found.needed_bytes == needed + 50 * kv
    assert not capacity(config, tensors, 71, needed + 2 * 70 * kv).fits
    small = capacity(config, tensors, 50, needed - 1)
    assert (small.max_context, small.weights_fit, small.fits) == (0, False, False)
    # Of the experts a token reads two of four, of the embedding one row, of kv_b_proj two parts of
    # three.
    for role, part, dtype, read in (
        ("routed_experts", "up", "float32", 2 * 2048 / 2),
        ("embedding", "tokens", "float16", 4 * 32),
        ("attention", "kv_b", "bfloat16", 2 * 2 * 1024),
        ("attention", "o", "bfloat16", 2 * 1024),
        ("attention", "o", "int4", 2 * 2048),  # the engine widens INT4 that is not an expert's
    ):
        tensor = config.inventory.get(role, part, None if role == "embedding" else 1)
        one = capacity(config, [Stored(tensor, dtype)], 50, 1)
        assert one.bytes_per_token == 50 * kv + read, part


def tiny_config() -> ModelConfig:
    return ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    )


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal: 32000 kB\nMemFree: 100 kB\nMemAvailable:   16000 kB\n")
    assert available_memory(tmp_path) == 16_000 * 1024
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n")
    assert available_memory(tmp_path) == 16_000 * 1024
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "10000\n")
    write("sys/fs/cgroup/memory/memory.stat", "cache 7\ntotal_inactive_file 3\n")
    assert available_memory(tmp_path) == 10_000 - 5 + 3
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "9000000\n")
    assert available_memory(tmp_path) == 16_000 * 1024
    write("sys/fs/cgroup/memory.max", "9500000\n")
    write("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 200\n")
    assert available_memory(tmp_path) == 500_200

"""GGUF files: written by the gguf package, which nobody here wrote, with a converter's changes left in;
read back, they give the model that the same weights give from safetensors. And files that are broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as reference
from gguf.quants import quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abruzzi.arch import ModelConfig, Qwen3Config, Qwen3MoeConfig, YarnScaling
from abruzzi.arch.gguf import config_of
from abruzzi.arch.llama import LlamaConfig
from abruzzi.arch.rope import LinearScaling, Llama3Scaling, inv_freq
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.state import Chunk, KvCache
from abruzzi.quant.ggml import TYPES, dequantize
from abruzzi.quant.gguf_file import GgufFile, open_shards

COMMON: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": 2, "head_dim": 16}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**GROUPED, rope_theta=500.0, eos_token_id=2),
    "llama-tied": LlamaConfig(**GROUPED, tie_word_embeddings=True, rope_scaling=LinearScaling(4.0)),
    "llama-3.1": LlamaConfig(**GROUPED, rope_theta=5e5, rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)),
    "llama-biased": LlamaConfig(**GROUPED, attention_bias=True),
    "qwen3": Qwen3Config(**GROUPED, rope_theta=1e6, tie_word_embeddings=True),
    "qwen3-yarn": Qwen3Config(**GROUPED, rope_scaling=YarnScaling(4.0, 32)),
    "qwen3moe": Qwen3MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True
    ),
}
MLA = ModelConfig(
    **COMMON,
    moe_intermediate_size=32,
    n_routed_experts=4,
    num_experts_per_tok=2,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=24,
    routed_scaling_factor=1.5,
)
CONFIGS |= {
    "deepseek2": MLA,
    "deepseek2-lora": replace(MLA, q_lora_rank=40, n_group=2, topk_group=1),
    "deepseek2-yarn": replace(MLA, rope_scaling=YarnScaling(16.0, 16, mscale=1.0, mscale_all_dim=1.0)),
}
PARTS = {
    "q_proj": "attn_q",
    "q_a_proj": "attn_q_a",
    "q_b_proj": "attn_q_b",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "q_a_layernorm": "attn_q_a_norm",
    "kv_a_layernorm": "attn_kv_a_norm",
    "kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "kv_b_proj": "attn_kv_b",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "gate": "ffn_gate_inp",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "e_score_correction_bias": "exp_probs_b",
}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
OUTSIDE |= {"lm_head.weight": "output.weight"}


def weights_of(config: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, spec in expected_tensors(config).items():
        loud = rng.uniform(0.5, 1.5, spec.shape) if len(spec.shape) == 1 else rng.normal(0, 0.3, spec.shape)
        made[name] = loud.astype(np.float32)
    return made


def converted(config: Any, weights: dict[str, np.ndarray], undo: frozenset[str] = frozenset()) -> dict[str, np.ndarray]:
    """Weights as llama.cpp's converter names and changes them. undo: changes that are left out."""
    out: dict[str, np.ndarray] = {}
    stacked: dict[str, list[np.ndarray]] = {}
    for name, array in weights.items():
        if name in OUTSIDE:
            out[OUTSIDE[name]] = array
            continue
        _, _, layer, *rest = name.split(".")
        kind = "bias" if rest[-1] in ("bias", "e_score_correction_bias") else "weight"
        part = rest[-1] if rest[-1] == "e_score_correction_bias" else rest[-2]
        shared = "_shexp" if "shared_experts" in rest else ""
        at = f"blk.{layer}.{PARTS[part]}{shared}"
        if "experts" in rest:
            stacked.setdefault(f"{at}_exps.weight", []).append(array)
            continue
        if config.model_type == "llama" and part in ("q_proj", "k_proj") and "pairs" not in undo:
            heads = array.shape[0] // config.head_width
            array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        if part == "kv_b_proj" and "split" not in undo:
            c = config
            both = array.reshape(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
            out[f"blk.{layer}.attn_k_b.weight"] = np.ascontiguousarray(both[:, : c.qk_nope_head_dim].swapaxes(1, 2))
            out[f"blk.{layer}.attn_v_b.weight"] = np.ascontiguousarray(both[:, c.qk_nope_head_dim :])
            continue
        out[f"{at}.{kind}"] = array
    if isinstance(config.rope_scaling, Llama3Scaling):
        plain = inv_freq(config.head_width, config.rope_theta, None)
        out["rope_freqs.weight"] = np.array([p / f for p, f in zip(plain, config.rope_inv_freq())], np.float32)
    return out | {name: np.stack(arrays) for name, arrays in stacked.items()}


def write(
    path: Path,
    config: Any,
    tensors: dict[str, np.ndarray],
    kinds: Callable[[str], str] = lambda name: "F32",
    change: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    arch = {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "deepseek_v3": "deepseek2"}[config.model_type]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if config.eos_token_id is not None:
        writer.add_eos_token_id(config.eos_token_id)
    if arch == "deepseek2":
        _write_mla(writer, config)
    else:
        writer.add_head_count_kv(config.kv_heads)
        writer.add_key_length(config.head_width)
        writer.add_value_length(config.head_width)
    if config.n_routed_experts:
        writer.add_expert_count(config.n_routed_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if isinstance(config.rope_scaling, (LinearScaling, YarnScaling)):
        yarn = isinstance(config.rope_scaling, YarnScaling)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN if yarn else gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
        if yarn:
            writer.add_rope_scaling_orig_ctx_len(config.rope_scaling.original_max_position_embeddings)
            if config.rope_scaling.mscale_all_dim:
                writer.add_rope_scaling_yarn_log_mul(0.1 * config.rope_scaling.mscale_all_dim)
    change(writer)
    for name, array in tensors.items():
        kind = gguf.GGMLQuantizationType[kinds(name)]
        writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_mla(writer: gguf.GGUFWriter, c: Any) -> None:
    writer.add_head_count_kv(1)
    writer.add_key_length(c.kv_lora_rank + c.qk_rope_head_dim)
    writer.add_value_length(c.kv_lora_rank)
    writer.add_key_length_mla(c.qk_head_dim)
    writer.add_value_length_mla(c.v_head_dim)
    writer.add_rope_dimension_count(c.qk_rope_head_dim)
    writer.add_kv_lora_rank(c.kv_lora_rank)
    if c.q_lora_rank:
        writer.add_q_lora_rank(c.q_lora_rank)
    writer.add_leading_dense_block_count(c.first_k_dense_replace)
    writer.add_expert_shared_count(c.n_shared_experts)
    writer.add_expert_weights_scale(c.routed_scaling_factor)
    writer.add_expert_weights_norm(c.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_group_count(c.n_group)
    writer.add_expert_group_used_count(c.topk_group)


IDS = np.random.default_rng(1).integers(0, 60, 30)


def logits(path: Path) -> np.ndarray:
    with open_checkpoint(path) as checkpoint:
        runner = NativeRunner.load(checkpoint, threads=1)
    cache = KvCache(runner.config, len(IDS))
    chunk = Chunk(IDS, 0, np.arange(len(IDS), dtype=np.int32), all_logits=True)
    return runner.forward([chunk], cache)[0]


def from_safetensors(tmp_path: Path, config: Any, weights: dict[str, np.ndarray]) -> np.ndarray:
    save_checkpoint(tmp_path / "safetensors", config, weights, dtype="float32", int4=False)
    return logits(tmp_path / "safetensors")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_converted_model_is_the_model(tmp_path: Path, name: str) -> None:
    config, weights = CONFIGS[name], weights_of(CONFIGS[name])
    path = write(tmp_path / "m.gguf", config, converted(config, weights))
    with open_checkpoint(path) as checkpoint:
        for tensor, array in weights.items():
            np.testing.assert_array_equal(checkpoint.array(tensor), array)
    np.testing.assert_allclose(logits(path), from_safetensors(tmp_path, config, weights), rtol=0, atol=2e-5)


def test_kv_b_in_one_piece_is_read_as_well(tmp_path: Path) -> None:
    weights = weights_of(MLA)
    path = write(tmp_path / "m.gguf", MLA, converted(MLA, weights, frozenset({"split"})))
    np.testing.assert_array_equal(logits(path), from_safetensors(tmp_path, MLA, weights))


def test_the_change_of_rows_matters(tmp_path: Path) -> None:
    """The converter's change left in, as a reader would see it that does not undo it."""
    config, weights = CONFIGS["llama"], weights_of(CONFIGS["llama"])
    path = write(tmp_path / "m.gguf", config, converted(config, weights, frozenset({"pairs"})))
    assert np.abs(logits(path) - from_safetensors(tmp_path, config, weights)).max() > 0.1


def test_layers_of_multi_token_prediction_are_left_out(tmp_path: Path) -> None:
    weights = weights_of(MLA)
    tensors = converted(MLA, weights) | {"blk.2.nextn.eh_proj.weight": np.ones((64, 128), np.float32)}

    def announce(writer: gguf.GGUFWriter) -> None:
        writer.add_nextn_predict_layers(1)

    path = write(tmp_path / "m.gguf", replace(MLA, num_hidden_layers=3), tensors, change=announce)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.skipped == ("blk.2.nextn.eh_proj.weight",) and checkpoint.config.num_hidden_layers == 2
    np.testing.assert_allclose(logits(path), from_safetensors(tmp_path, MLA, weights), rtol=0, atol=2e-5)


# block types


READ = [t.name for t in TYPES.values() if t.read]


@pytest.mark.parametrize("name", READ)
def test_blocks_are_what_the_gguf_package_makes_of_them(name: str) -> None:
    kind = next(t for t in TYPES.values() if t.name == name)
    data = np.random.default_rng(3).integers(0, 256, (200, kind.bytes), dtype=np.uint8)
    ours = dequantize(kind, data.reshape(-1), (200, kind.elements))
    with np.errstate(invalid="ignore", over="ignore"):
        theirs = reference(data, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def test_block_types_have_the_numbers_and_sizes_of_the_gguf_package() -> None:
    for number, kind in TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert (theirs.name, gguf.GGML_QUANT_SIZES[theirs]) == (kind.name, (kind.elements, kind.bytes))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
def test_a_quantized_model_is_that_of_its_dequantized_weights(tmp_path: Path, kind: str) -> None:
    config = CONFIGS["qwen3moe"]
    tensors = converted(config, weights_of(config))
    path = write(tmp_path / "m.gguf", config, tensors, lambda name: "F32" if tensors[name].ndim == 1 else kind)
    with open_checkpoint(path) as checkpoint:
        rounded = {name: checkpoint.array(name) for name in checkpoint.names()}
        assert checkpoint.stored_dtype("model.layers.0.mlp.experts.3.up_proj.weight") == kind.lower()
    bound = 0.3 if kind.startswith("Q4") else 0.2
    for name, array in weights_of(config).items():
        assert np.abs(rounded[name] - array).max() < bound
    theirs = from_safetensors(tmp_path, config, rounded)
    np.testing.assert_allclose(logits(path), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# bad input


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CONFIGS["llama-tied"]
    return write(tmp_path_factory.mktemp("gguf") / "m.gguf", config, converted(config, weights_of(config)))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda b: b[:20], "no GGUF header"),
        (lambda b: b[:400], "ends in its header|can hold"),
        (lambda b: b[:-100], "ends at byte"),
        (lambda b: b"GGML" + b[4:], "begins with b'GGML'"),
        (lambda b: b[:4] + struct.pack("<I", 1) + b[8:], "version 1 is not read"),
        (lambda b: b[:4] + struct.pack(">I", 3) + b[8:], "big-endian"),
        (lambda b: b[:8] + struct.pack("<Q", 1 << 60) + b[16:], "tensors, more than its"),
        (lambda b: b[:16] + struct.pack("<Q", 1 << 60) + b[24:], "keys, more than its"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git-lfs"),
        (lambda b: b"<!DOCTYPE html><html>" + b[21:], "web page"),
    ],
)
def test_a_broken_file_is_one_line_that_says_what_is_wrong(
    good: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], says: str
) -> None:
    (tmp_path / "m.gguf").write_bytes(spoil(good.read_bytes()))
    with pytest.raises(ValueError, match=says) as error:
        open_checkpoint(tmp_path / "m.gguf")
    assert "m.gguf" in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_to_a_header_is_read_or_one_value_error(good: Path, tmp_path_factory: Any, data: Any) -> None:
    content = bytearray(good.read_bytes())
    header = min(len(content), 6000)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header - 8))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    path.write_bytes(content)
    try:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                checkpoint.array(name)
    except ValueError as error:
        assert "\n" not in str(error)


def test_a_quantization_that_is_not_read_is_named(tmp_path: Path) -> None:
    config = CONFIGS["llama-tied"]
    path = write(tmp_path / "m.gguf", config, converted(config, weights_of(config)))
    content = path.read_bytes()
    # The block type stands behind the sizes of the tensor's axes, here 256 x 256 of IQ4_XS.
    name = b"blk.0.ffn_up.weight"
    at = content.index(name) + len(name) + 4 + 16
    (tmp_path / "m.gguf").write_bytes(content[:at] + struct.pack("<I", 20) + content[at + 4 :])
    with pytest.raises(ValueError, match=r"blk\.0\.ffn_up\.weight is IQ4_NL, which is not read"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"general.architecture": "gemma4"}, "general.architecture 'gemma4' is not supported; expected one of llama"),
        ({}, "general.architecture None"),
        ({"general.architecture": "llama"}, r"llama\.embedding_length=None is missing"),
        ({"general.architecture": "llama", "llama.embedding_length": "64"}, "embedding_length='64'"),
    ],
)
def test_metadata_that_do_not_fit_are_named(metadata: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config_of(metadata, {"token_embd.weight": (60, 64)}, ())


def test_other_frequencies_than_llama_3s_are_refused(tmp_path: Path) -> None:
    config = CONFIGS["llama-3.1"]
    tensors = converted(config, weights_of(config))
    tensors["rope_freqs.weight"][2] *= 1.5
    with pytest.raises(ValueError, match=r"rope_freqs\.weight are not the divisors of Llama 3"):
        open_checkpoint(write(tmp_path / "m.gguf", config, tensors))


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    config = CONFIGS["llama-tied"]
    tensors = converted(config, weights_of(config))
    del tensors["blk.1.ffn_up.weight"]
    tensors |= {"blk.0.attn_sinks.weight": np.ones(4, np.float32), "blk.0.attn_v.weight": np.ones((16, 64), np.float32)}
    with pytest.raises(ValueError) as error:
        open_checkpoint(write(tmp_path / "m.gguf", config, tensors))
    for part in ("blk.1.ffn_up.weight is missing", "attn_sinks.weight is not part", "attn_v.weight has shape [16, 64]"):
        assert part in str(error.value)


def test_shards_are_one_model(tmp_path: Path, good: Path) -> None:
    config = CONFIGS["llama-tied"]
    tensors = converted(config, weights_of(config))
    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "llama", split_max_tensors=5)
    for key, value in GgufFile(good).metadata.items():
        if key.startswith("llama."):
            kinds = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
            kinds[type(value)](key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("s-*.gguf"))
    assert len(paths) > 2 and len(open_shards(paths[0])) == len(paths)
    np.testing.assert_array_equal(logits(paths[0]), logits(good))
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=paths[1].name):
        open_checkpoint(paths[0])

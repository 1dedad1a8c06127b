"""INT4 against the compressed-tensors library, bit for bit: packing, rounding, decompression,
names.

test_int4.py asks what the arithmetic gives; here the library is the judge. Each check is a
function, so that the last test can plant a mistake in `int4` and see that check go red.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor, pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import quantize as library_quantize
from compressed_tensors.utils.match import is_match

from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.quant import int4

SCHEME = QuantizationScheme(
    targets=["Linear"],
    weights=QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32),
)
TINY = ModelConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=64,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    n_routed_experts=4,
    num_experts_per_tok=2,
    kv_lora_rank=32,
    q_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
)


def weights() -> np.ndarray:
    """float32 [48, 96]: normal values, exact ties, zero groups, and rows from 1e-38 to 1e38."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((48, 96)).astype(np.float32)
    w[8:16] *= 10.0 ** np.arange(-38, 34, 9, dtype=np.float32)[:, None]
    ties = np.arange(-14, 15, dtype=np.float32) / 2  # ..., -0.5, 0, 0.5, ... with scale 1: every half is a tie
    w[16:20, 32:61], w[16:20, 61:64] = ties, 7
    w[20:24, 64:] = 0
    w[24, :32] = 1e-39
    w[25:40] = w[25:40].astype(ml_dtypes.bfloat16)
    return w


def as_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def check_packing() -> None:
    rng = np.random.default_rng(1)
    for width in (1, 7, 8, 9, 31, 32, 33, 64, 100, 257):
        codes = rng.integers(-8, 8, (5, width), np.int8)
        packed = int4.pack(codes)
        assert np.array_equal(packed, pack_to_int32(torch.from_numpy(codes), 4).numpy()), width
        theirs = unpack_from_int32(torch.from_numpy(packed), 4, torch.Size(codes.shape)).numpy()
        assert np.array_equal(int4.unpack(packed, codes.shape), theirs), width
        words = rng.integers(-(2**31), 2**31, packed.shape, np.int64).astype(np.int32)  # foreign filling bits too
        theirs = unpack_from_int32(torch.from_numpy(words), 4, torch.Size(codes.shape)).numpy()
        assert np.array_equal(int4.unpack(words, codes.shape), theirs), width


def check_rounding() -> None:
    """Their quantizer, given our scales, chooses our codes; and torch, given the rule, chooses our
    scales."""
    w = weights()
    codes, scale = int4.quantize(w)
    theirs = library_quantize(as_torch(w), as_torch(scale).float(), None, SCHEME.weights, dtype=torch.int8)
    assert np.array_equal(codes, theirs.numpy())
    assert np.array_equal(codes, int4.encode(w, scale))
    by_rule = (as_torch(w).unflatten(1, (3, 32)).abs().amax(-1) / 7).bfloat16()
    by_rule = torch.where(by_rule < 2.0**-126, torch.ones_like(by_rule), by_rule)
    assert torch.equal(as_torch(scale), by_rule)


def check_decompression() -> None:
    """Their decompression of what we store is ours: exact for float32 scales, rounded to bf16 for
    bf16 ones."""
    w = weights()
    matrix = int4.quantize_matrix(w)
    stored = {"weight_packed": as_torch(matrix.packed), "weight_shape": torch.tensor(matrix.shape)}
    ours = as_torch(matrix.dequantize())
    exact = PackedQuantizationCompressor.decompress({**stored, "weight_scale": as_torch(matrix.scale).float()}, SCHEME)
    assert exact["weight"].dtype == torch.float32 and torch.equal(exact["weight"], ours)
    # The library computes in the scale's dtype, so bf16 scales give weights rounded to bf16.
    rounded = PackedQuantizationCompressor.decompress({**stored, "weight_scale": as_torch(matrix.scale)}, SCHEME)
    assert rounded["weight"].dtype == torch.bfloat16 and torch.equal(rounded["weight"], ours.bfloat16())


def check_compression() -> None:
    """Their compressor, given our scales, stores what we store."""
    w = weights()
    matrix = int4.quantize_matrix(w)
    given = {"weight": as_torch(w), "weight_scale": as_torch(matrix.scale).float()}
    theirs = PackedQuantizationCompressor.compress(given, SCHEME)
    assert np.array_equal(theirs["weight_packed"].numpy(), matrix.packed)
    assert theirs["weight_shape"].tolist() == list(matrix.shape)


CHECKS = [check_packing, check_rounding, check_decompression, check_compression]


@pytest.mark.parametrize("check", CHECKS)
def test_agrees_with_compressed_tensors(check: Callable[[], None]) -> None:
    check()


def test_codes_of_the_vectors(k2_data: Path) -> None:
    """Their scales are float32, not bfloat16: `encode` takes them as they are, and then every code
    is equal."""
    vectors = json.loads((k2_data / "int4_pack_vectors.json").read_text(encoding="utf-8"))
    weight, scale = np.array(vectors["weight"], np.float32), np.array(vectors["qat"]["scale"], np.float32)
    assert np.array_equal(int4.encode(weight, scale), np.array(vectors["qat"]["int4"]))


def _reversed_nibbles(codes: np.ndarray) -> np.ndarray:
    return _pack(codes.reshape(len(codes), -1, 8)[..., ::-1].reshape(codes.shape)) if codes.shape[1] % 8 == 0 else codes


def _half_away(w: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    ratio = w.reshape(len(w), -1, group_size) / scale.astype(np.float32)[..., None]
    return (np.sign(ratio) * np.floor(np.abs(ratio) + 0.5)).astype(np.int8).reshape(w.shape)


def _by_reciprocal(w: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    ratio = w.reshape(len(w), -1, group_size) * (1 / scale.astype(np.float32))[..., None].astype(ml_dtypes.bfloat16)
    return np.rint(ratio).astype(np.int8).reshape(w.shape)


_pack, _dequantize, _scale_of = int4.pack, int4.dequantize, int4._scale_of
MISTAKES = {
    "nibbles reversed": ("pack", _reversed_nibbles, check_packing),
    "shift of 7": ("pack", lambda c: _pack(np.maximum(c - np.int8(1), -8)), check_packing),
    "filled with code 0": (
        "pack",
        lambda c: _pack(np.pad(c, ((0, 0), (0, -c.shape[1] % 8)))),
        check_packing,
    ),
    "packed transposed": ("pack", lambda c: _pack(np.ascontiguousarray(c.T)), check_compression),
    "words big-endian": ("pack", lambda c: _pack(c).byteswap(), check_packing),
    "filling not cut": ("unpack", lambda p, s: np.zeros((s[0], 8 * p.shape[1]), np.int8), check_packing),
    "scale of the neighbour": ("dequantize", lambda c, s: _dequantize(c, np.roll(s, 1, axis=1)), check_decompression),
    "absmax / 7.5": ("_scale_of", lambda a: _scale_of(a * np.float32(7 / 7.5)), check_rounding),
    "float32 scale": ("_scale_of", lambda a: a / np.float32(7), check_rounding),
    "half away from zero": ("_codes", _half_away, check_rounding),
    "times a rounded reciprocal": ("_codes", _by_reciprocal, check_rounding),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_seen(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong, check = MISTAKES[mistake]
    monkeypatch.setattr(int4, name, wrong)
    with pytest.raises((AssertionError, ValueError)), np.errstate(invalid="ignore"):
        check()


class Router(torch.nn.Module):
    """In transformers the router is no Linear."""


@pytest.mark.parametrize(
    "ignore",
    [
        Int4Scheme().ignore,
        (),
        ("lm_head", "model.layers.1.mlp.experts.3.up_proj", "experts.2"),
        ("re:mlp", "re:.*down_proj$", r"re:model\.layers\.0\."),
        ("Linear",),
    ],
)
def test_the_same_modules_are_quantized(ignore: tuple[str, ...]) -> None:
    from abruzzi.checkpoint.layout import expected_tensors

    quantized = set()
    for name, spec in expected_tensors(TINY.with_int4(Int4Scheme(ignore=ignore))).items():
        module_name = name.removesuffix(".weight")
        if "norm" in name or "embed" in name or ".gate." in name:
            module: torch.nn.Module = Router()
        else:
            module = torch.nn.Linear(1, 1, device="meta")
        theirs = is_match(module_name, module, ["Linear"], ignore)
        assert spec.int4 == theirs, module_name
        quantized |= {name} if theirs else set()
    if ignore == Int4Scheme().ignore:
        assert quantized == {n for n in expected_tensors(TINY) if ".mlp.experts." in n}

"""INT4 against K2's vectors and against the compressed-tensors library, bit for bit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32  # type: ignore
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.arch import Int4Scheme
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.cost.published import KIMI_K2
from abruzzi.quant.int4 import Int4Matrix, dequantize, pack, quantize, quantize_matrix, unpack


@pytest.fixture(scope="module")
def vectors(k2_data: Path) -> dict[str, Any]:
    return json.loads((k2_data / "int4_pack_vectors.json").read_text())


def loud(rows: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, width)) * 10.0 ** rng.integers(-4, 3, (rows, 1))).astype(np.float32)


def test_codes_scales_and_words_equal_the_vectors(vectors: dict[str, Any]) -> None:
    weight, want = np.array(vectors["weight"], np.float32), vectors["qat"]
    codes, scale = quantize(weight)
    exact = np.array(want["scale"], np.float32)
    np.testing.assert_array_equal(scale, exact.astype(ml_dtypes.bfloat16))  # the vectors' scales are float32
    # Rounding the scale can move a code by one where w / scale is near a half; the vectors show
    # where not.
    ratio = weight.reshape(4, 2, 32) / exact[..., None]
    near_half = np.abs(ratio - np.trunc(ratio) - np.copysign(0.5, ratio)) < 0.03
    same = codes.reshape(4, 2, 32) == np.array(want["int4"]).reshape(4, 2, 32)
    assert same[~near_half].all() and same.mean() > 0.97
    np.testing.assert_array_equal(pack(np.array(want["int4"], np.int8)), np.array(want["packed_int32"], np.int32))
    np.testing.assert_array_equal(unpack(np.array(want["packed_int32"], np.int32), (4, 64)), want["int4"])
    tiny = vectors["tiny_pack_example"]
    assert pack(np.array(tiny["int4"], np.int8)).tolist() == tiny["packed_int32"] == [[-22444272]]
    # 15 of 16 codes, as in the release: the rule is not the library's min-max.
    assert not np.array_equal(codes, vectors["ct_minmax"]["int4"])


@pytest.mark.parametrize("width", [8, 32, 33, 39, 64, 160])
def test_packing_equals_the_library_bit_for_bit(width: int) -> None:
    codes = np.random.default_rng(width).integers(-8, 8, (11, width)).astype(np.int8)
    theirs = pack_to_int32(torch.from_numpy(codes), 4).numpy()
    ours = pack(codes)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(unpack(theirs, (11, width)), codes)
    back = unpack_from_int32(torch.from_numpy(ours), 4, torch.Size(codes.shape)).numpy()
    np.testing.assert_array_equal(back, codes)


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_rounding_is_the_best_that_the_stored_scale_allows(seed: int, groups: int) -> None:
    weight = loud(3, 32 * groups, seed)
    codes, scale = quantize(weight)
    assert codes.min() >= -7 and codes.max() <= 7
    wide = np.repeat(scale.astype(np.float64), 32, axis=1)
    inside = np.abs(weight) <= 7 * wide
    error = np.abs(codes * wide - weight)
    assert (error[inside] <= wide[inside] / 2 * (1 + 1e-6)).all()
    # bfloat16 keeps 8 bits, so absmax overshoots 7 scales by less than one part in 256.
    assert (np.abs(weight) <= 7 * wide * (1 + 1 / 255)).all()
    matrix = quantize_matrix(weight)
    np.testing.assert_array_equal(matrix.dequantize(), dequantize(codes, scale))
    # Quantizing what was dequantized changes nothing: a checkpoint can be re-exported without
    # drift.
    again = quantize_matrix(matrix.dequantize())
    full = np.abs(codes.reshape(3, -1, 32)).max(-1) == 7
    np.testing.assert_array_equal(
        again.dequantize().reshape(3, -1, 32)[full], matrix.dequantize().reshape(3, -1, 32)[full]
    )


def test_groups_without_a_usable_scale_become_zeros() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[0, 32:] = np.float32(1e-45)
    weight[1, :32] = 1.0
    codes, scale = quantize(weight)
    assert scale.astype(np.float32).tolist() == [[1.0, 1.0], [np.float32(ml_dtypes.bfloat16(1 / 7)), 1.0]]
    assert codes[0].tolist() == [0] * 64 and codes[1].tolist() == [7] * 32 + [0] * 32


def mistakes(weight: np.ndarray) -> dict[str, np.ndarray]:
    """Wrong dequantizations of `weight`, each as somebody could write it."""
    codes, scale = quantize(weight)
    packed = pack(codes)
    wide = weight.astype(np.float32).reshape(len(weight), -1, 32)
    by_75 = (np.abs(wide).max(-1) / np.float32(7.5)).astype(ml_dtypes.bfloat16)
    by_75_codes = (
        np.clip(np.rint(wide / by_75.astype(np.float32)[..., None]), -8, 7).astype(np.int8).reshape(weight.shape)
    )
    reversed_ = codes.reshape(len(codes), -1, 8)[..., ::-1].reshape(codes.shape)
    return {
        "nibbles reversed": dequantize(reversed_, scale),
        "shift by 7": dequantize(codes + 1, scale),
        "neighbour's scale": dequantize(codes, np.roll(scale, 1, axis=1)),
        "absmax / 7.5": dequantize(by_75_codes, by_75),
        "packed the other way": dequantize(unpack(np.ascontiguousarray(packed[::-1]), codes.shape), scale),
    }


@pytest.mark.parametrize("name", list(mistakes(loud(4, 64, 0))))
def test_the_oracle_sees_planted_mistakes(name: str) -> None:
    weight = loud(8, 128, 5)
    right, wrong = quantize_matrix(weight).dequantize(), mistakes(weight)[name]
    assert not np.array_equal(right, wrong)
    assert np.abs(wrong - right).max() > 1e-3 * np.abs(right).max()


def test_half_to_even_and_not_away_from_zero() -> None:
    weight = np.zeros((1, 32), np.float32)
    weight[0, :6] = [7, 0.5, 1.5, 2.5, -0.5, -2.5]
    assert quantize(weight)[0][0, :6].tolist() == [7, 0, 2, 2, 0, -2]


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (np.zeros((2, 33)), "multiple of 32"),
        (np.zeros(32), "expected [out, in]"),
        (np.full((1, 32), np.nan), "NaN or infinity"),
        (np.full((1, 32), np.inf), "NaN or infinity"),
    ],
)
def test_bad_weights_are_named(weight: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        quantize(weight.astype(np.float32))
    with pytest.raises(ValueError, match=r"expected -8\.\.7"):
        pack(np.full((1, 8), 8, np.int8))
    with pytest.raises(ValueError, match="do not hold"):
        unpack(np.zeros((2, 3), np.int32), (2, 32))


@pytest.mark.parametrize(
    ("module", "quantized"),
    [
        ("model.layers.1.mlp.experts.0.up_proj", True),
        ("model.layers.60.mlp.experts.383.down_proj", True),
        ("model.layers.0.mlp.gate_proj", False),
        ("model.layers.1.mlp.shared_experts.down_proj", False),
        ("model.layers.1.mlp.gate", False),
        ("model.layers.1.self_attn.kv_b_proj", False),
        ("model.layers.1.self_attn.kv_a_proj_with_mqa", False),
        ("model.embed_tokens", False),
        ("model.norm", False),
        ("lm_head", False),
    ],
)
def test_only_routed_experts_are_quantized(module: str, quantized: bool) -> None:
    assert expected_tensors(KIMI_K2.with_int4(Int4Scheme()))[f"{module}.weight"].int4 == quantized


def test_an_empty_ignore_list_quantizes_every_linear() -> None:
    specs = expected_tensors(replace(KIMI_K2, num_hidden_layers=2).with_int4(Int4Scheme(ignore=())))
    assert specs["lm_head.weight"].int4 and not specs["model.norm.weight"].int4
    assert isinstance(quantize_matrix(loud(2, 32, 1)), Int4Matrix)

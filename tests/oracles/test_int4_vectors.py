"""The INT4 vectors of the shared test data: packing, codes and scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from abruzzi.quant import int4


@pytest.fixture(scope="module")
def vectors(k2_data: Path) -> dict[str, Any]:
    return json.loads((k2_data / "int4_pack_vectors.json").read_text(encoding="utf-8"))


def codes_and_words(vectors: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    found = [vectors["qat"], vectors["ct_minmax"], vectors["tiny_pack_example"]]
    return [(np.array(v["int4"], np.int8), np.array(v["packed_int32"], np.int32)) for v in found]


def test_packing(vectors: dict[str, Any]) -> None:
    for codes, words in codes_and_words(vectors):
        assert np.array_equal(int4.pack(codes), words)
        assert np.array_equal(int4.unpack(words, codes.shape), codes)


def test_quantization(vectors: dict[str, Any]) -> None:
    """The vectors' scales are not rounded to bf16. With them the codes are equal; ours are them, rounded."""
    weight = np.array(vectors["weight"], np.float32)
    given = np.array(vectors["qat"]["scale"], np.float32)
    assert np.array_equal(int4.encode(weight, given), np.array(vectors["qat"]["int4"]))
    codes, scale = int4.quantize(weight)
    assert np.array_equal(scale, given.astype(ml_dtypes.bfloat16))
    assert np.abs(codes - np.array(vectors["qat"]["int4"])).max() <= 1
    # Not compressed-tensors' own calibration, which these other vectors hold.
    assert not np.array_equal(scale, np.array(vectors["ct_minmax"]["scale"]).astype(ml_dtypes.bfloat16))
    assert not np.array_equal(codes, np.array(vectors["ct_minmax"]["int4"]))

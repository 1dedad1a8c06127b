"""Properties of INT4 quantization that need no second implementation (those are in
tests/oracles)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from abruzzi.quant import int4

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
WEIGHTS = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(64)), elements=FINITE)


@given(WEIGHTS)
@settings(max_examples=300, deadline=None)
def test_every_finite_float_is_within_half_a_step(weight: np.ndarray) -> None:
    codes, scale = int4.quantize(weight)
    wide = scale.astype(np.float64)
    assert ((wide >= 2.0**-126) & np.isfinite(wide)).all()
    assert codes.min() >= -7 and codes.max() <= 7
    error = np.abs(weight.astype(np.float64) - int4.dequantize(codes, scale)).reshape(*scale.shape, 32)
    # Also where the scale was rounded down: the extremes then lie 7 * 2^-9 of a step beyond code 7.
    assert (error <= 0.5 * wide[..., None] * (1 + 1e-6)).all()


@given(WEIGHTS)
@settings(max_examples=200, deadline=None)
def test_what_was_dequantized_quantizes_to_itself(weight: np.ndarray) -> None:
    """So an export of an export, and a fake-quantized weight, lose nothing."""
    once = int4.quantize_matrix(weight)
    again = int4.quantize_matrix(once.dequantize())
    assert np.array_equal(once.packed, again.packed) and np.array_equal(once.scale, again.scale)


def test_zeros_and_tiny_groups_get_scale_one() -> None:
    weight = np.zeros((1, 96), np.float32)
    weight[0, 40], weight[0, 70] = 1e-45, 2.0**-122
    codes, scale = int4.quantize(weight)
    assert scale[0, :2].tolist() == [1, 1] and not codes[0, :64].any()
    assert 0 < float(scale[0, 2]) < 1e-37 and codes[0, 70] == 7


def test_codes_for_a_given_scale_are_clipped() -> None:
    weight = np.tile(np.array([[100.0, -100.0, 7.4, -7.5, 0.5, 1.5, -2.5, 0.0]], np.float32), (1, 4))
    assert int4.encode(weight, np.ones((1, 1), np.float32))[0, :8].tolist() == [7, -7, 7, -7, 0, 2, -2, 0]


def test_large_matrices_are_the_sum_of_their_rows() -> None:
    """Several blocks of rows at once give what each row gives alone, in any memory order and float
    type."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2 * int4._BLOCK // 4096 + 3, 4096)).astype(ml_dtypes.bfloat16)
    codes, scale = int4.quantize(weight)
    for form in (weight.astype(np.float32), np.asfortranarray(weight)):
        other_codes, other_scale = int4.quantize(form)
        assert np.array_equal(codes, other_codes) and np.array_equal(scale, other_scale)
    row_codes, row_scale = int4.quantize(weight[-1:])
    assert np.array_equal(codes[-1:], row_codes) and np.array_equal(scale[-1:], row_scale)
    assert np.array_equal(int4.dequantize(np.asfortranarray(codes), scale), int4.dequantize(codes, scale))
    assert np.array_equal(int4.quantize_matrix(weight).dequantize(), int4.dequantize(codes, scale))


GOOD = np.ones((2, 32), np.float32)
BAD: dict[str, tuple[Any, str]] = {
    "float64": (lambda: int4.quantize(GOOD.astype(np.float64)), "weight is float64"),
    "integers": (lambda: int4.quantize(GOOD.astype(np.int32)), "weight is int32"),
    "no columns": (lambda: int4.quantize(GOOD[:, :0]), "multiple of 32"),
    "place of NaN": (lambda: int4.quantize(np.where(np.arange(64) == 40, np.nan, GOOD[:1, :1])), "columns 32..63"),
    "scale of zero": (lambda: int4.encode(GOOD, np.zeros((2, 1), np.float32)), "positive and finite"),
    "scale of NaN": (lambda: int4.encode(GOOD, np.full((2, 1), np.nan, np.float32)), "positive and finite"),
    "scales of another matrix": (lambda: int4.dequantize(np.ones((2, 64), np.int8), GOOD[:, :3]), "do not fit"),
    "codes as int32": (lambda: int4.pack(np.zeros((1, 8), np.int32)), "expected int8"),
    "code 8": (lambda: int4.pack(np.full((1, 8), 8, np.int8)), "expected -8..7"),
    "words as int64": (lambda: int4.unpack(np.zeros((1, 1), np.int64), (1, 8)), "do not hold"),
    "a word too few": (lambda: int4.unpack(np.zeros((1, 1), np.int32), (1, 9)), "do not hold"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    call, says = BAD[case]
    with pytest.raises(ValueError, match=says):
        call()

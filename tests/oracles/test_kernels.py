"""The compiled kernels against their NumPy twins, on every instruction set that this machine has.

Tolerances follow from the arithmetic: float32 sums of n terms err by at most about n eps sum
|term|; far less in practice, so a few eps of sum |term| is a sharp bound that real mistakes exceed
by orders.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from abruzzi.kernels import documents, isa, ops, ref, supported_isas
from abruzzi.kernels.dispatch import ISAS, threads
from abruzzi.quant.ggml import TYPES, GgmlMatrix
from abruzzi.quant.int4 import dequantize_packed, quantize, unpack

EPS = float(np.finfo(np.float32).eps)
SHAPES = [(1, 32), (3, 64), (7, 96), (5, 160), (33, 512), (17, 544), (2, 4096), (129, 2048)]


def needs(name: str) -> None:
    if name not in supported_isas():
        pytest.skip(f"this CPU lacks {name}")


def int4_case(rows: int, width: int, seed: int, scale_exponent: float = 0.0):
    rng = np.random.default_rng(seed)
    packed = rng.integers(-(2**31), 2**31, (rows, width // 8)).astype(np.int32)
    scale = (rng.normal(size=(rows, width // 32)) * 10**scale_exponent).astype(ml_dtypes.bfloat16)
    x = (rng.normal(size=width) * 3).astype(np.float32)
    return packed, scale, x


def matvec(packed: np.ndarray, scale: np.ndarray, x: np.ndarray, isa: str | None = None) -> np.ndarray:
    """One token times an INT4 matrix, float32 activations and sums."""
    return ops.linear(x[None], ops.pack_int4(packed, scale), isa=isa)[0]


def exact_matvec(packed: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same in float64, from quant's unpacking."""
    codes = unpack(packed, (len(packed), len(x))).astype(np.float64)
    return (codes * np.repeat(scale.astype(np.float64), 32, -1)) @ x.astype(np.float64)


def int4_bound(packed: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """sum over columns of 16 |scale| |x|: codes and their shift stay below 16."""
    per_group = np.abs(x).reshape(-1, 32).sum(1)
    return 16 * (np.abs(scale.astype(np.float64)) @ per_group)


def int4_error(actual: np.ndarray, packed: np.ndarray, scale: np.ndarray, x: np.ndarray) -> float:
    """Largest error in units of eps times the bound."""
    exact = exact_matvec(packed, scale, x)
    return float((np.abs(actual - exact) / (EPS * int4_bound(packed, scale, x) + 1e-38)).max())


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_int4_equals_its_twin(name: str, rows: int, width: int) -> None:
    needs(name)
    case = int4_case(rows, width, seed=rows * 10000 + width)
    assert int4_error(matvec(*case, isa=name), *case) < 4
    bits = case[1].view(np.uint16)
    np.testing.assert_array_equal(matvec(case[0], bits, case[2], name), matvec(*case, name))


@pytest.mark.parametrize("name", ISAS)
def test_int4_at_the_extremes(name: str) -> None:
    needs(name)
    packed, scale, x = int4_case(6, 128, seed=1)
    packed[0], packed[1] = 0, -1  # all codes -8, all codes 7
    scale[2] = 0
    scale[3] = ml_dtypes.bfloat16(1e-39)  # a denormal scale
    for exponent in (-30, 0, 30):
        big = (x * np.float32(10.0**exponent)).astype(np.float32)
        actual = matvec(packed, scale, big, isa=name)
        assert actual[2] == 0 and np.isfinite(actual).all()
        assert int4_error(actual, packed, scale, big) < 4
    # Codes one by one: column c alone shows nibble c and nothing else.
    one = np.zeros(128, np.float32)
    weights = np.stack(
        [matvec(packed, scale, np.roll(one + np.eye(128, dtype=np.float32)[0], c), isa=name) for c in range(128)]
    )
    columns = np.stack([exact_matvec(packed, scale, np.eye(128, dtype=np.float32)[c]) for c in range(128)])
    np.testing.assert_allclose(weights, columns, rtol=4 * EPS, atol=1e-45)


def reverse_nibbles(packed: np.ndarray) -> np.ndarray:
    words = packed.view(np.uint32)
    return sum((((words >> np.uint32(4 * k)) & np.uint32(15)) << np.uint32(4 * (7 - k))) for k in range(8)).view(
        np.int32
    )


@pytest.mark.parametrize(
    "mistake",
    [
        lambda p, s, x: (reverse_nibbles(p), s, x),
        lambda p, s, x: (p, np.roll(s, 1, axis=1), x),
        lambda p, s, x: (p, s, np.roll(x, 8)),
        lambda p, s, x: (p ^ np.int32(0x08080808), s, x),
        lambda p, s, x: (np.roll(p, 1, axis=0), s, x),
    ],
    ids=["nibbles reversed", "neighbour's scale", "words shifted", "sign bit", "rows shifted"],
)
def test_the_oracle_sees_planted_mistakes(mistake) -> None:
    case = int4_case(17, 544, seed=3)
    assert int4_error(matvec(*mistake(*case)), *case) > 1000


def test_the_oracle_sees_a_wrong_zero_point() -> None:
    packed, scale, x = int4_case(17, 544, seed=3)
    shifted = matvec(packed, scale, x) + (scale.astype(np.float32) @ x.reshape(-1, 32).sum(1))
    assert int4_error(shifted, packed, scale, x) > 1000


def rms_error(actual: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> float:
    exact = ref.rmsnorm(x, weight, eps)
    return float((np.abs(actual - exact) / (EPS * np.abs(exact) + 1e-37)).max())


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (2, 16), (5, 33), (4, 192), (2, 7168)])
@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_rmsnorm_equals_its_twin(name: str, rows: int, width: int, eps: float) -> None:
    needs(name)
    rng = np.random.default_rng(rows + width)
    weight = rng.uniform(0.5, 1.5, width).astype(np.float32)
    for size in (1e-3, 1.0, 1e15):
        x = (rng.normal(size=(rows, width)) * size).astype(np.float32)
        assert rms_error(ops.rmsnorm(x, weight, eps, isa=name), x, weight, eps) < 4


@pytest.mark.parametrize("mistake", ["no eps", "no weight", "sum for mean"])
def test_the_rmsnorm_oracle_sees_planted_mistakes(mistake: str) -> None:
    rng = np.random.default_rng(0)
    x, weight, eps = (
        (rng.normal(size=(4, 64)) * 1e-2).astype(np.float32),
        rng.uniform(0.5, 1.5, 64).astype(np.float32),
        1e-5,
    )
    wrong = {
        "no eps": lambda: ops.rmsnorm(x, weight, 0.0),
        "no weight": lambda: ops.rmsnorm(x, np.ones_like(weight), eps),
        "sum for mean": lambda: ops.rmsnorm(x, weight, eps) / np.float32(8),
    }[mistake]()
    assert rms_error(wrong, x, weight, eps) > 1000


# The parts of a forward step. Twins get float64 copies, so that they are the better of the two.


def wide(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(a.astype(np.float64) for a in arrays)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def stored(kind: str, rows: int, width: int, rng: np.random.Generator) -> tuple[ops.Packed, np.ndarray]:
    """A matrix in one of the kinds, and its exact values in float64 [O, I]."""
    if kind == "int4":
        packed, scale, _ = int4_case(rows, width, seed=int(rng.integers(1000)))
        return ops.pack_int4(packed, scale), dequantize_packed(packed, scale, (rows, width)).astype(np.float64)
    w = normal(rng, rows, width)
    if kind == "bfloat16":
        w = w.astype(ml_dtypes.bfloat16)
    return ops.pack(w), w.astype(np.float64)


LINEAR = [
    (1, 1, 1),
    (3, 5, 1),
    (16, 32, 2),
    (33, 96, 3),
    (17, 64, 4),
    (40, 160, 5),
    (31, 352, 7),
    (48, 544, 13),
    (20, 96, 205),
]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4"])
def test_linear_equals_its_twin_and_a_row_does_not_depend_on_the_others(name: str, kind: str) -> None:
    needs(name)
    rng = np.random.default_rng(1)
    for rows, width, tokens in LINEAR:
        width = -(-width // 32) * 32 if kind == "int4" else width
        packed, exact = stored(kind, rows, width, rng)
        assert packed.shape == (rows, width)
        x = normal(rng, tokens, width)
        y = ops.linear(x, packed, isa=name)
        bound = np.abs(x).astype(np.float64) @ np.abs(exact).T
        assert (np.abs(y - ref.linear(x.astype(np.float64), exact)) <= 4 * EPS * bound).all()
        for t in {0, tokens // 2, tokens - 1}:
            np.testing.assert_array_equal(ops.linear(x[t : t + 1], packed, isa=name)[0], y[t])
        some = min(tokens, 6)
        np.testing.assert_array_equal(ops.linear(x[:some], packed, isa=name), y[:some])


@pytest.mark.parametrize("name", ISAS)
def test_linear_int8_equals_its_twin_bit_for_bit(name: str) -> None:
    needs(name)
    rng = np.random.default_rng(4)
    for rows, width, tokens in [(1, 32, 1), (19, 352, 2), (16, 64, 3), (40, 2048, 4), (33, 96, 7), (17, 64, 200)]:
        packed, scale, _ = int4_case(rows, width, seed=rows)
        packed[0], packed[-1] = 0, -1  # all codes -8, then all 7: the largest sums
        x = normal(rng, tokens, width) * 5
        x[0] = -3.0
        x[-1] *= rng.choice([0, 1e-20, 1e20])
        codes, exact = unpack(packed, (rows, width)), dequantize_packed(packed, scale, (rows, width))
        want = ref.linear_int8(x, codes, scale.astype(np.float32))
        got = ops.linear_int8(x, ops.pack_int4(packed, scale), isa=name)
        np.testing.assert_array_equal(got, want)
        step = np.abs(x).max(-1, keepdims=True) / 127  # rounding moves each number by half a step at most
        assert (np.abs(want - x.astype(np.float64) @ exact.T) <= 0.51 * step * np.abs(exact).sum(-1) + 1e-6).all()
        weights = normal(rng, rows, width) * rng.choice([1e-3, 1, 50], (rows, 1)).astype(np.float32)
        codes, scale = rounded(weights, 127)
        codes_ = np.repeat(scale.astype(np.float32), 32, -1)[:, :width] * codes
        got = ops.linear_int8(x, ops.quantize(weights, "int8"), isa=name)
        np.testing.assert_array_equal(got, ref.linear_int8(x, codes, scale.astype(np.float32)))
        np.testing.assert_allclose(
            ops.linear(x, ops.quantize(weights, "int8"), isa=name),
            ref.linear(*wide(x, codes_)),
            rtol=1e-5,
            atol=1e-5 * float(np.abs(x).max() * np.abs(codes_).sum(-1).max()),
        )
    with pytest.raises(ValueError, match="matmul8: shapes do not fit"):
        ops.linear_int8(normal(rng, 2, 32), ops.pack(normal(rng, 4, 32)), isa=name)


def rounded(weights_OI: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [O, I] and scales bfloat16 [O, groups of 32], symmetric; the last group may be
    short."""
    rows, width = weights_OI.shape
    full = np.zeros((rows, -(-width // 32), 32), np.float32)
    full.reshape(rows, -1)[:, :width] = weights_OI
    scale = (np.abs(full).max(-1) / np.float32(largest)).astype(ml_dtypes.bfloat16)
    tiny = scale.astype(np.float32) < np.float32(2.0**-126)
    scale[tiny] = 1
    codes = np.rint(full / scale.astype(np.float32)[..., None])
    codes[tiny] = 0
    return np.clip(codes, -largest, largest).astype(np.int8).reshape(rows, -1)[:, :width], scale


@pytest.mark.parametrize(("kind", "largest"), [("int4", 7), ("int8", 127)])
def test_quantize_equals_its_twin_bit_for_bit(kind: str, largest: int) -> None:
    rng = np.random.default_rng(6)
    for rows, width in [(1, 1), (16, 32), (19, 70), (33, 352)]:
        weights = normal(rng, rows, width) * rng.choice([1e-30, 1e-3, 1, 1e30], (rows, 1)).astype(np.float32)
        weights[0, :32] = 0
        weights[-1, : width // 2] *= np.float32(1e-12)
        for given in (weights, weights.astype(ml_dtypes.bfloat16)):
            codes, scale = rounded(given.astype(np.float32), largest)
            want = np.repeat(scale.astype(np.float32), 32, -1)[:, :width] * codes
            # Products with a unit matrix give the columns back, exactly.
            np.testing.assert_array_equal(
                ops.linear(np.eye(width, dtype=np.float32), ops.quantize(given, kind)).T, want
            )
            if kind == "int4" and width % 32 == 0:
                theirs, their_scale = quantize(given)
                np.testing.assert_array_equal(codes, theirs)
                np.testing.assert_array_equal(scale, their_scale)
    weights[3, 5] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        ops.quantize(weights, kind)
    with pytest.raises(ValueError, match="expected int4 or int8"):
        ops.quantize(normal(rng, 2, 32), "int3")


@pytest.mark.parametrize("kind", ops.KINDS)
def test_packed_bytes_come_back_as_the_same_matrix(kind: str) -> None:
    rng = np.random.default_rng(7)
    columns = 512 if kind.endswith("_k") else 70
    made = ops.pack_random(kind, 19, columns, seed=3)
    x = normal(rng, 3, columns)
    memory = np.zeros(made.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    memory[start : start + made.nbytes] = made.data
    again = ops.packed_from_buffer(made.kind, 19, columns, memory[start : start + made.nbytes])
    np.testing.assert_array_equal(ops.linear(x, made), ops.linear(x, again))
    assert 0.3 < np.abs(ops.linear(x, made)).mean() < 2  # inputs of size 1 stay of that size
    memory[start:] = 0
    assert not ops.linear(x, again).any()  # it is the buffer, not a copy
    for wrong in (memory[start : start + made.nbytes - 1], memory[start + 4 : start + 4 + made.nbytes]):
        with pytest.raises(ValueError, match="do not hold a matrix of kind"):
            ops.packed_from_buffer(made.kind, 19, columns, wrong)


@pytest.mark.parametrize("name", ISAS)
def test_gate_up_and_silu_mul_equal_their_twins(name: str) -> None:
    needs(name)
    rng = np.random.default_rng(2)
    for rows, width, tokens in [(5, 7, 1), (32, 64, 3), (19, 33, 9), (16, 32, 200)]:
        (gate, exact_gate), (up, exact_up) = stored("float32", rows, width, rng), stored("bfloat16", rows, width, rng)
        x = normal(rng, tokens, width)
        exact = ref.gate_up(x.astype(np.float64), exact_gate, exact_up)
        np.testing.assert_allclose(ops.gate_up(x, gate, up, isa=name), exact, rtol=2e-5, atol=2e-5)
    gate, up = normal(rng, 9, 37) * 30, normal(rng, 9, 37)
    np.testing.assert_allclose(
        ops.silu_mul(gate, up, isa=name), ref.silu_mul(*wide(gate, up)), rtol=8 * EPS, atol=1e-36
    )
    far = np.array([-1e30, -200, -88, 0, 88, 1e30, np.inf, np.nan], np.float32)
    got = ops.silu_mul(far, np.ones(8, np.float32), isa=name)
    np.testing.assert_allclose(got[1:6], [0, 0, 0, 88, 1e30], rtol=1e-6, atol=1e-30)
    assert np.isposinf(got[6]) and np.isnan(got[7])


@pytest.mark.parametrize("name", ISAS)
def test_rope_equals_its_twin(name: str) -> None:
    needs(name)
    rng = np.random.default_rng(3)
    for pairs in (1, 4, 32):
        x, angle = normal(rng, 5, 2 * pairs), rng.uniform(-9, 9, (5, pairs))
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        exact = ref.rope(*wide(x, cos, sin))
        np.testing.assert_allclose(ops.rope(x, cos, sin, isa=name), exact, atol=16 * EPS)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_route_equals_its_twin(name: str, groups: int) -> None:
    needs(name)
    rng = np.random.default_rng(groups)
    for experts, top_k in ((8, 2), (20, 3), (384, 8)):
        logits, bias = normal(rng, 50, experts), normal(rng, experts) * 0.5
        for renormalize in (True, False):
            options = {"top_k": top_k, "n_group": groups, "topk_group": max(1, groups // 2), "scale": 2.5}
            want, weight = ref.route(*wide(logits, bias), **options, renormalize=renormalize)
            chosen, ours = ops.route(logits, bias, **options, renormalize=renormalize, isa=name)
            np.testing.assert_array_equal(chosen, want)
            np.testing.assert_allclose(ours, weight, rtol=8 * EPS)
    # Equal scores: the lower number, as the twin's stable sort has it.
    chosen, _ = ops.route(
        np.zeros((1, 8), np.float32),
        np.zeros(8, np.float32),
        top_k=4,
        n_group=groups,
        topk_group=max(1, groups // 2),
        renormalize=True,
        scale=1.0,
        isa=name,
    )
    assert chosen.tolist() == [[0, 1, 2, 3]]
    # NaN chooses something that exists: nothing is read out of place.
    chosen, weight = ops.route(
        np.full((1, 8), np.nan, np.float32),
        np.zeros(8, np.float32),
        top_k=2,
        n_group=groups,
        topk_group=max(1, groups // 2),
        renormalize=True,
        scale=1.0,
        isa=name,
    )
    assert ((chosen >= 0) & (chosen < 8)).all() and np.isnan(weight).all()


def mla_case(tokens: int, positions: int, heads: int, nope: int, rope: int, rank: int, value: int, seed: int):
    rng = np.random.default_rng(seed)
    shapes = ((tokens, heads, nope), (tokens, heads, rope), (positions, rank), (positions, rope))
    return [normal(rng, *s) for s in (*shapes, (heads, nope, rank), (heads, value, rank))]


def scattered(c_kv: np.ndarray, k_pe: np.ndarray) -> ops.Latents:
    """The latents in blocks of 4 that lie backwards, so that a block table that is ignored cannot
    go unnoticed."""
    rows = ops.latents_of(c_kv, k_pe).rows_SW
    blocks = -(-len(rows) // 4)
    filled = np.concatenate([rows, np.full((4 * blocks - len(rows), rows.shape[1]), np.nan, np.float32)])
    table = np.arange(blocks, dtype=np.int32)[::-1].copy()
    return ops.Latents(filled.reshape(blocks, 4, -1)[table].reshape(4 * blocks, -1), table, 4, len(rows))


def naive(q, q_pe, c_kv, k_pe, w_uk, w_uv, scale: float, isa: str | None = None) -> np.ndarray:
    return ops.mla_naive(q, q_pe, scattered(c_kv, k_pe), w_uk, w_uv, scale, isa=isa)


def absorbed(q, q_pe, c_kv, k_pe, w_uk, w_uv, scale: float, segment: int = 256, isa: str | None = None) -> np.ndarray:
    return ops.mla_absorbed(q, q_pe, scattered(c_kv, k_pe), w_uk, w_uv, scale, segment=segment, isa=isa)


MLA = [
    (1, 1, 1, 4, 2, 3, 2),
    (1, 33, 2, 8, 4, 16, 8),
    (3, 70, 5, 16, 8, 24, 12),
    (40, 101, 3, 24, 8, 40, 24),
    (9, 300, 8, 32, 16, 64, 32),
]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("case", MLA, ids=lambda c: "-".join(map(str, c)))
def test_both_forms_of_mla_equal_their_twins(name: str, case: tuple[int, ...]) -> None:
    needs(name)
    given = mla_case(*case, seed=sum(case))
    scale = 0.1
    exact = ref.mla_naive(*wide(*given), scale)
    np.testing.assert_allclose(ref.mla_absorbed(*wide(*given), scale), exact, atol=1e-9)
    size = np.abs(exact).max()
    for out in (
        naive(*given, scale, isa=name),
        absorbed(*given, scale, isa=name),
        absorbed(*given, scale, segment=32, isa=name),
    ):
        assert np.abs(out - exact).max() <= 3e-5 * size
    # The last query alone has the bits that it has among the others, in either form.
    q, q_pe, *rest = given
    for form in (naive, absorbed):
        alone = form(q[-1:].copy(), q_pe[-1:].copy(), *rest, scale, isa=name)
        np.testing.assert_array_equal(alone[0], form(*given, scale, isa=name)[-1])


@pytest.mark.parametrize("name", ISAS)
def test_mla_with_scores_far_apart(name: str) -> None:
    """Softmax over parts must follow a largest score that comes late, early, or is hugely
    larger."""
    needs(name)
    q, q_pe, c_kv, k_pe, w_uk, w_uv = mla_case(1, 400, 2, 8, 4, 16, 8, seed=9)
    for at in (0, 37, 399):
        loud = c_kv.copy()
        loud[at] *= 300
        exact = ref.mla_naive(*wide(q, q_pe, loud, k_pe, w_uk, w_uv), 1.0)
        for form in (naive, absorbed):
            out = form(q, q_pe, loud, k_pe, w_uk, w_uv, 1.0, isa=name)
            assert np.abs(out - exact).max() <= 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("mistake", ["k_pe of the neighbour", "one position too many", "heads swapped", "scale"])
def test_the_mla_oracle_sees_planted_mistakes(mistake: str) -> None:
    given = mla_case(3, 70, 5, 16, 8, 24, 12, seed=1)
    exact = ref.mla_naive(*wide(*given), 0.1)
    q, q_pe, c_kv, k_pe, w_uk, w_uv = given
    wrong = {
        "k_pe of the neighbour": lambda: absorbed(q, q_pe, c_kv, np.roll(k_pe, 1, 0), w_uk, w_uv, 0.1),
        "one position too many": lambda: naive(q, q_pe, c_kv[1:].copy(), k_pe[1:].copy(), w_uk, w_uv, 0.1),
        "heads swapped": lambda: absorbed(q, q_pe, c_kv, k_pe, w_uk[::-1].copy(), w_uv, 0.1),
        "scale": lambda: naive(q, q_pe, c_kv, k_pe, w_uk, w_uv, 0.11),
    }[mistake]()
    assert np.abs(wrong - exact).max() > 3e-3 * np.abs(exact).max()


def route_one(**options) -> object:
    sizes = {"top_k": 2, "n_group": 1, "topk_group": 1, "renormalize": True, "scale": 1.0}
    return ops.route(np.zeros((1, 8), np.float32), np.zeros(8, np.float32), **sizes, **options)


def test_bad_input_of_the_parts_is_named() -> None:
    rng = np.random.default_rng(0)
    w = ops.pack(normal(rng, 4, 6))
    packed, scale, _ = int4_case(4, 64, seed=4)
    for call, says in (
        (lambda: ops.linear(normal(rng, 2, 5), w), r"expected \[T, 6\]"),
        (lambda: ops.linear(np.zeros((2, 6)), w), "x is float64"),
        (lambda: ops.pack(np.zeros((2, 6))), "w is float64"),
        (lambda: ops.pack_int4(packed, scale[:, :1].copy()), "do not fit"),
        (lambda: ops.gate_up(normal(rng, 2, 6), w, ops.pack(normal(rng, 5, 6))), "do not fit"),
        (lambda: ops.rope(normal(rng, 2, 6), normal(rng, 2, 2), normal(rng, 2, 2)), "do not fit"),
        (lambda: route_one(score="cosine"), "score='cosine'; expected one of sigmoid, softmax"),
        (lambda: absorbed(*mla_case(2, 3, 1, 4, 2, 3, 2, 0), 1.0, segment=40), "segment=40"),
        (lambda: naive(*mla_case(4, 3, 1, 4, 2, 3, 2, 0), 1.0), "do not fit"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    rows = scattered(normal(rng, 9, 4), normal(rng, 9, 2))
    q, q_pe, _, _, w_uk, w_uv = mla_case(2, 9, 1, 4, 2, 4, 2, 0)
    for wrong in ({"positions": 13}, {"positions": 1}, {"block_tokens": 5}, {"table": rows.table - 1}):
        with pytest.raises(ValueError, match="mla: shapes do not fit"):
            ops.mla_naive(q, q_pe, replace(rows, **wrong), w_uk, w_uv, 1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p, s, x: (p.astype(np.int64), s, x), "packed is int64"),
        (lambda p, s, x: (p, s.astype(np.float32), x), "scale is float32"),
        (lambda p, s, x: (p, s, x.astype(np.float64)), "x is float64"),
        (lambda p, s, x: (p.T, s, x), "not contiguous"),
        (lambda p, s, x: (p[:, :-1].copy(), s, x), "do not fit"),
        (lambda p, s, x: (p, s[:-1].copy(), x), "do not fit"),
        (lambda p, s, x: (p, s, x[:-8].copy()), "does not fit a matrix"),
        (lambda p, s, x: (p, s, x[None]), "with 2 axes"),
    ],
)
def test_bad_input_is_named(change, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        matvec(*change(*int4_case(4, 64, seed=4)))
    with pytest.raises(ValueError, match="isa='sse9'"):
        matvec(*int4_case(4, 64, seed=4), isa="sse9")
    with pytest.raises(ValueError, match="do not fit"):
        ops.rmsnorm(np.zeros((2, 3), np.float32), np.zeros(4, np.float32), 1e-6)


def run_with(cpu: str, code: str = "from abruzzi.kernels import isa; print(isa())") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "ABRUZZI_CPU": cpu}
    )


def test_the_environment_chooses_and_a_wrong_choice_is_an_error() -> None:
    assert run_with("scalar").stdout.strip() == "scalar"
    assert run_with("").stdout.strip() == supported_isas()[-1]
    wrong = run_with("neon")
    assert wrong.returncode != 0 and "ABRUZZI_CPU='neon' is unknown" in wrong.stderr
    assert isa() in supported_isas()


def test_threads_come_from_the_environment() -> None:
    assert threads({"ABRUZZI_THREADS": "3"}) == 3 and threads({}) >= 1
    for wrong in ("0", "two", "-1", "99999"):
        with pytest.raises(ValueError, match=f"ABRUZZI_THREADS='{wrong}'; expected a whole number"):
            threads({"ABRUZZI_THREADS": wrong})


def test_an_instruction_set_that_the_machine_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from abruzzi.kernels import dispatch

    monkeypatch.setattr(dispatch, "supported_isas", lambda: ("scalar",))
    with pytest.raises(ValueError, match=r"'avx2': this CPU lacks it; it has scalar"):
        dispatch.choose({"ABRUZZI_CPU": "avx2"})


def test_an_unbuilt_extension_says_how_to_build() -> None:
    code = "import sys; sys.modules['abruzzi.kernels._ext'] = None; import abruzzi.kernels"
    done = run_with("", code)
    assert "pip install ." in done.stderr and "compiler" in done.stderr


@pytest.mark.parametrize(
    ("lengths", "heads", "nope", "rope", "value"),
    [
        ((16, 17, 1, 64, 65, 130, 3), 3, 24, 24, 32),  # around blocks and vectors
        ((100, 257), 4, 32, 16, 48),
        ((70,), 2, 32, 32, 40),
        ((33, 2), 1, 2, 2, 2),
        ((128, 63), 2, 0, 34, 18),  # no nope part, widths between vectors
    ],
)
def test_attention_within_documents_equals_its_twin(
    lengths: tuple[int, ...], heads: int, nope: int, rope: int, value: int
) -> None:
    if not documents.can_attend(nope, rope, value):
        pytest.skip("this CPU lacks avx512_bf16")
    rng, tokens, plain = np.random.default_rng(2), sum(lengths), ml_dtypes.bfloat16
    edges = np.cumsum((0, *lengths)).astype(np.int64)
    shapes = (tokens, heads, nope + rope), (tokens, heads, nope + value), (tokens, rope), (tokens, heads, value)
    q, kv, k_pe, d_o = ((rng.normal(size=shape) * 1.5).astype(plain) for shape in shapes)
    angle = rng.uniform(0, 6, (tokens, rope // 2))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    exact = [x.astype(np.float64) for x in (q, kv, k_pe)]
    want_o, *_ = ref.attend_documents(edges, *exact, cos, sin, 0.3)
    want = ref.attend_documents_backward(edges, *exact, cos, sin, 0.3, d_o.astype(np.float64))
    given = (edges, *(x.view(np.uint16) for x in (q, kv, k_pe)), cos, sin, 0.3)
    for workers in (1, 3):
        o, log_sum, largest = documents.attend(given, workers)
        assert (largest <= log_sum).all() and (log_sum <= largest + np.log(max(lengths)) + 1e-3).all()
        got = documents.attend_backward(given, o, log_sum, d_o.view(np.uint16), workers)
        pairs = zip((want_o, *want), (o.view(plain), got[0].view(plain), got[1].view(plain), got[2]))
        for w, g in pairs:
            assert np.linalg.norm(w - g.astype(np.float64)) < 1.2e-2 * np.linalg.norm(w)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("tokens", "heads", "shared", "width", "positions"),
    [
        (1, 1, 1, 16, 1),
        (1, 8, 4, 64, 700),
        (5, 9, 3, 64, 33),
        (40, 6, 1, 20, 40),
        (3, 16, 8, 128, 1030),
        (2, 4, 2, 3, 64),
    ],
)
def test_grouped_query_attention(isa: str, tokens: int, heads: int, shared: int, width: int, positions: int) -> None:
    if isa not in supported_isas():
        pytest.skip(f"this CPU lacks {isa}")
    rng = np.random.default_rng(width)
    q = rng.normal(size=(tokens, heads, width)).astype(np.float32)
    k, v = (rng.normal(size=(positions, heads // shared, width)).astype(np.float32) for _ in "kv")
    exact = ref.gqa(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), np.float64(0.3))  # type: ignore[arg-type]
    for segment in (32, 512):
        ours = ops.gqa(q, k, v, 0.3, segment=segment, isa=isa)
        np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5 * np.abs(exact).max())
    # A query has the same bits alone, and whatever stands beside it.
    assert (ops.gqa(q[-1:], k, v, 0.3, isa=isa)[0] == ops.gqa(q, k, v, 0.3, isa=isa)[-1]).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segment": 33}, "segment=33"),
        ({"k_SMA": np.zeros((4, 3, 8), np.float32)}, "do not fit"),
        ({"q_TNA": np.zeros((2, 3, 8), np.float32)}, "do not fit"),
        ({"q_TNA": np.zeros((2, 4, 8), np.float64)}, "q is float64"),
        ({"q_TNA": np.zeros((9, 4, 8), np.float32)}, "gqa"),
    ],
)
def test_bad_input_of_grouped_query_attention_is_named(change: dict[str, Any], says: str) -> None:
    good = {"q_TNA": np.zeros((2, 4, 8), np.float32), "k_SMA": np.zeros((4, 2, 8), np.float32)}
    good |= {"v_SMA": np.zeros((4, 2, 8), np.float32)}
    with pytest.raises(ValueError, match=says):
        ops.gqa(**{"scale": 1.0, **good, **change})


def ggml_matrix(name: str, rows: int, columns: int, seed: int = 0) -> GgmlMatrix:
    """Every code and every small scale, and scales of ordinary size."""
    kind = next(t for t in TYPES.values() if t.name.lower() == name)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // kind.elements, kind.bytes), dtype=np.uint8)
    for at in kind.halves:
        scale = rng.choice([-1, 1], len(blocks)) * rng.uniform(0.001, 0.02, len(blocks))
        blocks[:, at : at + 2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return GgmlMatrix(kind, blocks.reshape(rows, -1), columns)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ops.GGML_KINDS)
def test_blocks_of_gguf_are_multiplied_as_they_are(isa: str, name: str) -> None:
    """Exact: as the dequantized float32 weights. Fast: as those with x rounded to 8 bits. A row has the
    same bits alone and beside others."""
    if isa not in supported_isas():
        pytest.skip(f"this CPU lacks {isa}")
    matrix = ggml_matrix(name, 37, 512)
    packed, weights = ops.pack_ggml(name, 512, matrix.data), matrix.dequantize().astype(np.float64)
    for tokens in (1, 2, 5, 13, 40):
        x = np.random.default_rng(tokens).normal(size=(tokens, 512)).astype(np.float32)
        exact = x.astype(np.float64) @ weights.T
        ours = ops.linear(x, packed, isa=isa)
        assert np.abs(ours - exact).max() < 1e-6 * np.abs(exact).max()
        scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
        rounded = np.rint(x / scale).astype(np.float64) * scale
        fast = ops.linear_int8(x, packed, isa=isa)
        assert np.abs(fast - rounded @ weights.T).max() < 1e-5 * np.abs(exact).max()
        for row in range(tokens):
            assert (ops.linear(x[row : row + 1], packed, isa=isa)[0] == ours[row]).all()
            assert (ops.linear_int8(x[row : row + 1], packed, isa=isa)[0] == fast[row]).all()


def test_blocks_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="kind='int4'; expected one of q4_0"):
        ops.pack_ggml("int4", 32, np.zeros((2, 18), np.uint8))
    with pytest.raises(ValueError, match="rows of 17 bytes do not hold 32 columns of q4_0"):
        ops.pack_ggml("q4_0", 32, np.zeros((2, 17), np.uint8))
    with pytest.raises(ValueError, match="rows of 144 bytes do not hold 128 columns"):
        ops.pack_ggml("q4_k", 128, np.zeros((2, 144), np.uint8))
    assert ops.pack_ggml("q4_k", 256, np.zeros((2, 144), np.uint8)).nbytes == 2368

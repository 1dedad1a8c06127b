"""The compiled kernels against their NumPy twins, on every instruction set that this machine has.

Tolerances follow from the arithmetic: float32 sums of n terms err by at most about n eps sum |term|; far
less in practice, so a few eps of sum |term| is a sharp bound that real mistakes exceed by orders.
"""

from __future__ import annotations

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from abruzzi.kernels import isa, ops, ref, supported_isas
from abruzzi.kernels.dispatch import ISAS

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


def int4_bound(packed: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """sum over columns of 16 |scale| |x|: codes and their shift stay below 16."""
    per_group = np.abs(x).reshape(-1, 32).sum(1)
    return 16 * (np.abs(scale.astype(np.float64)) @ per_group)


def int4_error(actual: np.ndarray, packed: np.ndarray, scale: np.ndarray, x: np.ndarray) -> float:
    """Largest error in units of eps times the bound."""
    exact = ref.int4_matvec(packed, scale.view(np.uint16), x)
    return float((np.abs(actual - exact) / (EPS * int4_bound(packed, scale, x) + 1e-300)).max())


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_int4_matvec_equals_its_twin(name: str, rows: int, width: int) -> None:
    needs(name)
    case = int4_case(rows, width, seed=rows * 10000 + width)
    assert int4_error(ops.int4_matvec(*case, isa=name), *case) < 4
    bits = case[1].view(np.uint16)
    np.testing.assert_array_equal(ops.int4_matvec(case[0], bits, case[2], isa=name), ops.int4_matvec(*case, isa=name))


@pytest.mark.parametrize("name", ISAS)
def test_int4_matvec_at_the_extremes(name: str) -> None:
    needs(name)
    packed, scale, x = int4_case(6, 128, seed=1)
    packed[0], packed[1] = 0, -1  # all codes -8, all codes 7
    scale[2] = 0
    scale[3] = ml_dtypes.bfloat16(1e-39)  # a denormal scale
    for exponent in (-30, 0, 30):
        big = (x * np.float32(10.0**exponent)).astype(np.float32)
        actual = ops.int4_matvec(packed, scale, big, isa=name)
        assert actual[2] == 0 and np.isfinite(actual).all()
        assert int4_error(actual, packed, scale, big) < 4
    # Codes one by one: column c alone shows nibble c and nothing else.
    one = np.zeros(128, np.float32)
    weights = np.stack(
        [
            ops.int4_matvec(packed, scale, np.roll(one + np.eye(128, dtype=np.float32)[0], c), isa=name)
            for c in range(128)
        ]
    )
    columns = np.stack(
        [ref.int4_matvec(packed, scale.view(np.uint16), np.eye(128, dtype=np.float32)[c]) for c in range(128)]
    )
    np.testing.assert_allclose(weights, columns, rtol=4 * EPS, atol=1e-45)


@pytest.mark.parametrize("name", ISAS)
def test_int4_matvec_reads_from_any_aligned_place(name: str) -> None:
    needs(name)
    packed, scale, x = int4_case(9, 96, seed=2)
    for offset in range(1, 5):
        words = np.zeros(packed.size + offset, np.int32)[offset:].reshape(packed.shape)
        words[:] = packed
        scales = np.zeros(scale.size + offset, np.uint16)[offset:].reshape(scale.shape)
        scales[:] = scale.view(np.uint16)
        xs = np.zeros(x.size + offset, np.float32)[offset:]
        xs[:] = x
        words.flags.writeable = False
        np.testing.assert_array_equal(
            ops.int4_matvec(words, scales, xs, isa=name), ops.int4_matvec(packed, scale, x, isa=name)
        )


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
    assert int4_error(ops.int4_matvec(*mistake(*case)), *case) > 1000


def test_the_oracle_sees_a_wrong_zero_point() -> None:
    packed, scale, x = int4_case(17, 544, seed=3)
    shifted = ops.int4_matvec(packed, scale, x) + (scale.astype(np.float32) @ x.reshape(-1, 32).sum(1))
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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p, s, x: (p.astype(np.int64), s, x), "packed is int64"),
        (lambda p, s, x: (p, s.astype(np.float32), x), "scale is float32"),
        (lambda p, s, x: (p, s, x.astype(np.float64)), "x is float64"),
        (lambda p, s, x: (p, s, x[::2]), "not contiguous"),
        (lambda p, s, x: (p.T, s, x), "not contiguous"),
        (lambda p, s, x: (p[:, :-1].copy(), s, x), "do not fit"),
        (lambda p, s, x: (p, s[:-1].copy(), x), "do not fit"),
        (lambda p, s, x: (p[:, :-1].copy(), s, x[:-8].copy()), "multiple of 32"),
        (lambda p, s, x: (p, s, x[None]), "with 1 axes"),
    ],
)
def test_bad_input_is_named(change, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ops.int4_matvec(*change(*int4_case(4, 64, seed=4)))
    with pytest.raises(ValueError, match="isa='sse9'"):
        ops.int4_matvec(*int4_case(4, 64, seed=4), isa="sse9")
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


def test_an_instruction_set_that_the_machine_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from abruzzi.kernels import dispatch

    monkeypatch.setattr(dispatch, "supported_isas", lambda: ("scalar",))
    with pytest.raises(ValueError, match=r"'avx2': this CPU lacks it; it has scalar"):
        dispatch.choose({"ABRUZZI_CPU": "avx2"})


def test_an_unbuilt_extension_says_how_to_build() -> None:
    code = "import sys; sys.modules['abruzzi.kernels._ext'] = None; import abruzzi.kernels"
    done = run_with("", code)
    assert "pip install ." in done.stderr and "compiler" in done.stderr

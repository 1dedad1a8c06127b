"""A known product for every kernel, before a model is served: a wrong build or a broken machine
says so by name.

Weights and inputs of the products are small whole numbers, so that float32 has one right answer in
any order of summation; other operations are held against their NumPy twins. A NaN must come out of
every kernel that it went into, or a damaged model would answer as if nothing were wrong. Takes some
milliseconds, once per process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from abruzzi.kernels import ops, ref
from abruzzi.quant.ggml import TYPES, GgmlMatrix

TOKENS = (1, 2, 3, 5, 14)  # every number of tokens that a product treats differently is among those below 14


class BrokenKernelError(ValueError):
    """A kernel gives wrong numbers on this machine: nothing may be served with it."""


@functools.cache
def check(isa: str) -> None:
    """Raises BrokenKernelError that names the first kernel whose results are wrong with this
    instruction set."""
    for name, good in _cases(isa):
        try:
            right = good()
        except ValueError as error:
            raise BrokenKernelError(
                f"self-test: kernel {name} refuses its known product with {isa}: {error}"
            ) from error
        if not right:
            raise BrokenKernelError(
                f"self-test: kernel {name} gives wrong numbers with {isa}; nothing can be served with it; "
                "hint: ABRUZZI_CPU=scalar, or build again (`pip install .`)"
            )


def _cases(isa: str) -> Iterator[tuple[str, Callable[[], bool]]]:
    rng = np.random.default_rng(0)
    for kind in ("float32", "bfloat16", "int4", "int8"):
        yield f"linear ({kind})", lambda kind=kind: _linear(isa, kind, rng)
    for kind in ("int4", "int8"):
        yield f"linear_int8 ({kind})", lambda kind=kind: _linear_int8(isa, kind, rng)
    for kind in ops.GGML_KINDS:
        yield f"linear ({kind})", lambda kind=kind: _blocks(isa, kind, rng)
    yield "gate_up", lambda: _gate_up(isa, rng)
    yield "rmsnorm", lambda: _rmsnorm(isa, rng)
    yield "silu_mul", lambda: _silu_mul(isa, rng)
    yield "rope", lambda: _rope(isa, rng)
    for score in ops.SCORES:
        yield f"route ({score})", lambda score=score: _route(isa, score, rng)
    for form in ("mla_absorbed", "mla_naive"):
        yield form, lambda form=form: _mla(isa, form, rng)
    yield "gqa", lambda: _gqa(isa, rng)


def _int4(rng: np.random.Generator, rows: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words, scales 1, 2 or 0.5, and the whole matrix."""
    codes = rng.integers(-8, 8, (rows, width))
    nibbles = (codes + 8).astype(np.uint32).reshape(rows, -1, 8)
    words = (nibbles << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32).view(np.int32)
    scale = rng.choice(np.array([1, 2, 0.5], ml_dtypes.bfloat16), (rows, width // 32))
    return words, scale, (codes.reshape(rows, -1, 32) * scale.astype(np.float64)[..., None]).reshape(rows, width)


def _whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-9, 10, shape).astype(np.float32)


def _linear(isa: str, kind: str, rng: np.random.Generator) -> bool:
    if kind in ("int4", "int8"):
        packed, exact = _quantized(kind, rng)
    else:
        exact = _whole(rng, 19, 350)
        packed = ops.pack(exact if kind == "float32" else exact.astype(ml_dtypes.bfloat16))
    for tokens in TOKENS:
        x = _whole(rng, tokens, exact.shape[1])
        if not (ops.linear(x, packed, isa=isa) == x.astype(np.float64) @ exact.T).all():
            return False
        x[-1, 17] = np.nan
        nan = np.isnan(ops.linear(x, packed, isa=isa))
        if not nan[-1].all() or nan[:-1].any():
            return False
    return True


def _quantized(kind: str, rng: np.random.Generator) -> tuple[ops.Packed, np.ndarray]:
    """A matrix of 19 x 352 and what it holds. In int8: whole numbers up to 127, which each group
    has, so scale 1."""
    if kind == "int4":
        words, scale, exact = _int4(rng, 19, 352)
        return ops.pack_int4(words, scale), exact
    whole = rng.integers(-127, 128, (19, 352)).astype(np.float32)
    whole[:, ::32] = 127
    return ops.quantize(whole, "int8"), whole.astype(np.float64)


def _linear_int8(isa: str, kind: str, rng: np.random.Generator) -> bool:
    """Rows whose largest number is 127 are whole in 8 bits."""
    packed, exact = _quantized(kind, rng)
    for tokens in TOKENS:
        x = rng.integers(-127, 128, (tokens, 352)).astype(np.float32)
        x[:, 5] = -127
        if not (ops.linear_int8(x, packed, isa=isa) == x.astype(np.float64) @ exact.T).all():
            return False
        x[-1, 17] = np.nan
        nan = np.isnan(ops.linear_int8(x, packed, isa=isa))
        if not nan[-1].all() or nan[:-1].any():
            return False
    return True


def _blocks(isa: str, name: str, rng: np.random.Generator) -> bool:
    """GGUF blocks of random codes, in both precisions."""
    kind = next(t for t in TYPES.values() if t.name.lower() == name)
    blocks = rng.integers(0, 256, (19 * 512 // kind.elements, kind.bytes), dtype=np.uint8)
    for at in kind.halves:
        scale = rng.choice(np.array([0.5, 0.25, -0.125], np.float16), len(blocks))
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    matrix = GgmlMatrix(kind, blocks.reshape(19, -1), 512)
    packed, exact = ops.pack_ggml(name, 512, matrix.data), matrix.dequantize()
    for tokens in TOKENS:
        x = rng.integers(-127, 128, (tokens, 512)).astype(np.float32)
        x[:, 5] = -127
        right = x.astype(np.float64) @ exact.T
        if not all(_close(product(x, packed, isa=isa), right) for product in (ops.linear, ops.linear_int8)):
            return False
    return True


def _gate_up(isa: str, rng: np.random.Generator) -> bool:
    x, gate, up = _normal(rng, 7, 64), _normal(rng, 19, 64) / 8, _normal(rng, 19, 64) / 8
    return _close(ops.gate_up(x, ops.pack(gate), ops.pack(up), isa=isa), ref.gate_up(x, gate, up))


def _rmsnorm(isa: str, rng: np.random.Generator) -> bool:
    x, weight = _normal(rng, 3, 71), _normal(rng, 71)
    right = _close(ops.rmsnorm(x, weight, 1e-6, isa=isa), ref.rmsnorm(x, weight, 1e-6))
    x[1, 70] = np.nan
    nan = np.isnan(ops.rmsnorm(x, weight, 1e-6, isa=isa))
    return right and bool(nan[1].all()) and not nan[[0, 2]].any()


def _silu_mul(isa: str, rng: np.random.Generator) -> bool:
    gate, up = _normal(rng, 2, 21) * 5, _normal(rng, 2, 21)
    right = _close(ops.silu_mul(gate, up, isa=isa), ref.silu_mul(gate, up))
    gate[1, 20] = np.nan
    nan = np.isnan(ops.silu_mul(gate, up, isa=isa))
    return right and bool(nan[1, 20]) and nan.sum() == 1


def _rope(isa: str, rng: np.random.Generator) -> bool:
    x, cos, sin = _normal(rng, 3, 16), _normal(rng, 3, 8), _normal(rng, 3, 8)
    return _close(ops.rope(x, cos, sin, isa=isa), ref.rope(x, cos, sin))


def _route(isa: str, score: str, rng: np.random.Generator) -> bool:
    logits, bias = _normal(rng, 9, 24), _normal(rng, 24)
    options = {"top_k": 4, "n_group": 4, "topk_group": 2, "renormalize": True, "scale": 2.5, "score": score}
    chosen, weight = ops.route(logits, bias, **options, isa=isa)
    want, exact = ref.route(logits, bias, **options)
    return bool((chosen == want).all()) and _close(weight, exact)


def _mla(isa: str, form: str, rng: np.random.Generator) -> bool:
    shapes = ((3, 5, 24), (3, 5, 8), (70, 40), (70, 8), (5, 24, 40), (5, 20, 40))
    q, q_pe, c_kv, k_pe, *up = (_normal(rng, *s) / 4 for s in shapes)
    attend = getattr(ops, form)
    want = getattr(ref, form)(q, q_pe, c_kv, k_pe, *up, np.float32(0.2))
    right = _close(attend(q, q_pe, ops.latents_of(c_kv, k_pe), *up, 0.2, isa=isa), want)
    c_kv[69, 0] = np.nan  # seen by the last query only
    nan = np.isnan(attend(q, q_pe, ops.latents_of(c_kv, k_pe), *up, 0.2, isa=isa))
    return right and bool(nan[2].all()) and not nan[:2].any()


def _gqa(isa: str, rng: np.random.Generator) -> bool:
    q, k, v = _normal(rng, 3, 6, 24), _normal(rng, 70, 2, 24), _normal(rng, 70, 2, 24)
    right = _close(ops.gqa(q, k, v, 0.2, segment=32, isa=isa), ref.gqa(q, k, v, np.float32(0.2)))
    k[69, 0, 3] = np.nan  # seen by the last query only, and by the heads of one group
    nan = np.isnan(ops.gqa(q, k, v, 0.2, segment=32, isa=isa))
    return right and bool(nan[2, :3].all()) and not nan[:2].any() and not nan[2, 3:].any()


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _close(ours: np.ndarray, want: np.ndarray) -> bool:
    return bool((np.abs(ours - want) <= 1e-4 * np.abs(want).max()).all())

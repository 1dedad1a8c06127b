"""The operations, compiled (csrc/). Each has the same name in ref.py, its NumPy twin.

The compiled ones check dtype, shape and layout and never convert silently. isa: None = the one in
use (dispatch.py). A whole forward step is one call of `_ext.Model` (engine/step/native.py); these
are its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abruzzi.kernels import _ext
from abruzzi.kernels.dispatch import level
from abruzzi.kernels.ref import Draw

__all__ = [
    "gate_up",
    "linear",
    "linear_int8",
    "log_partition",
    "measure_bandwidth",
    "measure_int8_peak",
    "mla_absorbed",
    "mla_naive",
    "pack",
    "pack_ggml",
    "pack_int4",
    "pack_random",
    "packed_from_buffer",
    "quantize",
    "rmsnorm",
    "rope",
    "route",
    "sample",
    "silu_mul",
]

GROUP = 32
POSITIONS = 32  # of an attention that are worked on at once; parts begin at multiples of it
# Of a packed matrix, as csrc/kernels/matrix.h numbers them.
KINDS = ("float32", "bfloat16", "int4", "int8", "q4_0", "q4_1", "q8_0", "q4_k", "q6_k")
GGML_KINDS = KINDS[4:]  # GGUF's blocks, whose codes are used as they are
SUPER = 256  # columns of a block of the K kinds: a matrix has whole ones
SCORES = ("sigmoid", "softmax")  # of a router, as csrc/kernels/step_kernels.h numbers them
Packed = _ext.Packed  # .shape, .nbytes, .kind (an index of KINDS), .data (its packed bytes, uint8)


def rmsnorm(x_TD: np.ndarray, weight_D: np.ndarray, eps: float, isa: str | None = None) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, row by row: float32 [T, D].

    Raises ValueError that says what was given and what was expected."""
    _want("x", x_TD, np.float32, 2)
    _want("weight", weight_D, np.float32, 1)
    if x_TD.shape[1] != len(weight_D) or not len(weight_D):
        raise ValueError(f"x {x_TD.shape} and weight {weight_D.shape} do not fit; expected [T, D] and [D]")
    if not eps >= 0:
        raise ValueError(f"eps={eps!r}; expected 0 or more")
    y_TD = np.empty_like(x_TD)
    _ext.rmsnorm(level(isa), x_TD, weight_D, eps, y_TD)
    return y_TD


def pack(w_OI: np.ndarray) -> Packed:
    """A float32 or bfloat16 matrix in the layout of the products (csrc/kernels/matrix.h); bfloat16
    is kept as it is."""
    if w_OI.dtype.name == "bfloat16":
        w_OI = w_OI.view(np.uint16)
        _want("w", w_OI, np.uint16, 2)
        return _ext.pack_bf16(w_OI)
    _want("w", w_OI, np.float32, 2)
    return _ext.pack_f32(w_OI)


def pack_int4(packed_OW: np.ndarray, scale_OG: np.ndarray) -> Packed:
    """The same for the checkpoint's INT4: int32 [O, I/8] and bfloat16 [O, I/32], I a multiple of
    32."""
    scale_OG = _int4_parts(packed_OW, scale_OG)
    rows, words = packed_OW.shape
    if words % 4 or scale_OG.shape != (rows, words // 4):
        raise ValueError(
            f"packed {packed_OW.shape} and scale {scale_OG.shape} do not fit; expected [O, I/8] and [O, I/32] "
            f"with I a multiple of {GROUP}"
        )
    return _ext.pack_int4(packed_OW.view(np.uint32), scale_OG)


def quantize(w_OI: np.ndarray, kind: str) -> Packed:
    """A float32 or bfloat16 matrix rounded to int4 (codes -7..7) or int8 (-127..127): symmetric,
    groups of 32 columns, bfloat16 scales, as quant/int4.py has it. The last group of a row may be
    shorter.

    Raises ValueError for another kind, and for values that are not finite."""
    if kind not in ("int4", "int8"):
        raise ValueError(f"kind={kind!r}; expected int4 or int8")
    # A sum is finite only if every term is, unless it overflows: then the slow way decides.
    if not np.isfinite(w_OI.sum(dtype=np.float32)) and not np.isfinite(w_OI).all():
        raise ValueError("a weight is NaN or infinite; it cannot be quantized; hint: the checkpoint is damaged")
    if w_OI.dtype.name == "bfloat16":
        w_OI = w_OI.view(np.uint16)
        _want("w", w_OI, np.uint16, 2)
        return _ext.quantize_bf16(KINDS.index(kind), w_OI)
    _want("w", w_OI, np.float32, 2)
    return _ext.quantize_f32(KINDS.index(kind), w_OI)


def pack_ggml(kind: str, columns: int, rows: np.ndarray) -> Packed:
    """GGUF blocks as they lie in a file, uint8 [rows, bytes of a row], nothing rounded. kind: one of
    GGML_KINDS; columns: of the matrix, whole blocks."""
    _want("rows", rows, np.uint8, 2)
    if kind not in GGML_KINDS:
        raise ValueError(f"kind={kind!r}; expected one of {', '.join(GGML_KINDS)}")
    try:
        return _ext.pack_ggml(KINDS.index(kind), columns, rows)
    except ValueError:
        raise ValueError(f"rows of {rows.shape[1]} bytes do not hold {columns} columns of {kind}") from None


def pack_random(kind: str, rows: int, columns: int, seed: int) -> Packed:
    """Random weights of about the size 1 / sqrt(columns), for measuring speed. kind: one of
    KINDS."""
    if kind not in KINDS or rows < 1 or columns < 1 or (kind in ("q4_k", "q6_k") and columns % SUPER):
        raise ValueError(
            f"kind={kind!r}, {rows} x {columns}; expected one of {', '.join(KINDS)}, sizes from 1 on, and whole blocks "
            f"of {SUPER} columns for the K kinds"
        )
    return _ext.pack_random(KINDS.index(kind), rows, columns, seed)


def packed_from_buffer(kind: int, rows: int, columns: int, data: np.ndarray) -> Packed:
    """What `Packed.data` gave, uint8, possibly mapped from a file; kept, not copied. At an address
    divisible by 64.

    Raises ValueError for another kind and for a buffer that is too short or not aligned."""
    _want("data", data, np.uint8, 1)
    try:
        return _ext.packed_view(kind, rows, columns, data)
    except ValueError:
        raise ValueError(
            f"{len(data)} bytes at address {data.ctypes.data:#x} do not hold a matrix of kind {kind}, "
            f"{rows} x {columns}; expected all of its tiles, at a multiple of 64"
        ) from None


def measure_bandwidth(threads: int, size: int = 512 << 20, seconds: float = 0.5) -> list[float]:
    """Bytes per second of reading `size` bytes of memory, by that many threads; one number per
    pass."""
    return _ext.measure_bandwidth(threads, size, seconds)


def measure_int8_peak(threads: int, seconds: float = 0.2, isa: str | None = None) -> list[float]:
    """Operations per second of 8-bit products in registers (a product and its addition are two)."""
    return _ext.measure_int8_peak(level(isa), threads, seconds)


def linear(x_TI: np.ndarray, w: Packed, isa: str | None = None) -> np.ndarray:
    """x @ W^T: float32 [T, O]. A row of the result has the same bits whatever rows stand beside
    it."""
    y_TO = _product(x_TI, w)
    _ext.matmul(level(isa), w, x_TI, y_TO)
    return y_TO


def linear_int8(x_TI: np.ndarray, w: Packed, isa: str | None = None) -> np.ndarray:
    """x @ W^T with x in 8 bits (one scale a row) and W in codes (not float32, bfloat16): float32 [T, O]; the fast
    mode's product.

    Sums of a group are whole numbers: every instruction set gives the same bits."""
    y_TO = _product(x_TI, w)
    _ext.matmul8(level(isa), w, x_TI, y_TO)
    return y_TO


def gate_up(x_TI: np.ndarray, gate: Packed, up: Packed, isa: str | None = None) -> np.ndarray:
    """silu(x @ gate^T) * (x @ up^T): float32 [T, F]."""
    _want("x", x_TI, np.float32, 2)
    if gate.shape != up.shape or x_TI.shape[1] != gate.shape[1]:
        raise ValueError(
            f"x {x_TI.shape}, gate {gate.shape} and up {up.shape} do not fit; expected [T, I], [F, I] twice"
        )
    y_TF = np.empty((len(x_TI), gate.shape[0]), np.float32)
    _ext.gate_up(level(isa), gate, up, x_TI, y_TF)
    return y_TF


def silu_mul(gate_TF: np.ndarray, up_TF: np.ndarray, isa: str | None = None) -> np.ndarray:
    """silu(gate) * up, elementwise, float32."""
    if gate_TF.shape != up_TF.shape:
        raise ValueError(f"gate {gate_TF.shape} and up {up_TF.shape} do not fit; expected the same shape")
    _want("gate", gate_TF, np.float32, gate_TF.ndim)
    _want("up", up_TF, np.float32, up_TF.ndim)
    y_TF = np.empty_like(gate_TF)
    _ext.silu_mul(level(isa), gate_TF.reshape(-1), up_TF.reshape(-1), y_TF.reshape(-1))
    return y_TF


def log_partition(logits_V: np.ndarray, temperature: float = 1.0, isa: str | None = None) -> float:
    """log(sum(exp(logits / temperature))): a logit / temperature minus it is a log-probability.
    float32 [V].

    Raises ValueError for a NaN among the logits."""
    _want("logits", logits_V, np.float32, 1)
    found = _ext.log_partition(level(isa), logits_V, temperature)
    if found != found:
        raise ValueError("a logit is NaN; hint: the weights are damaged, or the model overflowed")
    return found


def sample(logits_V: np.ndarray, draw: Draw, uniform: float, isa: str | None = None) -> int:
    """The id that the number `uniform` in [0, 1) draws: temperature (above 0), then top_k (0: all),
    top_p and min_p, then the candidates' probabilities laid side by side, the most likely first, of
    equals the lower id."""
    _want("logits", logits_V, np.float32, 1)
    return _ext.sample(level(isa), logits_V, draw, uniform)


def rope(x_TP: np.ndarray, cos_TP: np.ndarray, sin_TP: np.ndarray, isa: str | None = None) -> np.ndarray:
    """Rotate the pairs (0,1), (2,3), ... of x [T, P] by the angles of cos, sin [T, P/2]; the even
    ones come first."""
    for name, array in (("x", x_TP), ("cos", cos_TP), ("sin", sin_TP)):
        _want(name, array, np.float32, 2)
    if x_TP.shape != (len(cos_TP), 2 * cos_TP.shape[1]) or cos_TP.shape != sin_TP.shape:
        raise ValueError(
            f"x {x_TP.shape}, cos {cos_TP.shape} and sin {sin_TP.shape} do not fit; expected [T, P], [T, P/2]"
        )
    y_TP = np.empty_like(x_TP)
    _ext.rope(level(isa), x_TP, cos_TP, sin_TP, y_TP)
    return y_TP


def route(
    logits_TE: np.ndarray,
    bias_E: np.ndarray,
    *,
    top_k: int,
    n_group: int,
    topk_group: int,
    renormalize: bool,
    scale: float,
    score: str = "sigmoid",
    isa: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts int32 [T, K], best first, and their weights float32 [T, K]; of equals, the
    lower number.

    score: how logits become scores, one of SCORES."""
    if score not in SCORES:
        raise ValueError(f"score={score!r}; expected one of {', '.join(SCORES)}")
    _want("logits", logits_TE, np.float32, 2)
    _want("bias", bias_E, np.float32, 1)
    chosen_TK = np.empty((len(logits_TE), top_k), np.int32)
    weight_TK = np.empty((len(logits_TE), top_k), np.float32)
    by = SCORES.index(score)
    _ext.route(level(isa), logits_TE, bias_E, n_group, topk_group, renormalize, scale, by, chosen_TK, weight_TK)
    return chosen_TK, weight_TK


@dataclass(frozen=True, slots=True)
class Latents:
    """What MLA reads of one sequence's cache: position s lies in row table[s // block_tokens] *
    block_tokens + s % block_tokens. A row is c_kv and k_pe, each filled up with zeros to whole
    vectors.

    rows_SW: float32 [slots, W]; table: int32 [blocks]; positions: how many are there."""

    rows_SW: np.ndarray
    table: np.ndarray
    block_tokens: int
    positions: int


def latents_of(c_kv_SR: np.ndarray, k_pe_SP: np.ndarray) -> Latents:
    """All positions one behind the other, as a block of one token each."""
    for name, array in (("c_kv", c_kv_SR), ("k_pe", k_pe_SP)):
        _want(name, array, np.float32, 2)
    (positions, rank), rope = c_kv_SR.shape, k_pe_SP.shape[1]
    key = -(-rank // 32) * 32
    rows_SW = np.zeros((positions, key + -(-rope // 16) * 16), np.float32)
    rows_SW[:, :rank], rows_SW[:, key : key + rope] = c_kv_SR, k_pe_SP
    return Latents(rows_SW, np.arange(positions, dtype=np.int32), 1, positions)


def mla_absorbed(
    q_TNK: np.ndarray,
    q_pe_TNP: np.ndarray,
    latents: Latents,
    w_uk_NKR: np.ndarray,
    w_uv_NHR: np.ndarray,
    scale: float,
    *,
    segment: int = 256,
    isa: str | None = None,
) -> np.ndarray:
    """Causal MLA in the latent space, float32 [T, N, H], the T queries being the last of the
    latents' positions.

    Attends part by part (`segment` positions, a multiple of 32) and puts the parts together."""
    if segment < POSITIONS or segment % POSITIONS:
        raise ValueError(f"segment={segment}; expected a multiple of {POSITIONS}")
    out_TNH = _mla_output(q_TNK, q_pe_TNP, latents, w_uk_NKR, w_uv_NHR)
    absorb_k = [_ext.pack_f32(np.ascontiguousarray(w.T)) for w in w_uk_NKR]
    expand_v = [_ext.pack_f32(w) for w in w_uv_NHR]
    where = (latents.rows_SW, latents.table, latents.block_tokens, latents.positions)
    _ext.mla_absorbed(level(isa), q_TNK, q_pe_TNP, *where, absorb_k, expand_v, float(scale), segment, out_TNH)
    return out_TNH


def mla_naive(
    q_TNK: np.ndarray,
    q_pe_TNP: np.ndarray,
    latents: Latents,
    w_uk_NKR: np.ndarray,
    w_uv_NHR: np.ndarray,
    scale: float,
    *,
    isa: str | None = None,
) -> np.ndarray:
    """The same as `mla_absorbed` with keys and values decompressed, some positions at a time."""
    out_TNH = _mla_output(q_TNK, q_pe_TNP, latents, w_uk_NKR, w_uv_NHR)
    expand_k, expand_v = ([_ext.pack_f32(m) for m in w] for w in (w_uk_NKR, w_uv_NHR))
    where = (latents.rows_SW, latents.table, latents.block_tokens, latents.positions)
    _ext.mla_naive(level(isa), q_TNK, q_pe_TNP, *where, expand_k, expand_v, float(scale), out_TNH)
    return out_TNH


def gqa(
    q_TNA: np.ndarray,
    k_SMA: np.ndarray,
    v_SMA: np.ndarray,
    scale: float,
    *,
    segment: int = 512,
    isa: str | None = None,
) -> np.ndarray:
    """Causal grouped-query attention, float32 [T, N, A], the T queries being the last of S positions.
    Attends part by part, as `mla_absorbed` does."""
    if segment < POSITIONS or segment % POSITIONS:
        raise ValueError(f"segment={segment}; expected a multiple of {POSITIONS}")
    for name, array in (("q", q_TNA), ("k", k_SMA), ("v", v_SMA)):
        _want(name, array, np.float32, 3)
    (positions, kv_heads, width), wide = k_SMA.shape, -(-k_SMA.shape[2] // 16) * 16
    if v_SMA.shape != k_SMA.shape or q_TNA.shape[2] != width or q_TNA.shape[1] % kv_heads:
        raise ValueError(
            f"q {q_TNA.shape}, k {k_SMA.shape} and v {v_SMA.shape} do not fit; expected [T, N, A], [S, M, A] twice, "
            "N a multiple of M"
        )
    rows = np.zeros((positions, 2, kv_heads, wide), np.float32)
    rows[:, 0, :, :width], rows[:, 1, :, :width] = k_SMA, v_SMA
    out_TNA = np.empty_like(q_TNA)
    table = np.arange(positions, dtype=np.int32)
    flat = rows.reshape(positions, -1)
    _ext.gqa(level(isa), q_TNA, flat, table, 1, positions, kv_heads, float(scale), segment, out_TNA)
    return out_TNA


def _mla_output(
    q_TNK: np.ndarray, q_pe_TNP: np.ndarray, latents: Latents, w_uk_NKR: np.ndarray, w_uv_NHR: np.ndarray
) -> np.ndarray:
    """Room for the result, after a look at what attention takes."""
    for name, array, ndim in (
        *(("q", q_TNK, 3), ("q_pe", q_pe_TNP, 3), ("latents", latents.rows_SW, 2)),
        *(("w_uk", w_uk_NKR, 3), ("w_uv", w_uv_NHR, 3)),
    ):
        _want(name, array, np.float32, ndim)
    _want("table", latents.table, np.int32, 1)
    return np.empty((len(q_TNK), len(w_uv_NHR), w_uv_NHR.shape[1]), np.float32)


def _int4_parts(packed_OW: np.ndarray, scale_OG: np.ndarray) -> np.ndarray:
    """The scales' bits, after a look at both."""
    _want("packed", packed_OW, np.int32, 2)
    if scale_OG.dtype.name == "bfloat16":
        scale_OG = scale_OG.view(np.uint16)
    _want("scale", scale_OG, np.uint16, 2)
    return scale_OG


def _product(x_TI: np.ndarray, w: Packed) -> np.ndarray:
    """Room for x @ W^T, float32 [T, O]. Raises ValueError for an x that does not fit."""
    _want("x", x_TI, np.float32, 2)
    rows, width = w.shape
    if x_TI.shape[1] != width:
        raise ValueError(f"x {x_TI.shape} does not fit a matrix of {rows} x {width}; expected [T, {width}]")
    return np.empty((len(x_TI), rows), np.float32)


def _want(name: str, array: np.ndarray, dtype: type, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous or not array.flags.aligned:
        layout = "contiguous" if array.flags.c_contiguous and array.flags.aligned else "not contiguous or not aligned"
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}, {layout}; expected contiguous {np.dtype(dtype)} "
            f"with {ndim} axes; hint: np.ascontiguousarray"
        )

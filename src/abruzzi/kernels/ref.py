"""The operations in plain NumPy: what each one means. Tests compare every fast path with these.

Letters: T tokens, S positions, I inputs, O outputs, D width, E experts, F expert inner, K experts
per token (in `mla_*`: nope dim), N heads, R kv_lora_rank, P rope dim, H value dim.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


def rmsnorm(x_TD: np.ndarray, weight_D: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, row by row; float32 in and out, float64 inside."""
    wide = x_TD.astype(np.float64)
    return (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight_D).astype(np.float32)


def linear(x_TI: np.ndarray, w_OI: np.ndarray) -> np.ndarray:
    """x @ W^T: float32 [T, out]. BLAS does this well; it is here so that callers have one place."""
    return x_TI @ w_OI.T


def linear_int8(x_TI: np.ndarray, codes_OI: np.ndarray, scale_OG: np.ndarray) -> np.ndarray:
    """x @ W^T with x rounded to 8 bits, one scale a row, as the fast mode computes it, bit for bit:
    whole sums per group of 32 columns, times the group's scale, added in float32 in order, times
    the row's scale.

    codes_OI: int8 [O, I]; scale_OG: float32 [O, I/32]."""
    scale_T = np.abs(x_TI).max(-1) / np.float32(127)
    q_TI = np.rint(x_TI / np.where(scale_T > 0, scale_T, np.float32(1))[:, None]).astype(np.int32)
    total_TO = np.zeros((len(x_TI), len(codes_OI)), np.float32)
    for g in range(scale_OG.shape[1]):
        at = slice(g * 32, g * 32 + 32)
        sums_TO = q_TI[:, at] @ codes_OI[:, at].astype(np.int32).T
        total_TO += sums_TO.astype(np.float32) * scale_OG[:, g]
    return total_TO * scale_T[:, None]


def silu_mul(gate_TF: np.ndarray, up_TF: np.ndarray) -> np.ndarray:
    """silu(gate) * up, elementwise."""
    # exp of a large negative number's negative overflows to inf, and 1 / inf is the right 0.
    with np.errstate(over="ignore"):
        return gate_TF / (1 + np.exp(-gate_TF)) * up_TF


def gate_up(x_TI: np.ndarray, gate_FI: np.ndarray, up_FI: np.ndarray) -> np.ndarray:
    """silu(x @ gate^T) * (x @ up^T): the first half of a SwiGLU."""
    return silu_mul(linear(x_TI, gate_FI), linear(x_TI, up_FI))


class Draw(Protocol):
    """What a draw depends on beside the logits: types.SamplingParams has it. The compiled one is
    csrc's Draw."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...


def candidates(logprobs_V: np.ndarray, draw: Draw) -> np.ndarray:
    """Ids that may be drawn, most likely first: top_k of them, then the fewest whose mass reaches
    top_p, then those at least min_p times as likely as the first."""
    order = np.argsort(-logprobs_V, kind="stable")
    if draw.top_k:
        order = order[: draw.top_k]
    probs = np.exp(logprobs_V[order].astype(np.float64))
    if draw.top_p < 1:
        before = np.cumsum(probs) / probs.sum() - probs / probs.sum()
        order, probs = order[before < draw.top_p], probs[before < draw.top_p]
    if draw.min_p > 0:
        order = order[probs >= draw.min_p * probs[0]]
    return order


def sample(logits_V: np.ndarray, draw: Draw, uniform: float) -> int:
    """The id that the number `uniform` in [0, 1) draws among the candidates. draw.temperature is
    above 0."""
    shifted = (logits_V / np.float32(draw.temperature)).astype(np.float64)
    logprobs_V = shifted - shifted.max() - np.log(np.exp(shifted - shifted.max()).sum())
    kept = candidates(logprobs_V, draw)
    weights = np.exp(logprobs_V[kept])
    place = int(np.searchsorted(np.cumsum(weights), uniform * weights.sum(), side="right"))
    return int(kept[min(place, len(kept) - 1)])


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate the pairs (0,1), (2,3), ... of the last axis [..., P] by the angles of cos, sin [...,
    P/2].

    The result holds the even components first, then the odd ones: any order serves, as long as
    query and key use the same."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.concatenate([even * cos - odd * sin, odd * cos + even * sin], axis=-1)


def rope_half(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate the pairs (0, P/2), (1, P/2 + 1), ... of the last axis [..., P] by the angles of cos, sin
    [..., P/2]: half-split rotation. With fewer angles the rest of the axis stays as it is (partial
    rotation)."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), elementwise."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """e^x over the sum of a row's, [..., E]."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SCORES = {"sigmoid": sigmoid, "softmax": softmax}  # of a router, over its logits [T, E]


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
) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts int64 [T, K] and their weights float32 [T, K] (k2.md 2.2; DeepSeek-V3 eqs.
    12-16).

    score: how logits become scores, one of SCORES. The bias counts for the choice only; with
    groups, those with the largest sum of two biased scores are kept."""
    scores_TE = SCORES[score](logits_TE)
    choice_TE = scores_TE + bias_E
    if n_group > 1:
        tokens, experts = choice_TE.shape
        grouped_TGM = choice_TE.reshape(tokens, n_group, -1)
        group_TG = np.sort(grouped_TGM, axis=-1)[..., -2:].sum(-1)
        kept_TG = np.argsort(-group_TG, axis=-1, kind="stable")[:, :topk_group]
        mask_TG = np.full((tokens, n_group), -np.inf, np.float32)
        np.put_along_axis(mask_TG, kept_TG, 0.0, axis=-1)
        choice_TE = (grouped_TGM + mask_TG[..., None]).reshape(tokens, experts)
    chosen_TK = np.argsort(-choice_TE, axis=-1, kind="stable")[:, :top_k]
    weight_TK = np.take_along_axis(scores_TE, chosen_TK, axis=-1)
    if renormalize:
        weight_TK = weight_TK / (weight_TK.sum(-1, keepdims=True) + np.float32(1e-20))
    return chosen_TK, weight_TK * np.float32(scale)


def mla_absorbed(
    q_TNK: np.ndarray,
    q_pe_TNP: np.ndarray,
    c_kv_SR: np.ndarray,
    k_pe_SP: np.ndarray,
    w_uk_NKR: np.ndarray,
    w_uv_NHR: np.ndarray,
    scale: np.float32,
) -> np.ndarray:
    """Causal MLA in the latent space: float32 [T, N, H]; the T queries are the last T of S
    positions.

    The key up-projection is folded into the query, the value up-projection into the output, so that
    each cached latent is read once for all heads (k2.md 2.1)."""
    q_NTR = q_TNK.transpose(1, 0, 2) @ w_uk_NKR
    scores_NTS = (q_NTR @ c_kv_SR.T + q_pe_TNP.transpose(1, 0, 2) @ k_pe_SP.T) * scale
    u_NTR = _causal_softmax(scores_NTS) @ c_kv_SR
    return (u_NTR @ w_uv_NHR.transpose(0, 2, 1)).transpose(1, 0, 2)


def mla_naive(
    q_TNK: np.ndarray,
    q_pe_TNP: np.ndarray,
    c_kv_SR: np.ndarray,
    k_pe_SP: np.ndarray,
    w_uk_NKR: np.ndarray,
    w_uv_NHR: np.ndarray,
    scale: np.float32,
) -> np.ndarray:
    """The same as `mla_absorbed` with keys and values decompressed first: fewer products for many
    queries."""
    k_NKS = w_uk_NKR @ c_kv_SR.T
    scores_NTS = (q_TNK.transpose(1, 0, 2) @ k_NKS + q_pe_TNP.transpose(1, 0, 2) @ k_pe_SP.T) * scale
    v_NSH = c_kv_SR @ w_uv_NHR.transpose(0, 2, 1)
    return (_causal_softmax(scores_NTS) @ v_NSH).transpose(1, 0, 2)


def gqa(q_TNA: np.ndarray, k_SMA: np.ndarray, v_SMA: np.ndarray, scale: np.float32) -> np.ndarray:
    """Causal grouped-query attention: float32 [T, N, A]; the T queries are the last T of S positions.
    Head n of the queries reads head n M / N of keys and values."""
    shared = q_TNA.shape[1] // k_SMA.shape[1]
    k_NSA, v_NSA = (np.repeat(x.transpose(1, 0, 2), shared, axis=0) for x in (k_SMA, v_SMA))
    scores_NTS = q_TNA.transpose(1, 0, 2) @ k_NSA.transpose(0, 2, 1) * scale
    return (_causal_softmax(scores_NTS) @ v_NSA).transpose(1, 0, 2)


def _causal_softmax(scores_NTS: np.ndarray) -> np.ndarray:
    tokens, positions = scores_NTS.shape[1:]
    if tokens > 1:
        future_TS = np.arange(positions) > np.arange(positions - tokens, positions)[:, None]
        scores_NTS = np.where(future_TS, np.float32(-np.inf), scores_NTS)
    scores_NTS = np.exp(scores_NTS - scores_NTS.max(-1, keepdims=True))
    return scores_NTS / scores_NTS.sum(-1, keepdims=True)


def attend_documents(
    edges: np.ndarray, q: np.ndarray, kv: np.ndarray, k_pe: np.ndarray, cos: np.ndarray, sin: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Causal attention within documents (kernels/documents.py) and its parts: output [M, N, H],
    probabilities [N, M, M], rotated scaled queries and rotated keys [M, N, A]; in the dtype of q,
    kv and k_pe, plain here."""
    tokens, heads, width = q.shape
    nope = width - k_pe.shape[1]
    number = np.searchsorted(edges, np.arange(tokens), side="right")
    seen = (number[:, None] == number) & np.tri(tokens, dtype=bool)
    turned = q.copy()
    turned[..., nope:] = turn(q[..., nope:], cos[:, None], sin[:, None])
    key = np.concatenate((kv[..., :nope], np.repeat(turn(k_pe, cos, sin)[:, None], heads, 1)), -1)
    logits = np.where(seen, np.einsum("mna,kna->nmk", turned * scale, key), -np.inf)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    probability = e / e.sum(-1, keepdims=True)
    return np.einsum("nmk,knh->mnh", probability, kv[..., nope:]), probability, turned * scale, key


def attend_documents_backward(
    edges: np.ndarray,
    q: np.ndarray,
    kv: np.ndarray,
    k_pe: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    scale: float,
    d_o: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of q [M, N, A], kv [M, N, J] and k_pe by head [M, N, P] from that of the output,
    d_o [M, N, H]."""
    nope = q.shape[2] - k_pe.shape[1]
    o, probability, query, key = attend_documents(edges, q, kv, k_pe, cos, sin, scale)
    dprobability = np.einsum("mnh,knh->nmk", d_o, kv[..., nope:])
    dlogits = probability * (dprobability - (d_o * o).sum(-1).T[..., None])
    dquery = np.einsum("nmk,kna->mna", dlogits, key) * scale
    dkey = np.einsum("nmk,mna->kna", dlogits, query)
    dv = np.einsum("nmk,mnh->knh", probability, d_o)
    back = cos[:, None], -sin[:, None]
    dq = np.concatenate((dquery[..., :nope], turn(dquery[..., nope:], *back)), -1)
    return dq, np.concatenate((dkey[..., :nope], dv), -1), turn(dkey[..., nope:], *back)


def turn(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Each pair (x[2j], x[2j + 1]) of the last axis turned by the angle of cos and sin [..., P /
    2]."""
    even, odd = x[..., ::2], x[..., 1::2]
    return np.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape)

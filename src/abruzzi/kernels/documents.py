"""Causal attention within the documents of packed rows in bfloat16, forward and backward.

Compiled: csrc/train/document_attention.h.

Not every CPU can (`can_attend`: AVX-512 BF16, and ABRUZZI_CPU does not forbid it). bfloat16 comes
as its bits, uint16. Its slow twin is in ref.py; the room `model` has another in torch, one document
after the other.

Shape suffixes: M tokens of all documents, C documents, N heads, P rope dim (p pairs), A nope and
rope dim, J nope and value dim, H value dim.
"""

from __future__ import annotations

import numpy as np

from abruzzi.kernels import _ext
from abruzzi.kernels.dispatch import ISAS, isa

Given = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]


def can_attend(nope: int, rope: int, value: int) -> bool:
    """Whether this machine can, and heads of this shape: all even, or pairs of bfloat16 would be
    torn apart."""
    return isa() == ISAS[-1] and _ext.can_attend_documents() and not (nope % 2 or rope % 2 or value % 2)


def attend(given: Given, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output uint16 [M, N, H], log-sum-exp of the softmax inputs float32 [M, N], and the largest of
    them [M, N].

    given: edges int64 [C + 1], where each document begins and the last one ends; q [M, N, A], kv
    [M, N, J] and k_pe [M, P], uint16, neither rotated nor scaled; cos and sin, float32 [M, p]; and
    the scale. Raises ValueError for shapes that do not fit each other, TypeError for another
    dtype."""
    _, q, kv, k_pe, *_ = given
    nope = q.shape[2] - k_pe.shape[1]
    o = np.empty((*q.shape[:2], kv.shape[2] - nope), np.uint16)
    log_sum, largest = np.empty(q.shape[:2], np.float32), np.empty(q.shape[:2], np.float32)
    _ext.attend_documents(threads, *given, o, log_sum, largest)
    return o, log_sum, largest


def attend_backward(
    given: Given, o: np.ndarray, log_sum: np.ndarray, d_o: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of q and kv, uint16 of their shapes, and of k_pe by head, float32 [M, N, P].

    o, log_sum: as `attend` gave them; d_o uint16 [M, N, H]. Raises as `attend` does."""
    _, q, kv, k_pe, *_ = given
    dq, dkv = np.empty_like(q), np.empty_like(kv)
    dk_pe = np.empty((*q.shape[:2], k_pe.shape[1]), np.float32)
    _ext.attend_documents_backward(threads, *given, o, log_sum, d_o, dq, dkv, dk_pe)
    return dq, dkv, dk_pe

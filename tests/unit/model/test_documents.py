"""Attention within documents: the kernels' paths against one document after the other in float64.

Without a GPU torch's plain attention stands in for its kernel, so that what surrounds it is tested
everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.kernels import documents as kernels
from abruzzi.model.fast import documents
from abruzzi.model.fast.documents import Documents
from abruzzi.model.k2 import seen_within
from abruzzi.model.trace import Trace

HEADS, WIDTH, SCALE = 3, 12, 0.35
LENGTHS = [1, 30, 33, 64]  # two rows of 64
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)


def begins() -> Tensor:
    first = torch.zeros(2, 64, dtype=torch.bool)
    first[0, 0] = first[0, 1] = first[0, 31] = first[1, 0] = True
    return first


def inputs(device: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(3, 2, 64, HEADS, WIDTH, generator=generator) * 2
    drawn[1, 0, 40, 1] *= 8  # one key of head 1 is loud
    # Rounded first, so that every precision is given the same numbers.
    return [x.bfloat16().to(device, dtype).requires_grad_() for x in drawn]


def stand_in(
    q: Tensor, k: Tensor, v: Tensor, edges: Tensor, *_: Any, scale: float, **options: Any
) -> tuple[Tensor, ...]:
    """varlen_attn by masks: tokens [M, N, A] and log-sum-exp [N, M]."""
    assert options["window_size"] == (-1, 0) and options["return_aux"].lse and q.shape[-1] % 8 == 0
    place = torch.arange(len(q))
    number = torch.bucketize(place, edges[1:], right=True)
    seen = (number[:, None] == number) & (place <= place[:, None])
    logits = torch.einsum("mna,kna->nmk", q.float(), k.float()).mul(scale).masked_fill(~seen, float("-inf"))
    return torch.einsum("nmk,kna->mna", logits.softmax(-1), v.float()).to(q.dtype), logits.logsumexp(-1)


def run(
    device: str, dtype: torch.dtype, above: float | None, path: Callable[..., Any] = documents._within
) -> tuple[list[Tensor], Tensor]:
    """Output and gradients, float64 on the CPU, and the largest logits."""
    q, k, v = inputs(device, dtype)
    counted = torch.ones(2, 64, dtype=torch.bool)
    counted[1, 50:] = False
    trace = Trace(max_logits=True, above=above, counted_BT=counted.to(device))
    found = Documents.of(begins().to(device), (q, q))
    assert found.lengths == LENGTHS and found.edges_C1.tolist() == [0, 1, 31, 64, 128]
    out, largest = path(q, k, v, found, SCALE, trace)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).to(out)
    (out * weight).sum().backward()
    assert largest is not None
    return [t.detach().double().cpu() for t in (out, q.grad, k.grad, v.grad)], largest.cpu()  # type: ignore[union-attr]


def fused(monkeypatch: pytest.MonkeyPatch, device: str) -> Callable[..., tuple[list[Tensor], Tensor]]:
    if device == "cuda":
        return lambda above: run("cuda", torch.bfloat16, above)
    monkeypatch.setattr(documents, "varlen_attn", stand_in)
    return lambda above: run("cpu", torch.bfloat16, above, documents._fused)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_fused_path_gives_outputs_gradients_and_largest_logits(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, want_largest = run("cpu", torch.float64, None)
    # The oracle's oracle: one row, one head, by hand.
    q, k, v = inputs("cpu", torch.float64)
    logits = (q[1, :, 2] @ k[1, :, 2].mT * SCALE).masked_fill(~seen_within(begins())[1], float("-inf"))
    assert torch.allclose(want[0][1, :, 2], (logits.softmax(-1) @ v[1, :, 2]).detach(), rtol=1e-4, atol=1e-4)
    got, largest = fused(monkeypatch, device)(None)
    for w, g in zip(want, got):
        assert float((w - g).norm() / w.norm()) < 1e-2
    assert torch.allclose(largest.double(), want_largest.double(), rtol=1e-3)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_log_sum_exp_stands_in_for_heads_below_the_limit(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact = run("cpu", torch.float64, None)
    run_fused = fused(monkeypatch, device)
    quiet, loud = float(exact.sort().values[1]), float(exact.max())
    above = (quiet + loud) / 2
    products: list[int] = []
    only = documents._only
    monkeypatch.setattr(documents, "_only", lambda x, wanted: products.append(x.ndim) or only(x, wanted))
    _, got = run_fused(above)
    assert products.count(3) == 1  # the logits of the loud head alone
    assert float(got.max()) == pytest.approx(loud, rel=1e-3)
    others = exact < above
    assert (got[others] >= exact[others] * 0.999).all() and (got[others] <= above).all()
    assert (got[others] <= exact[others] + torch.tensor(64.0).log() + 1e-2).all()
    products.clear()
    run_fused(2 * loud)
    assert products.count(3) == 0


def test_padding_neither_counts_nor_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted mistake: with padding counted, the largest logit of a head is another one."""
    _, want = run("cpu", torch.float64, None)
    monkeypatch.setattr(documents, "_only", lambda x, wanted: F.relu(x) if x.ndim == 2 else x)
    _, wrong = fused(monkeypatch, "cpu")(None)
    assert not torch.allclose(wrong.double(), want.double(), rtol=1e-2)


# our own kernel, on CPUs that have bfloat16

needs_bf16 = pytest.mark.skipif(not kernels.can_attend(8, 8, 8), reason="this CPU lacks avx512_bf16")


@dataclass(frozen=True)
class Case:
    """Documents packed into one row, and heads of a shape."""

    lengths: tuple[int, ...]
    heads: int
    nope: int
    rope: int
    value: int

    def inputs(self) -> tuple[list[Tensor], Documents, Tensor]:
        """q, kv and k_pe in bfloat16, the documents, and a gradient."""
        generator, tokens = torch.Generator().manual_seed(5), sum(self.lengths)
        first = torch.zeros(1, tokens, dtype=torch.bool)
        first[0, [0, *itertools.accumulate(self.lengths[:-1])]] = True
        angle = torch.rand(1, tokens, self.rope // 2, generator=generator) * 6
        sizes = (self.heads, self.nope + self.rope), (self.heads, self.nope + self.value), (self.rope,)
        drawn = [(torch.randn(1, tokens, *size, generator=generator) * 1.5).bfloat16() for size in sizes]
        d_o = torch.randn(1, tokens, self.heads, self.value, generator=generator).bfloat16()
        return drawn, Documents.of(first, (angle.cos(), angle.sin())), d_o

    def run(self, dtype: torch.dtype, watched: bool = True) -> tuple[list[Tensor], Tensor | None]:
        """Output and gradients, and the largest logits."""
        drawn, found, d_o = self.inputs()
        given = [x.clone().to(dtype).requires_grad_() for x in drawn]
        out, largest = documents.attend(*given, found, 0.3, Trace(max_logits=True) if watched else None)
        (out * d_o.to(dtype)).sum().backward()
        return [out.detach(), *(x.grad for x in given if x.grad is not None)], largest


CASES = (
    Case((16, 17, 1, 64, 65, 130, 3), 3, 24, 24, 32),  # around blocks and vectors
    Case((100, 300, 257), 4, 32, 16, 48),
    Case((200,), 2, 32, 32, 40),
    Case((33, 2), 1, 2, 2, 2),
    Case((128, 63), 2, 0, 34, 18),  # no nope part, widths between vectors
)


@needs_bf16
@pytest.mark.parametrize("case", CASES, ids=str)
def test_our_kernel_gives_outputs_gradients_and_largest_logits(case: Case) -> None:
    (want, want_largest), (got, largest) = case.run(torch.float64), case.run(torch.bfloat16)
    assert len(got) == len(want) == 4
    for w, g in zip(want, got):
        assert float((w - g).norm() / w.norm()) < 1.2e-2  # bfloat16 has 8 bits
    assert want_largest is not None and largest is not None
    assert torch.allclose(largest.double(), want_largest.double(), rtol=1e-2, atol=2e-2)


@needs_bf16
def test_our_kernel_gives_the_same_bits_in_any_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(CASES[0].run(torch.bfloat16)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0]))


@needs_bf16
@pytest.mark.parametrize("mistake", ["edges", "scale", "rotation", "gradient"])
def test_the_comparison_sees_planted_mistakes(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[0]
    want, _ = case.run(torch.float64, watched=False)
    given = documents._given

    def wrong(*arguments: Any) -> Any:
        edges, q, kv, k_pe, cos, sin, scale = given(*arguments)
        if mistake == "edges":
            edges = np.array([0, edges[-1]])
        return edges, q, kv, k_pe, cos, -sin if mistake == "rotation" else sin, scale * (1 + 0.1 * (mistake == "scale"))

    monkeypatch.setattr(documents, "_given", wrong)
    if mistake == "gradient":
        backward = kernels.attend_backward
        monkeypatch.setattr(documents, "_given", given)
        monkeypatch.setattr(kernels, "attend_backward", lambda g, o, s, d, t: backward(g, o, s + 0.1, d, t))
    got, _ = case.run(torch.bfloat16, watched=False)
    errors = [float((w - g).norm() / w.norm()) for w, g in zip(want, got)]
    assert max(errors) > 3e-2
    assert mistake != "gradient" or errors[0] < 1e-2


@needs_bf16
def test_our_kernel_refuses_what_does_not_fit() -> None:
    drawn, found, _ = CASES[0].inputs()
    given = documents._given(*(x.flatten(0, 1) for x in drawn), found, 0.3)
    for changed in ({0: given[0][:-1]}, {3: given[3][:, :-2].copy()}, {2: given[2][:-1]}, {0: given[0][::-1].copy()}):
        with pytest.raises(ValueError, match="do not fit"):
            kernels.attend(tuple(changed.get(i, x) for i, x in enumerate(given)), 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.attend((given[0], given[1].astype(np.float32), *given[2:]), 1)
    assert not kernels.can_attend(7, 8, 8) and not kernels.can_attend(8, 8, 9)

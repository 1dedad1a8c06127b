"""Attention within documents: the fused kernel's path against one document after the other in float64.

Without a GPU torch's plain attention stands in for the kernel, so that what surrounds it is tested everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model import documents
from abruzzi.model.documents import Documents, seen_within
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

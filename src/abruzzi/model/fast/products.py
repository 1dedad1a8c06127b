"""Matrix products for training on a CPU, in float32 through oneDNN where that is the faster
library.

torch multiplies float32 matrices with MKL, which uses half the vector width on AMD's CPUs: 110
GFLOP/s on one Zen 5 core where oneDNN, which torch contains as well and takes for bfloat16, reaches
250. Both are float32 throughout.

oneDNN compiles a kernel for every new shape, 0.2 to 0.5 ms, and keeps about a thousand of them: a
number of rows that changes from step to step should be rounded up to a multiple of ROWS.

Its slow twin is torch.mm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 32
# Multiply-adds from which oneDNN pays for the longer way to it.
WORTHWHILE = 2**21
_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, [rows, inner] @ [inner, cols] on a CPU, both of one dtype; not differentiable."""
    # torch has no public way to choose oneDNN for one float32 product (torch.mm asks MKL), so this
    # calls a private operator. pyproject.toml pins the torch it is known in, test_products.py
    # compares it with float64.
    if _ONEDNN and a.dtype == torch.float32 and a.shape[0] * a.shape[1] * b.shape[1] >= WORTHWHILE:
        return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")  # type: ignore[no-any-return]
    return torch.mm(a, b)


@contextmanager
def batched_by_onednn() -> Iterator[None]:
    """Within, torch.bmm of float32 goes through oneDNN: for factors that come from bfloat16, since
    where a CPU has faster instructions for that (AMX) oneDNN may round them to it. Sums stay
    float32; elsewhere nothing is rounded."""
    backend: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T, [..., in] and [out, in] to [..., out], under autocast in its dtype: F.linear,
    but for speed."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    ):
        return _Linear.apply(x, weight)  # type: ignore[no-any-return]
    return F.linear(x, weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return mm(x.flatten(0, -2), weight.mT).view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dy_MO = dy.flatten(0, -2)
        dx = mm(dy_MO, weight).view_as(x) if ctx.needs_input_grad[0] else None
        return dx, mm(dy_MO.mT, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None

"""Products beside torch's own in float64, in sizes that take either library, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model.fast import products
from abruzzi.model.fast.fused_experts import experts
from abruzzi.model.fast.products import linear, mm
from abruzzi.model.linear import Linear


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(3, 5, 7), (160, 128, 192), (1, 2048, 1536)])
def test_a_product_is_torchs_in_every_layout(sizes: tuple[int, int, int]) -> None:
    rows, inner, cols = sizes
    for a in (drawn(rows, inner), drawn(inner, rows).mT, drawn(rows + 2, 2 * inner)[2:, inner:]):
        for b in (drawn(inner, cols, seed=1), drawn(cols, inner, seed=1).mT):
            want = a.double() @ b.double()
            assert (mm(a, b) - want).abs().max() < 1e-6 * inner**0.5 * want.abs().max()
            near = mm(a.bfloat16(), b.bfloat16())
            assert near.dtype == torch.bfloat16 and (near - want).abs().max() < 2e-2 * want.abs().max()


@pytest.mark.skipif(not products._ONEDNN, reason="no AVX-512, or torch without oneDNN")
def test_sizes_decide_which_library_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests here see both."""
    a, b = drawn(160, 128), drawn(128, 192, seed=1)
    monkeypatch.setattr(torch, "mm", lambda a, b: "torch.mm")
    assert mm(a, b) != "torch.mm"
    assert mm(a[:20], b) == mm(a.bfloat16(), b.bfloat16()) == "torch.mm"


@pytest.mark.parametrize("tokens", [(2, 5), (2, 90)])
def test_a_linear_layer_has_the_gradients_that_torch_derives(tokens: tuple[int, int]) -> None:
    layer = Linear(128, 192)
    layer.product = linear
    x, given = drawn(*tokens, 128).requires_grad_(), drawn(*tokens, 192, seed=1)
    ours, theirs = layer(x), F.linear(x, layer.weight)
    assert ours.grad_fn is not None and theirs.grad_fn is not None and ours.grad_fn.name() != theirs.grad_fn.name()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, (x, layer.weight), given) for y in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), F.linear(x, layer.weight)) and layer(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight))
    x.requires_grad_(False)
    linear(x, layer.weight).sum().backward()
    assert x.grad is None and layer.weight.grad is not None


def test_experts_of_any_load_equal_their_formula_with_gradients() -> None:
    """Loads 0, 1, ROWS, ROWS + 1 and many: rows that only fill up change nothing."""
    loads = [0, 1, products.ROWS, products.ROWS + 1, 110]
    chosen = torch.cat([torch.full((n,), e) for e, n in enumerate(loads)])
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))].view(-1, 2)
    leaves = [
        drawn(len(chosen), 48),
        drawn(*chosen.shape, seed=4).sigmoid(),
        drawn(5, 40, 48),
        drawn(5, 40, 48, seed=1),
    ]
    leaves = [leaf.requires_grad_() for leaf in (*leaves, drawn(5, 48, 40, seed=2))]
    given = drawn(len(chosen), 48, seed=3)
    x, weight, gate, up, down = (leaf.double() for leaf in leaves)
    want = torch.zeros_like(x)
    for k, e in enumerate(chosen.unbind(1)):
        inner = F.silu(torch.einsum("td,tid->ti", x, gate[e])) * torch.einsum("td,tid->ti", x, up[e])
        want = want + torch.einsum("ti,tdi->td", inner, down[e]) * weight[:, k, None]
    a, b, *stacks = leaves
    got = experts(a, chosen, b, stacks[0], stacks[1], stacks[2], torch.float32)
    assert (got - want).abs().max() < 2e-6 * want.abs().max()
    for a, b in zip(torch.autograd.grad(got, leaves, given), torch.autograd.grad(want, leaves, given.double())):
        assert (a - b).abs().max() < 2e-6 * b.abs().max()

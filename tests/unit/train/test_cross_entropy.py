"""The loss over the head beside torch's own, differentiated by torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.train import cross_entropy
from abruzzi.train.cross_entropy import weighted_cross_entropy

SIZE = 24


def case(targets: int, vocabulary: int, loud: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, targets and weights; some weights are zero, none is one."""
    generator = torch.Generator().manual_seed(targets)
    hidden = torch.randn(targets, SIZE, generator=generator) * loud
    head = torch.randn(vocabulary, SIZE, generator=generator)
    weights = torch.rand(targets, generator=generator) * 3
    weights[1::3] = 0
    target = torch.randint(vocabulary, (targets,), generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), target, weights


def in_float64(hidden: Tensor, head: Tensor, target: Tensor, weights: Tensor) -> list[Tensor]:
    """Loss over 7 (a mean's divisor), losses, gradients."""
    losses = F.cross_entropy(hidden.double() @ head.double().T, target, reduction="none")
    loss = (losses * weights).sum() / 7
    return [loss.detach(), losses.detach(), *torch.autograd.grad(loss, (hidden, head))]


def ours(hidden: Tensor, head: Tensor, target: Tensor, weights: Tensor) -> list[Tensor]:
    loss, losses = weighted_cross_entropy(hidden, head, target, weights)
    assert loss.dtype == losses.dtype == torch.float32 and not losses.requires_grad
    return [loss.detach() / 7, losses, *torch.autograd.grad(loss / 7, (hidden, head))]


def largest_error(got: list[Tensor], want: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True))


# One row; many rows in one chunk; several chunks, the last of them short; one row at a time.
@pytest.mark.parametrize(("targets", "vocabulary"), [(1, 50), (70, 50), (75, 50), (75, 700)])
# At 40 most probabilities underflow, and logits of 600 are rounded to 3e-5.
@pytest.mark.parametrize(("loud", "tolerance"), [(1.0, 2e-6), (40.0, 1e-5)])
def test_loss_and_gradients_are_torchs(
    targets: int, vocabulary: int, loud: float, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 16 * 50)
    given = case(targets, vocabulary, loud)
    assert largest_error(ours(*given), in_float64(*given)) < tolerance
    with torch.no_grad():
        loss, losses = weighted_cross_entropy(*given)
    assert largest_error([loss / 7, losses], in_float64(*given)[:2]) < tolerance


@pytest.mark.parametrize("targets", [1, 75])
def test_under_autocast_it_is_as_near_as_torchs(targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 16 * 50)
    hidden, head, target, weights = given = case(targets, 50)
    want = in_float64(*given)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours(*given)
        losses = F.cross_entropy(F.linear(hidden, head).float(), target, reduction="none")
        loss = (losses * weights).sum() / 7
    theirs = [loss.detach(), losses.detach(), *torch.autograd.grad(loss, (hidden, head))]
    assert [g.dtype for g in got] == [torch.float32] * 4
    assert largest_error(got, want) < 1.5 * largest_error(theirs, want) + 1e-3
    assert largest_error(got, want) < 2e-2


def test_a_model_in_bfloat16_has_gradients_in_bfloat16() -> None:
    hidden, head, target, weights = case(75, 50)
    half = hidden.detach().bfloat16().requires_grad_(), head.detach().bfloat16().requires_grad_()
    got = ours(*half, target, weights)
    assert [g.dtype for g in got[2:]] == [torch.bfloat16] * 2
    assert largest_error(got, in_float64(*half, target, weights)) < 2e-2


def test_no_target_is_a_loss_of_zero() -> None:
    hidden, head, target, weights = case(3, 50)
    loss, losses = weighted_cross_entropy(hidden[:0], head, target[:0], weights[:0])
    assert float(loss.detach()) == 0 and losses.shape == (0,)
    loss.backward()

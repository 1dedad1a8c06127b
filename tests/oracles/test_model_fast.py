"""The fast twins against the plain model: logits, gradients, experts chosen and largest logits,
with planted mistakes.

In float32 they are the same numbers up to the order of sums, so that a mistake stands out by orders
of magnitude."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import abruzzi.model
from abruzzi.arch import ModelConfig
from abruzzi.model import K2Model, Trace, attention, fast
from abruzzi.model.attention import mla
from abruzzi.model.fast import fused_experts, grouped_experts, products
from abruzzi.train.muonclip import clip_heads
from tests.oracles import twins

CLOSE, LOUD = 5e-5, 1e-2  # of each tensor's largest value

NAMES = ("lora-g4-s2-yarn", "q-g1-s1-rope", "odd-sizes", "all-dense")
Mistake = Callable[[pytest.MonkeyPatch], None]
SEGMENTS = torch.tensor([[0] * 64 + [1] * 130 + [-1] * 6, [5] * 3 + [2] * 70 + [5] * 127])


def everything(model: K2Model, packed: bool, gradients: bool = True) -> dict[str, Tensor]:
    """Logits, what a trace holds and every parameter's gradient of a random linear function of the
    logits."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, SEGMENTS.shape, generator=generator)
    trace = Trace(max_logits=True, counted_BT=SEGMENTS != -1)
    with torch.set_grad_enabled(gradients):
        logits = model(ids, segments_BT=SEGMENTS if packed else None, trace=trace)
    found = {"logits": logits.detach()}
    for layer, largest_N in trace.max_logit_N.items():
        found[f"largest of {layer}"] = largest_N.detach()
    for layer, score_BTE in trace.router_scores.items():
        found[f"scores of {layer}"] = score_BTE.detach()
    if gradients:
        (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
        found |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found


def farthest(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    assert got.keys() == want.keys() and len(got) >= 4
    assert all(bool(t.any()) for t in want.values())
    return max(twins.difference(got[name], want[name]) for name in want)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_logits_gradients_and_traces_equal_the_plain_models(name: str, packed: bool) -> None:
    plain, quick = twins.twin(name).ours(), twins.twin(name).ours()
    fast.enable(quick)
    for gradients in (True, False):
        want = everything(plain, packed, gradients)
        assert farthest(everything(quick, packed, gradients), want) <= CLOSE
        for model in (plain, quick):
            model.zero_grad()
    fast.enable(quick, on=False)
    got = everything(quick, packed)
    assert all(torch.equal(got[n], t) for n, t in everything(plain, packed).items())


def through(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace owner.name by change(the old one)."""
    patch.setattr(owner, name, change(getattr(owner, name)))


def joint_product_split_wrongly(patch: pytest.MonkeyPatch) -> None:
    through(patch, fast.mla, "linear", lambda linear: lambda x, w: linear(x, w.roll(1, 0)))


def rotary_key_not_turned(patch: pytest.MonkeyPatch) -> None:
    through(
        patch, fast.packed_attention, "_turn_", lambda turn: lambda x, by: turn(x, by) if x.ndim == 4 else x.mul_(1.0)
    )


def blocks_see_their_future(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tensor, "triu", lambda self, diagonal=0: torch.zeros_like(self))


def documents_run_together(patch: pytest.MonkeyPatch) -> None:
    through(
        patch,
        fast.Packing,
        "of",
        lambda of: lambda lengths, rotation: of([sum(lengths[:3]), sum(lengths[3:])], rotation),
    )


def scale_forgotten(patch: pytest.MonkeyPatch) -> None:
    def change(attend: Callable[..., Any]) -> Callable[..., Any]:
        return lambda q, kv, k_pe, packing, scale, **options: attend(q, kv, k_pe, packing, 1.0, **options)

    through(patch, fast.packed_attention, "attend", change)


def padding_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tensor, "masked_fill", lambda self, *_: self + 1.0)


def weight_of_the_router_left_out(patch: pytest.MonkeyPatch) -> None:
    through(patch, fused_experts, "experts", lambda experts: lambda x, e, w, *rest: experts(x, e, 0 * w + 1, *rest))


def gradient_of_the_router_lost(patch: pytest.MonkeyPatch) -> None:
    def change(experts: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, e, w, *rest: experts(x, e, w.detach() + 0 * w, *rest)

    through(patch, fused_experts, "experts", change)


def gate_and_up_swapped(patch: pytest.MonkeyPatch) -> None:
    through(patch, fused_experts, "swiglu", lambda swiglu: lambda x, gate, up, *rest: swiglu(x, up, gate, *rest))


def norm_without_what_is_parallel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tensor, "addcmul_", lambda self, *_: self)


def gradient_of_a_product_transposed(patch: pytest.MonkeyPatch) -> None:
    through(patch, products, "mm", lambda mm: lambda a, b: mm(a, b).flip(0))


MISTAKES = (
    joint_product_split_wrongly,
    rotary_key_not_turned,
    blocks_see_their_future,
    documents_run_together,
    scale_forgotten,
    padding_counts,
    weight_of_the_router_left_out,
    gradient_of_the_router_lost,
    gate_and_up_swapped,
    norm_without_what_is_parallel,
    gradient_of_a_product_transposed,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.__name__)
def test_a_planted_mistake_is_loud(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = twins.twin("lora-g4-s2-yarn")
    plain, quick = twin.ours(), twin.ours()
    want = everything(plain, packed=True)
    mistake(monkeypatch)
    fast.enable(quick)
    assert farthest(everything(quick, packed=True), want) > LOUD


@torch.no_grad()
def test_a_planted_mistake_in_grouped_products_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row goes to the expert after its own: without gradients, where the others are not
    used."""
    twin = twins.twin("lora-g4-s2-yarn")
    plain, quick = twin.ours(), twin.ours()
    through(monkeypatch, grouped_experts, "count", lambda count: lambda ids, size: count(ids, size).roll(1, 0))
    fast.enable(quick)
    assert farthest(everything(quick, True, gradients=False), everything(plain, True, gradients=False)) > LOUD


def test_the_plain_files_know_nothing_of_the_fast_ones() -> None:
    """No import, no backward pass by hand and no look at a device's kind: they read from top to
    bottom."""
    room = Path(abruzzi.model.__file__).parent
    files = [*room.glob("*.py"), *(room / "attention").glob("*.py")]
    assert {f.name for f in files} >= {"k2.py", "moe.py", "norm.py", "rope.py", "linear.py", "mla.py"}
    for file in files:
        text = file.read_text(encoding="utf-8")
        modules = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        assert not any(".fast" in m or "kernels" in m for m in modules), file
        assert "autograd" not in text and "cuda" not in text, file


class Other(ModelConfig):
    """A family whose layers alternate between two kinds of attention."""

    ATTENTION = "alternating"


class Neighbours(torch.nn.Module):
    """A kind of attention that is as simple as can be: every token sees itself and the one
    before."""

    FORMS = ("naive",)

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.inner = None
        self.o_proj = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, rotation: Any, mask: Tensor | None, **_: Any) -> Tensor:
        before_BTD = F.pad(x_BTD, (0, 0, 1, 0))[:, :-1]
        if mask is not None:  # what a query sees of the token before it
            seen_BT = F.pad(mask[:, 0].diagonal(-1, 1, 2), (1, 0))
            before_BTD = before_BTD * seen_BT[..., None]
        return self.o_proj(x_BTD + before_BTD)

    def clip_(self, max_logit_N: Tensor, tau: float) -> Tensor:
        return torch.tensor(100)


def test_a_kind_of_attention_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen per layer, packed rows included, fast or not; QK-Clip asks the module."""
    config = Other(**{f: getattr(twins.PLAIN, f) for f in {f.name for f in fields(twins.PLAIN)} - {"raw"}})
    with pytest.raises(ValueError, match="attention 'alternating', which has no module; expected one of mla"):
        K2Model(config)
    monkeypatch.setitem(
        attention.KINDS, "alternating", lambda c, n: Neighbours(c, n) if n == 1 else mla.Attention(c, n)
    )
    model = K2Model(config)
    kinds = [type(layer.self_attn) for layer in model.layers()]
    assert kinds == [mla.Attention, Neighbours, mla.Attention]
    ids = torch.randint(config.vocab_size, (1, 20), generator=torch.Generator().manual_seed(1))
    segments = torch.tensor([[0] * 8 + [1] * 12])
    with torch.no_grad():
        apart = torch.cat([model(part) for part in ids.split((8, 12), 1)], 1)
        for on in (False, True):
            fast.enable(model, on)
            assert twins.difference(model(ids, segments_BT=segments), apart) <= CLOSE
        with pytest.raises(ValueError, match="no such form"):
            model(ids, attention="absorbed")
    largest = {n: torch.zeros(config.num_attention_heads) for n in range(3)}
    assert int(clip_heads(model, largest, 1.0)) == 100


def test_the_trainer_enables_and_a_loaded_model_is_plain(tmp_path: Path) -> None:
    from abruzzi.train.loop import Trainer
    from tests.unit.train.test_loop import MODEL, RUN, shard

    trainer = Trainer(replace(RUN, steps=1), shard, tmp_path)
    trainer.export(tmp_path / "checkpoint", int4=False)
    for model, on in (
        (trainer.model, True),
        (abruzzi.model.load(tmp_path / "checkpoint"), False),
        (K2Model(MODEL), False),
    ):
        assert (model.pack is not None) == on
        for kind, name, plain, quick in fast.TWINS:
            found = [getattr(m, name) for m in model.modules() if isinstance(m, kind)]
            assert found and all(f is (quick if on else plain) for f in found)

"""Cached decode against the full forward for every chunking; packed rows against separate
documents.

Packed rows in the plain way, by a mask, and in the fast ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
import torch

from abruzzi.kernels import documents as kernels
from abruzzi.model import fast
from abruzzi.model.attention.mla import LatentCache
from abruzzi.model.fast.documents import has_kernel
from abruzzi.model.k2 import ABSORB_UP_TO, AttentionForm, K2Model
from abruzzi.model.trace import Trace
from tests.oracles import twins

CLOSE = 1e-5  # of the largest logit: only the order of float32 sums differs
NAMES = ("lora-g4-s2-yarn", "q-g1-s1-rope")


def chunkings(tokens: int) -> Iterator[list[int]]:
    """Every way to cut a prompt into chunks, as lists of lengths."""
    for cuts in range(2 ** (tokens - 1)):
        lengths = [1]
        for place in range(tokens - 1):
            if cuts >> place & 1:
                lengths.append(1)
            else:
                lengths[-1] += 1
        yield lengths


def chunked(model: K2Model, ids: torch.Tensor, lengths: list[int], attention: AttentionForm) -> torch.Tensor:
    cache = LatentCache()
    parts = [model(chunk, cache=cache, attention=attention) for chunk in ids.split(lengths, 1)]
    assert cache.length == ids.shape[1]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["naive", "absorbed"])
@torch.no_grad()
def test_every_chunking_of_a_prompt(name: str, attention: AttentionForm) -> None:
    model, ids = twins.twin(name).ours(), twins.twin(name).ids(length=6)
    full = model(ids, attention="naive")
    every = list(chunkings(6))
    assert len(every) == 32 and [6] in every and [1] * 6 in every
    worst = max(twins.difference(chunked(model, ids, lengths, attention), full) for lengths in every)
    print(f"{name} {attention}: {worst:.1e}")
    assert worst <= CLOSE


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_long_chunks_then_single_tokens_switch_the_form(name: str) -> None:
    """Prefill in chunks on both sides of the switch, then decode; against transformers, not only
    ourselves."""
    twin = twins.twin(name)
    ids = twin.ids(length=2 * ABSORB_UP_TO + 12)
    lengths = [ABSORB_UP_TO + 1, ABSORB_UP_TO, *[1] * (ids.shape[1] - 2 * ABSORB_UP_TO - 1)]
    got = chunked(twin.ours(), ids, lengths, "auto")
    assert twins.difference(got, twins.their_logits(twin, ids)[0]) <= 1e-4


@torch.no_grad()
def test_a_cache_that_forgets_the_position_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted mistake: every chunk starts at position 0."""
    twin = twins.twin("lora-g4-s2-yarn")
    ids = twin.ids(length=6)
    full = twin.ours()(ids)
    from abruzzi.model import k2

    rotations = k2.rotations
    monkeypatch.setattr(k2, "rotations", lambda config, p: rotations(config, p - p[:, :1]))
    assert twins.difference(chunked(twin.ours(), ids, [3, 3], "auto"), full) > 1e-2


@pytest.mark.parametrize(("attention", "on"), [("naive", False), ("naive", True), ("absorbed", False)])
@torch.no_grad()
def test_packed_rows_equal_separate_documents(attention: AttentionForm, on: bool) -> None:
    """Two rows cut differently, one with padding (-1) and one that repeats a segment number further
    on."""
    twin = twins.twin("lora-g4-s2-yarn")
    model, ids = twin.ours(), twin.ids(batch=2, length=20)
    fast.enable(model, on)
    segments = torch.tensor([[0] * 7 + [1] * 9 + [-1] * 4, [5] * 3 + [2] * 12 + [5] * 5])
    trace, alone = Trace(max_logits=True), Trace(max_logits=True)
    largest = torch.full((3, twin.config.num_attention_heads), float("-inf"))
    packed = model(ids, segments_BT=segments, attention=attention, trace=trace)
    for row, cuts in ((0, (7, 9, 4)), (1, (3, 12, 5))):
        parts = []
        for part in ids[row].split(cuts):
            parts.append(model(part[None], trace=alone)[0])
            largest = largest.maximum(torch.stack(list(alone.max_logit_N.values())))
        assert twins.difference(packed[row], torch.cat(parts)) <= CLOSE
    assert torch.allclose(torch.stack(list(trace.max_logit_N.values())), largest, rtol=1e-4)
    assert twins.difference(model(ids), packed) > 1e-2  # one document each would be something else


def test_packed_rows_have_the_gradients_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of one block, of several, and of lengths that are no multiple of a block, in two
    rows. In float32 both fast ways give the plain model's numbers; in bfloat16 padded blocks, and
    our kernel, are mostly no farther from those than torch's attention gets, one document after the
    other (`longest` 0)."""
    twin = twins.twin("lora-g1-s1-yarn")
    segments = torch.tensor([[0] * 64 + [1] * 130 + [-1] * 6, [5] * 3 + [2] * 70 + [5] * 127])

    def everything(longest: int | None, autocast: bool = False, kernel: bool = False) -> dict[str, torch.Tensor]:
        model = twin.ours()
        if longest is not None:
            monkeypatch.setattr(fast, "LONGEST", longest)
            for module in (fast, fast.documents):
                monkeypatch.setattr(module, "has_kernel", has_kernel if kernel else lambda *_: False)
            fast.enable(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pinned = dict(routing.expert_ids) or None
            logits = model(ids, segments_BT=segments, routing=pinned, trace=None if pinned else routing)
        (logits.float() * weight).sum().backward()
        return {"logits": logits.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}

    def error(got: dict[str, torch.Tensor]) -> float:
        assert got.keys() == want.keys() and len(got) > 20
        return sum(float((got[n] - want[n]).norm() / want[n].norm()) for n in want) / len(want)

    ratios: list[float] = []
    compiled: list[float] = []
    for seed in range(5):  # a draw alone can be half off either way
        random = torch.Generator().manual_seed(seed)
        ids = torch.randint(twin.config.vocab_size, (2, 200), generator=random)
        weight = torch.randn(2, 200, twin.config.vocab_size, generator=random)
        routing = Trace()
        want = everything(None)
        for longest in (0, 1024):
            got = everything(longest)
            assert max(twins.difference(got[n], want[n]) for n in want) <= 5 * CLOSE
        torchs = error(everything(0, autocast=True))
        assert 0 < torchs < 0.2
        ratios.append(error(everything(1024, autocast=True)) / torchs)
        if kernels.can_attend(2, 2, 2):
            compiled.append(error(everything(1024, autocast=True, kernel=True)) / torchs)
    assert statistics.median(ratios) < 1.1
    assert not compiled or (statistics.median(compiled) < 1.1 and compiled != ratios)


@torch.no_grad()
def test_what_does_not_fit_together_is_refused() -> None:
    twin = twins.twin("lora-g4-s2-yarn")
    model, ids = twin.ours(), twin.ids(length=4)
    cache = LatentCache()
    model(ids, cache=cache)
    with pytest.raises(ValueError, match="exclude each other"):
        model(ids, cache=cache, segments_BT=torch.zeros_like(ids))
    with pytest.raises(ValueError, match="batch of 2, got one of 1"):
        model(ids[:1], cache=cache)
    with pytest.raises(ValueError, match="max_position_embeddings=256"):
        model(twin.ids(length=257))
    packed = torch.arange(300).div(100, rounding_mode="floor")[None]
    assert model(twin.ids(batch=1, length=300), segments_BT=packed).shape == (1, 300, 101)
    with pytest.raises(ValueError, match="expected 0 to 100"):
        model(torch.tensor([[101]]))
    with pytest.raises(ValueError, match=r"integers \[B, T\]"):
        model(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="every one of"):
        model(ids, routing={1: torch.zeros(2, 4, 3, dtype=torch.int64)})
    with pytest.raises(ValueError, match="layer 2 has shape"):
        model(ids, routing={1: torch.zeros(2, 4, 3).long(), 2: torch.zeros(2, 4, 2).long()})
    with pytest.raises(ValueError, match="'sparse' is unknown"):
        model(ids, attention="sparse")

"""Fake quantization is the export's rounding, bit for bit, and what was trained with it is what is
exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import abruzzi
from abruzzi import model as k2
from abruzzi import tokenizer
from abruzzi.checkpoint import open_checkpoint
from abruzzi.quant import int4
from abruzzi.quant.int4 import BFLOAT16
from abruzzi.train import qat
from abruzzi.train.loop import Trainer
from tests import tiny
from tests.unit.train.test_loop import MODEL, RUN, shard

LOUD = {
    "normal": lambda rng, shape: rng.normal(0, 1.5, shape),
    "wild scales": lambda rng, shape: rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-30, 30, (*shape[:-1], 1)),
    "zeros and ties": lambda rng, shape: rng.choice([0.0, 0.5, -0.5, 1.0, 3.5, -7.0], shape),
    "below normal": lambda rng, shape: rng.normal(0, 1e-38, shape),
}


@pytest.mark.parametrize("kind", LOUD)
def test_the_rounding_is_the_exports_bit_for_bit(kind: str) -> None:
    rng = np.random.default_rng(3)
    for shape in ((4, 6, 96), (7, 32), (2, 3, 256)):
        weight = LOUD[kind](rng, shape).astype(np.float32)
        ours = qat.fake_quantize(torch.from_numpy(weight)).numpy()
        want = np.stack([int4.quantize_matrix(w).dequantize() for w in weight.reshape(-1, *shape[-2:])])
        assert ours.tobytes() == want.reshape(shape).tobytes()


@pytest.mark.parametrize("largest", [1, 3])
def test_fewer_codes_round_to_fewer_values(largest: int) -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    rounded = qat.fake_quantize(weight, largest).unflatten(-1, (-1, 32))
    steps = rounded / (weight.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / largest).bfloat16()
    assert torch.equal(steps, steps.round()) and steps.abs().amax() == largest
    assert {int(s) for s in steps.flatten()} == set(range(-largest, largest + 1))


@pytest.mark.parametrize("mistake", ["scale not rounded", "scale of absmax / 7.5", "reciprocal"])
def test_the_comparison_sees_planted_mistakes(mistake: str) -> None:
    rng = np.random.default_rng(3)
    scales = rng.uniform(0.5, 2.0, (400, 3, 1)).astype(BFLOAT16).astype(np.float32)
    steps = rng.integers(-14, 15, (400, 3, 32)).astype(np.float32) / 2  # halves: ties that a reciprocal tips over
    steps[..., 0] = 7.0
    weight = (steps * scales).reshape(400, 96)
    weight[200:] = rng.normal(0, 1.5, (200, 96))
    grouped = torch.from_numpy(weight).unflatten(-1, (-1, 32))
    absmax = grouped.abs().amax(-1, keepdim=True)
    scale = absmax / (7.5 if "7.5" in mistake else 7.0)
    scale = scale if mistake == "scale not rounded" else scale.to(torch.bfloat16).float()
    codes = (grouped * (1 / scale) if mistake == "reciprocal" else grouped / scale).round()
    wrong = (codes * scale + 0.0).flatten(-2).numpy()
    assert wrong.tobytes() != int4.quantize_matrix(weight).dequantize().tobytes()


def test_gradients_pass_as_if_nothing_was_rounded() -> None:
    weight = torch.randn(5, 64, requires_grad=True)
    upstream = torch.randn(5, 64)
    (qat.fake_quantize(weight) * upstream).sum().backward()
    assert weight.grad is not None and weight.grad.equal(upstream)
    with pytest.raises(ValueError, match="rows of 40 weights; expected a multiple of the group of 32"):
        qat.fake_quantize(torch.zeros(2, 40))


def test_the_forward_pass_is_that_of_the_exported_checkpoint(tmp_path: Path) -> None:
    """Dequantized weights equal the fake-quantized ones in every bit; logits follow."""
    trainer = Trainer(replace(RUN, qat_steps=4), shard, tmp_path / "run")
    trainer.train()
    trainer.export(tmp_path / "ck", int4=True)
    with open_checkpoint(tmp_path / "ck") as checkpoint:
        for name, master in trainer.model.state_dict().items():
            if checkpoint.is_int4(name):
                assert checkpoint.array(name).tobytes() == qat.fake_quantize(master).numpy().tobytes(), name
    (row,) = shard(3)[:1]
    ids = torch.from_numpy(row.ids_T)[None]
    exported = k2.load(tmp_path / "ck")
    # What is not INT4 is stored in bfloat16; take it from the export so that only the experts are
    # compared.
    state = trainer.model.state_dict()
    plain = {n: t for n, t in exported.state_dict().items() if ".experts." not in n}
    trainer.model.load_state_dict({**state, **plain})
    with torch.no_grad():
        qat.enable(trainer.model)
        want = exported(ids)
        assert (trainer.model(ids) - want).abs().max() <= 1e-5 * want.abs().max()
        qat.enable(trainer.model, on=False)
        assert (trainer.model(ids) - want).abs().max() > 1e-3 * want.abs().max()


def test_logits_are_the_engines_on_the_exported_checkpoint(tmp_path: Path) -> None:
    """What was trained with rounded experts is what `abruzzi run` computes: within 1e-4 of the
    largest logit."""
    vocab = tiny.vocabulary()
    model = replace(MODEL, vocab_size=vocab.vocab_size, eos_token_id=vocab.id_of("<|im_end|>"))
    trainer = Trainer(replace(RUN, model=model, qat_steps=RUN.steps), shard, tmp_path / "run")
    trainer.train()
    trainer.export(tmp_path / "ck", tokenizer.chat_files(vocab, max_context=64), int4=True)
    ids = shard(3)[0].ids_T[:12]
    engine = abruzzi.load(tmp_path / "ck").logits(ids.tolist())
    exported = k2.load(tmp_path / "ck").state_dict()
    plain = {n: t for n, t in exported.items() if ".experts." not in n}  # stored in bfloat16, not rounded by QAT
    trainer.model.load_state_dict({**trainer.model.state_dict(), **plain})
    for rounded, near in ((True, True), (False, False)):
        qat.enable(trainer.model, rounded)
        with torch.no_grad():
            torch_logits = trainer.model(torch.from_numpy(ids)[None])[0].numpy()
        difference = np.abs(torch_logits - engine).max() / np.abs(engine).max()
        assert (difference <= 1e-4) == near, difference


def test_only_the_last_steps_are_rounded(tmp_path: Path) -> None:
    trainer = Trainer(replace(RUN, qat_steps=4, log_every=1), shard, tmp_path)
    seen: list[bool] = []
    (moe,) = trainer.model.moe_layers().values()
    trainer.train(on_step=lambda _: seen.append(moe.experts.rounding is not None))
    assert seen == [False] * (RUN.steps - 4) + [True] * 4

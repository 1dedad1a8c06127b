"""The engine against the torch model, on random twins: INT4, bf16 and fp32 checkpoints, every chunking.

Logits within 1e-4 of the largest; teacher-forced argmax equal wherever the reference's two best are
further apart than twice that. The reference is our own K2Model on the dequantized weights, which is held
against transformers elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from abruzzi import model as k2
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.engine.runner import ABSORB_UP_TO, Chunk, LatentCache, Runner
from abruzzi.engine.weights import load_weights
from abruzzi.kernels import ops, ref
from tests.oracles import twins

SIZES = {"hidden_size": 64, "moe_intermediate_size": 32}
NAMES = ["lora-g4-s2-yarn", "q-g1-s1-rope", "q-g4-s1-yarn", "ramp", "raw-weights", "all-dense"]
TOLERANCE = 1e-4


def built(name: str, folder: Path, int4: bool, dtype: str = "float32") -> tuple[Runner, np.ndarray, np.ndarray]:
    """Runner of a written checkpoint, ids, and the torch model's logits on the same files."""
    twin = twins.make_twin(replace(twins.CONFIGS[name], **SIZES), seed=7)
    arrays = {n: t.numpy() for n, t in twin.weights.items()}
    save_checkpoint(folder / "m", twin.config, arrays, dtype=dtype, int4=int4)
    with open_checkpoint(folder / "m") as checkpoint:
        runner = Runner(checkpoint.config, load_weights(checkpoint))
    ids = twin.ids(batch=1, length=40, seed=5)
    with torch.no_grad():
        want = k2.load(folder / "m")(ids)[0].numpy()
    return runner, ids[0].numpy(), want


def run(runner: Runner, ids: np.ndarray, chunks: list[int], slots: np.ndarray | None = None) -> np.ndarray:
    cache = LatentCache(runner.config, 256)
    slots = np.arange(len(ids)) if slots is None else slots
    out, at = [], 0
    for size in chunks:
        chunk = Chunk(ids[at : at + size], slots[: at + size], all_logits=True)
        out += runner.forward([chunk], cache)
        at += size
    assert at == len(ids)
    return np.concatenate(out)


def difference(ours: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(ours - want).max() / np.abs(want).max())


@pytest.mark.parametrize("storage", ["int4", "float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_argmax_equal_the_torch_model(name: str, storage: str, tmp_path: Path, record_property) -> None:
    int4 = storage == "int4"
    runner, ids, want = built(name, tmp_path, int4, "bfloat16" if storage != "float32" else "float32")
    ours = run(runner, ids, [40])
    record_property("largest_difference", difference(ours, want))
    assert difference(ours, want) <= TOLERANCE
    top = np.sort(want, axis=-1)
    clear = top[:, -1] - top[:, -2] > 2 * TOLERANCE * np.abs(want).max()
    assert clear.sum() > 30
    np.testing.assert_array_equal(ours.argmax(-1)[clear], want.argmax(-1)[clear])


@pytest.mark.parametrize("chunks", [[1] * 40, [39, 1], [7, 20, 1, 1, 11], [ABSORB_UP_TO, ABSORB_UP_TO + 1, 23]])
def test_every_chunking_gives_the_same(chunks: list[int], tmp_path: Path) -> None:
    runner, ids, want = built("lora-g4-s2-yarn", tmp_path, int4=True)
    assert difference(run(runner, ids, chunks), want) <= TOLERANCE
    scattered = np.random.default_rng(0).permutation(256)[:40]
    assert difference(run(runner, ids, chunks, scattered), want) <= TOLERANCE


def test_sequences_in_one_batch_do_not_see_each_other(tmp_path: Path) -> None:
    """Three sequences with other lengths, chunks and slots, against each alone in the torch model."""
    runner, ids, _ = built("lora-g4-s2-yarn", tmp_path, int4=True)
    reference = k2.load(tmp_path / "m")
    rng = np.random.default_rng(1)
    sequences = [ids, ids[::-1].copy(), rng.permutation(ids)[:17]]
    slots = np.split(rng.permutation(256)[:97], [40, 80])
    cache = LatentCache(runner.config, 256)
    steps = [(5, 40, 1), (1, 0, 15), (34, 0, 1)]  # how many tokens of each go into each batch
    done, got = [0, 0, 0], [[], [], []]
    for counts in steps:
        mine = [i for i, count in enumerate(counts) if count]
        chunks = []
        for i in mine:
            end = done[i] + counts[i]
            chunks.append(Chunk(sequences[i][done[i] : end], slots[i][:end], all_logits=i != 1))
            done[i] = end
        for i, logits in zip(mine, runner.forward(chunks, cache)):
            got[i].append(logits)
    for i, sequence in enumerate(sequences):
        with torch.no_grad():
            want = reference(torch.from_numpy(sequence)[None])[0].numpy()
        ours = np.concatenate(got[i])
        assert difference(ours, want if i != 1 else want[-1:]) <= TOLERANCE


@pytest.mark.parametrize(
    "mistake", ["no bias", "bias in the weights", "no renormalization", "groups off", "no rope", "no mscale", "nibbles"]
)
def test_the_oracle_sees_planted_mistakes(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, ids, want = built("lora-g4-s2-yarn", tmp_path, int4=True)
    route = ref.route

    def routed(logits, bias, **options):
        if mistake == "no bias":
            return route(logits, np.zeros_like(bias), **options)
        if mistake == "no renormalization":
            return route(logits, bias, **{**options, "renormalize": False})
        if mistake == "groups off":
            return route(logits, bias, **{**options, "n_group": 1})
        chosen, weight = route(logits, bias, **options)
        return chosen, weight + bias[chosen] if mistake == "bias in the weights" else weight

    monkeypatch.setattr(ops, "route", routed)
    if mistake == "no rope":
        monkeypatch.setattr(ops, "rope", lambda x, cos, sin: x)
    if mistake == "no mscale":
        runner._scale = np.float32(runner.config.qk_head_dim**-0.5)
    if mistake == "nibbles":
        matvec = ops.int4_matvec
        monkeypatch.setattr(ops, "int4_matvec", lambda p, s, x: matvec(p ^ np.int32(0x1), s, x))
    assert difference(run(runner, ids, [1] * 40), want) > 1e-2


def test_the_cache_holds_latents_only(tmp_path: Path) -> None:
    runner, ids, _ = built("q-g1-s1-rope", tmp_path, int4=False)
    cache = LatentCache(runner.config, 256)
    runner.forward([Chunk(ids, np.arange(40))], cache)
    c = runner.config
    assert LatentCache.bytes_per_slot(c) * 256 == cache._c_kv.nbytes + cache._k_pe.nbytes
    assert cache._c_kv.shape[::2] == (c.num_hidden_layers, c.kv_lora_rank)
    assert cache._k_pe.shape[::2] == (c.num_hidden_layers, c.qk_rope_head_dim)
    with pytest.raises(ValueError, match="no tokens to run"):
        runner.forward([Chunk(ids[:0], np.arange(40))], cache)
    with pytest.raises(ValueError, match="token id 101 is outside the vocabulary of 101"):
        runner.forward([Chunk(np.array([5, 101]), np.arange(42))], cache)

"""The engine's steps, compiled and in NumPy, against the torch model: INT4, bf16 and fp32
checkpoints, every chunking.

Logits within 1e-4 of the largest; teacher-forced argmax equal wherever the reference's two best are
further apart than twice that. The reference is our own K2Model on the dequantized weights, which is
held against transformers elsewhere. Every instruction set that this machine has takes part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from abruzzi import model as k2
from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.engine.attention.mla import ABSORB_UP_TO, MlaAttention, MlaWeights
from abruzzi.engine.step import native
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.plain import PlainRunner
from abruzzi.engine.step.state import Chunk, KvCache, StepRunner
from abruzzi.engine.weights.load import Layer, Matrix, Mlp, Moe, Weights, load_weights
from abruzzi.engine.weights.packing import pack_layer
from abruzzi.engine.weights.rounding import pack
from abruzzi.kernels import ref, supported_isas
from abruzzi.kernels.dispatch import ISAS
from abruzzi.quant.int4 import Int4Matrix
from tests.oracles import twins

SIZES = {"hidden_size": 64, "moe_intermediate_size": 32}
NAMES = ["lora-g4-s2-yarn", "q-g1-s1-rope", "q-g4-s1-yarn", "ramp", "raw-weights", "all-dense"]
RUNNERS = ["numpy", *ISAS]
TOLERANCE = 1e-4


Written = Callable[..., tuple[Path, np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """(name, storage) -> a checkpoint in folder/m, ids, and the torch model's logits on the same
    files; made once."""

    @functools.cache
    def make(name: str, storage: str = "int4", sizes: bool = True) -> tuple[Path, np.ndarray, np.ndarray]:
        folder = tmp_path_factory.mktemp("twin")
        twin = twins.make_twin(replace(twins.CONFIGS[name], **(SIZES if sizes else {})), seed=7)
        arrays = {n: t.numpy() for n, t in twin.weights.items()}
        dtype = "bfloat16" if storage == "bfloat16" else "float32"
        save_checkpoint(folder / "m", twin.config, arrays, dtype=dtype, int4=storage == "int4")
        ids = twin.ids(batch=1, length=40, seed=5)
        with torch.no_grad():
            return folder, ids[0].numpy(), k2.load(folder / "m")(ids)[0].numpy()

    return make


def runner_of(folder: Path, kind: str) -> StepRunner:
    if kind != "numpy" and kind not in supported_isas():
        pytest.skip(f"this CPU lacks {kind}")
    with open_checkpoint(folder / "m") as checkpoint:
        if kind == "numpy":
            return PlainRunner(checkpoint.config, load_weights(checkpoint))
        return NativeRunner.load(checkpoint, isa=kind, threads=2)


def run(
    runner: StepRunner,
    ids: np.ndarray,
    chunks: list[int],
    blocks: np.ndarray | None = None,
    block_tokens: int = 1,
    decompress: int | None = None,
) -> np.ndarray:
    cache = KvCache(runner.config, 256, block_tokens)
    blocks = np.arange(len(ids), dtype=np.int32) if blocks is None else blocks
    out, at = [], 0
    for size in chunks:
        table = blocks[: -(-(at + size) // block_tokens)]
        until = None if decompress is None else at + decompress
        out += runner.forward([Chunk(ids[at : at + size], at, table, until, all_logits=True)], cache)
        at += size
    assert at == len(ids)
    return np.concatenate(out)


def difference(ours: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(ours - want).max() / np.abs(want).max())


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("storage", ["int4", "float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_argmax_equal_the_torch_model(
    name: str, storage: str, kind: str, written: Written, record_property
) -> None:
    folder, ids, want = written(name, storage)
    ours = run(runner_of(folder, kind), ids, [40])
    record_property("largest_difference", difference(ours, want))
    assert difference(ours, want) <= TOLERANCE
    top = np.sort(want, axis=-1)
    clear = top[:, -1] - top[:, -2] > 2 * TOLERANCE * np.abs(want).max()
    assert clear.sum() > 30
    np.testing.assert_array_equal(ours.argmax(-1)[clear], want.argmax(-1)[clear])


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("name", ["odd-sizes", "all-moe", "no-mscale"])
def test_sizes_that_no_vector_divides(name: str, kind: str, written: Written) -> None:
    folder, ids, want = written(name, "float32", sizes=False)
    runner = runner_of(folder, kind)
    for chunks in ([40], [1] * 40):
        assert difference(run(runner, ids, chunks), want) <= TOLERANCE


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("chunks", [[1] * 40, [39, 1], [7, 20, 1, 1, 11], [ABSORB_UP_TO, ABSORB_UP_TO + 1, 23]])
def test_every_chunking_gives_the_same(chunks: list[int], kind: str, written: Written) -> None:
    folder, ids, want = written("lora-g4-s2-yarn")
    runner = runner_of(folder, kind)
    assert difference(run(runner, ids, chunks), want) <= TOLERANCE
    scattered = np.random.default_rng(0).permutation(256)[:40].astype(np.int32)
    assert difference(run(runner, ids, chunks, scattered), want) <= TOLERANCE
    blocks = np.random.default_rng(1).permutation(16)[:3].astype(np.int32)
    for decompress in (None, 0, 1):
        assert difference(run(runner, ids, chunks, blocks, 16, decompress), want) <= TOLERANCE


@pytest.mark.parametrize("kind", RUNNERS)
def test_sequences_in_one_batch_do_not_see_each_other(kind: str, written: Written) -> None:
    """Three sequences with other lengths, chunks and blocks, against each alone in the torch
    model."""
    folder, ids, _ = written("lora-g4-s2-yarn")
    runner = runner_of(folder, kind)
    reference = k2.load(folder / "m")
    rng = np.random.default_rng(1)
    sequences = [ids, ids[::-1].copy(), rng.permutation(ids)[:17]]
    blocks = np.split(rng.permutation(256)[:97].astype(np.int32), [40, 80])
    cache = KvCache(runner.config, 256)
    steps = [(5, 40, 1), (1, 0, 15), (34, 0, 1)]  # how many tokens of each go into each batch
    done, got = [0, 0, 0], [[], [], []]
    for counts in steps:
        mine = [i for i, count in enumerate(counts) if count]
        chunks = []
        for i in mine:
            end = done[i] + counts[i]
            chunks.append(Chunk(sequences[i][done[i] : end], done[i], blocks[i][:end], all_logits=i != 1))
            done[i] = end
        for i, logits in zip(mine, runner.forward(chunks, cache)):
            got[i].append(logits)
    for i, sequence in enumerate(sequences):
        with torch.no_grad():
            want = reference(torch.from_numpy(sequence)[None])[0].numpy()
        ours = np.concatenate(got[i])
        assert difference(ours, want if i != 1 else want[-1:]) <= TOLERANCE


# Mistakes, planted where the compiled step gets its numbers from: it must show each of them.


def with_moe(weights: Weights, change: Callable[[Moe], Moe]) -> Weights:
    def layer(one: Layer) -> Layer:
        return replace(one, mlp=change(one.mlp)) if isinstance(one.mlp, Moe) else one

    return replace(weights, layers=tuple(map(layer, weights.layers)))


def wrong_nibbles(moe: Moe) -> Moe:
    def flipped(m):
        return replace(m, int4=Int4Matrix(m.int4.packed ^ np.int32(1), m.int4.scale, m.int4.shape))

    return replace(moe, experts=tuple(replace(e, gate=flipped(e.gate)) for e in moe.experts))


def swapped_values(weights: Weights) -> Weights:
    def layer(one: Layer) -> Layer:
        assert isinstance(one.attention, MlaWeights)
        return replace(one, attention=replace(one.attention, w_uv_NHR=one.attention.w_uv_NHR[::-1].copy()))

    return replace(weights, layers=tuple(map(layer, weights.layers)))


WRONG_WEIGHTS: dict[str, Callable[[Weights], Weights]] = {
    "no bias": lambda w: with_moe(w, lambda m: replace(m, bias_E=np.zeros_like(m.bias_E))),
    "nibbles": lambda w: with_moe(w, wrong_nibbles),
    "gate and up swapped": lambda w: with_moe(
        w, lambda m: replace(m, shared=replace(m.shared, gate=m.shared.up, up=m.shared.gate))
    ),
    "experts rotated": lambda w: with_moe(w, lambda m: replace(m, experts=m.experts[1:] + m.experts[:1])),
    "heads of the values swapped": swapped_values,
}
WRONG_SHAPES: dict[str, dict[str, Any]] = {
    "no renormalization": {"renormalize": False},
    "groups off": {"groups": 1, "kept_groups": 1},
    "no rope": {"attention": {"inv_freq": [0.0] * 4}},
    "no mscale": {"attention": {"softmax_scale": 24**-0.5}},
    "no routed scale": {"routed_scale": 1.0},
    "one expert fewer": {"top_k": 2},
}


@pytest.mark.parametrize("mistake", [*WRONG_WEIGHTS, *WRONG_SHAPES])
@pytest.mark.parametrize("chunks", [[1] * 40, [40]], ids=["decode", "prefill"])
def test_the_oracle_sees_mistakes_planted_in_the_compiled_step(
    mistake: str, chunks: list[int], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ids, want = written("lora-g4-s2-yarn")
    with open_checkpoint(folder / "m") as checkpoint:
        config, weights = checkpoint.config, load_weights(checkpoint)
    assert difference(run(NativeRunner(config, weights, threads=1), ids, chunks), want) <= TOLERANCE
    right = native._shape

    def shape(c: ModelConfig) -> dict[str, Any]:
        sizes, wrong = right(c), WRONG_SHAPES.get(mistake, {})
        return {**sizes, **wrong, "attention": {**sizes["attention"], **wrong.get("attention", {})}}

    monkeypatch.setattr(native, "_shape", shape)
    weights = WRONG_WEIGHTS.get(mistake, lambda w: w)(weights)
    assert difference(run(NativeRunner(config, weights, threads=1), ids, chunks), want) > 1e-2


@pytest.mark.parametrize(
    "mistake", ["no bias", "bias in the weights", "no renormalization", "groups off", "no rope", "no mscale"]
)
def test_the_oracle_sees_mistakes_planted_in_numpy(
    mistake: str, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ids, want = written("lora-g4-s2-yarn")
    runner = runner_of(folder, "numpy")
    assert isinstance(runner, PlainRunner) and isinstance(runner.attention, MlaAttention)
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

    monkeypatch.setattr(ref, "route", routed)
    if mistake == "no rope":
        monkeypatch.setattr(ref, "rope", lambda x, cos, sin: x)
    if mistake == "no mscale":
        runner.attention.scale = np.float32(runner.config.qk_head_dim**-0.5)
    assert difference(run(runner, ids, [1] * 40), want) > 1e-2


@pytest.mark.parametrize("kind", RUNNERS)
def test_the_cache_holds_latents_only(kind: str, written: Written) -> None:
    folder, ids, _ = written("q-g1-s1-rope", "float32")
    runner = runner_of(folder, kind)
    cache = KvCache(runner.config, 256, 16)
    table = np.array([3, 9, 1], np.int32)
    runner.forward([Chunk(ids, 0, table)], cache)
    c = runner.config
    assert KvCache.bytes_per_slot(c) * 256 == cache.rows.nbytes
    assert cache.rows.shape == (c.num_hidden_layers, 256, 32 + 16)  # rank 24 and rope 8 filled up to vectors
    used = np.flatnonzero(cache.rows.any(axis=(0, 2)))
    np.testing.assert_array_equal(used, [*range(16, 24), *range(48, 64), *range(144, 160)])
    assert not cache.rows[:, :, c.kv_lora_rank : 32].any()
    for chunk, says in (
        (Chunk(ids[:0], 0, table), "no tokens to run"),
        (Chunk(np.array([5, 101]), 0, table), "token id 101 is outside the vocabulary of 101"),
        (Chunk(np.array([5, -1]), 0, table), "token id -1 is outside the vocabulary of 101"),
    ):
        with pytest.raises(ValueError, match=says):
            runner.forward([chunk], cache)


def test_the_compiled_step_refuses_blocks_that_are_not_there(written: Written) -> None:
    folder, ids, _ = written("q-g1-s1-rope", "float32")
    runner = runner_of(folder, "scalar")
    cache = KvCache(runner.config, 256, 16)
    for table, says in (
        ([3, 9], "cannot hold 40 tokens"),
        ([3, 16, 1], "block 16 is outside"),
        ([3, -1, 1], "block -1"),
    ):
        with pytest.raises(ValueError, match=says):
            runner.forward([Chunk(ids, 0, np.array(table, np.int32))], cache)
    assert not cache.rows.any()


def test_a_model_that_is_not_complete_does_not_run(written: Written) -> None:
    folder, ids, _ = written("q-g1-s1-rope", "float32")
    with open_checkpoint(folder / "m") as checkpoint:
        config, weights = checkpoint.config, load_weights(checkpoint)
    runner = NativeRunner(config, None)
    chunk = Chunk(ids, 0, np.arange(40, dtype=np.int32))
    with pytest.raises(ValueError, match="not complete"):
        runner.forward([chunk], KvCache(config, 256))
    right = weights.layers[0].attention
    assert isinstance(right, MlaWeights)
    wrong = replace(right, o=right.o[:-1].copy())
    with pytest.raises(ValueError, match="o_proj is 63 x 48; expected 64 x 48"):
        runner.add_layer(pack_layer(replace(weights.layers[0], attention=wrong), "native"))


@pytest.mark.parametrize("kind", ISAS)
@pytest.mark.parametrize("tokens", [1, 40])
def test_experts_without_shared_ones_add_what_the_routed_ones_give(kind: str, tokens: int, written: Written) -> None:
    """As with shared experts whose down projection is zero; so on layers of both widths and after a
    dense one."""
    if kind not in supported_isas():
        pytest.skip(f"this CPU lacks {kind}")
    folder, ids, _ = written("q-g1-s1-rope", "float32")
    with open_checkpoint(folder / "m") as checkpoint:
        config, weights = checkpoint.config, load_weights(checkpoint)
    silent = [
        replace(w, mlp=replace(w.mlp, shared=_zeroed(w.mlp.shared))) if isinstance(w.mlp, Moe) else w
        for w in weights.layers
    ]
    assert any(isinstance(w.mlp, Moe) for w in silent)
    zero = NativeRunner(config, replace(weights, layers=tuple(silent)), isa=kind, threads=2)
    absent = NativeRunner(config, None, isa=kind, threads=2)
    absent.set_ends(weights.embed_VD, weights.norm_D, pack(weights.head_VD, "head", "native"))
    for w in silent:
        packed = pack_layer(w, "native")
        absent.add_layer(replace(packed, shared=[]) if isinstance(w.mlp, Moe) else packed)
    chunk = Chunk(ids[:tokens], 0, np.arange(40, dtype=np.int32), all_logits=True)
    for _ in range(2):  # the second time over sums of the first
        ours, want = (r.forward([chunk], KvCache(config, 256))[0] for r in (absent, zero))
        np.testing.assert_array_equal(ours.view(np.uint32), want.view(np.uint32))
    whole = NativeRunner(config, weights, isa=kind, threads=2).forward([chunk], KvCache(config, 256))[0]
    assert difference(ours, whole) > 1e-2


def _zeroed(mlp: Mlp) -> Mlp:
    return replace(mlp, down=Matrix(dense=np.zeros_like(mlp.down.as_float())))

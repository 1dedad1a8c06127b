"""What the engine asks a kind of attention: a token's form follows from its sequence alone, a new
kind is a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abruzzi.arch.config import _FAMILIES as families
from abruzzi.arch.modes import WeightMode
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.config import ModelConfig
from abruzzi.engine import attention
from abruzzi.engine.attention import attention_of
from abruzzi.engine.attention.kind import PackedAttention
from abruzzi.engine.attention.mla import ABSORB_UP_TO, Mla
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.plain import PlainRunner
from abruzzi.engine.step.state import Chunk, KvCache, Step
from abruzzi.engine.weights.load import Moe, Weights, load_weights
from abruzzi.engine.weights.packing import PackedLayer, pack_layer
from abruzzi.engine.weights.random_model import random_model
from abruzzi.engine.weights.random_tensors import RandomTensors
from abruzzi.engine.weights.reader import TensorReader
from abruzzi.engine.weights.rounding import pack
from abruzzi.kernels import ops, ref

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "kv_lora_rank": 33,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
CONFIG = ModelConfig(**SIZES)


@pytest.mark.parametrize(
    ("start", "prompt_end", "until"),
    [
        (0, ABSORB_UP_TO, 0),
        (0, ABSORB_UP_TO + 1, ABSORB_UP_TO + 1),
        (290, 300, 300),  # what the prefix cache does not have counts, not the whole prompt
        (295, 300, 0),
    ],
)
def test_a_long_prompt_takes_the_prefill_form_of_mla_and_a_short_one_the_other(
    start: int, prompt_end: int, until: int
) -> None:
    assert Mla(CONFIG).prefill_until(start, prompt_end) == until


@pytest.mark.parametrize(
    ("start", "count", "until", "tokens"),
    [
        (0, 20, None, 20),  # by itself a chunk is a whole prompt
        (7, ABSORB_UP_TO, None, 0),
        (0, 20, 0, 0),
        (0, 20, 12, 12),
        (10, 20, 12, 2),
        (12, 20, 12, 0),
        (10, 20, 300, 20),
        (10, 1, 300, 1),
    ],
)
def test_a_cut_of_a_prompt_changes_no_tokens_form(start: int, count: int, until: int | None, tokens: int) -> None:
    chunk = Chunk(np.zeros(count, np.int64), start, np.arange(start + count, dtype=np.int32), until)
    assert chunk.prefill_tokens(attention_of(CONFIG)) == tokens


def test_a_cache_row_is_what_the_familys_attention_keeps() -> None:
    cache = KvCache(CONFIG, slots=6, block_tokens=2)
    assert cache.rows.shape == (3, 6, 64 + 16)  # rank 33 and rope 4, in whole vectors
    assert KvCache.bytes_per_slot(CONFIG) == 3 * 80 * 4
    chunk = Chunk(np.zeros(3, np.int64), 1, np.array([2, 0], np.int32))
    assert cache.slots_of(chunk).tolist() == [4, 5, 0, 1]


class MeanConfig(ModelConfig):
    """A family with attention and scores of its own, and another row."""

    ATTENTION = "mean"
    ROUTER_SCORE = "exponential"

    @property
    def cache_row(self) -> tuple[int, int]:  # type: ignore[override]
        return 8, 0


@dataclass(frozen=True, slots=True)
class MeanWeights:
    value_HD: np.ndarray
    o_DH: np.ndarray

    def pack(self, weights: WeightMode) -> PackedAttention:
        return {"mean_v": pack(self.value_HD, "attention", weights), "mean_o": pack(self.o_DH, "attention", weights)}


class MeanAttention:
    """A kind as simple as can be: the mean of the first value components of all tokens so far, one
    form."""

    def prefill_until(self, start: int, prompt_end: int) -> int:
        return 0

    def load(self, read: TensorReader) -> MeanWeights:
        return MeanWeights(read.array("attention", "q")[:8], read.array("attention", "o")[:, :8].copy())

    def random(self, make: RandomTensors) -> PackedAttention:
        return {"mean_v": make.matrix("attention", "q"), "mean_o": make.matrix("attention", "o")}

    def sizes(self) -> Mapping[str, object]:
        return {"values": 8}

    def plain(self) -> MeanAttention:
        return self

    def run(self, index: int, w: MeanWeights, x_TD: np.ndarray, step: Step) -> np.ndarray:
        means, first = [], 0
        for chunk in step.chunks:
            end = first + len(chunk.ids)
            slots = step.cache.slots_of(chunk)
            step.cache.rows[index, slots[chunk.start :]] = x_TD[first:end] @ w.value_HD.T
            seen = step.cache.rows[index, slots]
            counts = np.arange(1, len(seen) + 1)[:, None]
            means.append((np.cumsum(seen, 0) / counts)[chunk.start :])
            first = end
        return (np.concatenate(means) @ w.o_DH.T).astype(np.float32)


@pytest.fixture
def mean(monkeypatch: pytest.MonkeyPatch) -> MeanConfig:
    monkeypatch.setitem(families, "mean", MeanConfig)
    monkeypatch.setitem(attention.KINDS, "mean", lambda _: MeanAttention())
    monkeypatch.setitem(ref.SCORES, "exponential", np.exp)
    monkeypatch.setattr(ops, "SCORES", (*ops.SCORES, "exponential"))
    return MeanConfig(**SIZES, model_type="mean")


def written(folder: Path, config: ModelConfig) -> Path:
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(0, 0.3, s.shape).astype(np.float32) for n, s in expected_tensors(config).items()}
    save_checkpoint(folder, config, tensors, dtype="float32")
    return folder


def test_a_kind_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention 'mean', which the engine lacks; expected one of mla, gqa; hint: "):
        attention_of(MeanConfig(**SIZES))


def test_a_new_kind_is_loaded_packed_and_run_by_the_readable_twin(mean: MeanConfig, tmp_path: Path) -> None:
    """Nobody but the registry was told of it; a prompt in parts gives what it gives in one
    piece."""
    with open_checkpoint(written(tmp_path, mean)) as checkpoint:
        assert type(checkpoint.config) is MeanConfig
        weights = load_weights(checkpoint)
    cache = KvCache(mean, slots=32)
    assert cache.rows.shape == (3, 32, 8)
    runner, ids = PlainRunner(mean, weights), np.arange(20) % 7
    table = np.arange(32, dtype=np.int32)[::-1].copy()
    (whole,) = runner.forward([Chunk(ids, 0, table, all_logits=True)], cache)
    cache = KvCache(mean, slots=32)
    parts = [runner.forward([Chunk(ids[a:b], a, table, all_logits=True)], cache)[0] for a, b in ((0, 6), (6, 20))]
    assert np.abs(np.concatenate(parts) - whole).max() <= 1e-5 * np.abs(whole).max()
    assert np.abs(whole[6] - whole[13]).max() > 1e-3 * np.abs(whole).max()  # the same token, another past
    packed = pack_layer(weights.layers[1], "native")
    assert set(packed.attention) == {"mean_v", "mean_o"}
    flat = packed.flat()
    assert {"mean_v", "mean_o", "input_norm", "router"} <= set(flat) and "attention" not in flat
    assert PackedLayer.from_flat(flat).attention == packed.attention


def test_the_familys_score_is_what_its_router_is_run_with(mean: MeanConfig, tmp_path: Path) -> None:
    """Exponentials of the logits, renormalized: the weights are a softmax over the chosen
    experts."""
    with open_checkpoint(written(tmp_path, mean)) as checkpoint:
        moe = load_weights(checkpoint).layers[1].mlp
    assert isinstance(moe, Moe)
    weights = Weights(np.zeros(0), (), np.zeros(0), np.zeros(0))
    router, x_TD = PlainRunner(mean, weights).experts.router, np.eye(5, 32, dtype=np.float32)
    chosen_TK, weight_TK = router.run(moe, x_TD)
    exact_TK = np.exp(np.take_along_axis(x_TD @ moe.gate_ED.T, chosen_TK, 1))
    np.testing.assert_allclose(weight_TK, exact_TK / exact_TK.sum(1, keepdims=True), rtol=1e-5)


def test_a_kind_that_is_not_compiled_in_is_named(mean: MeanConfig) -> None:
    for make in (lambda: NativeRunner(mean), lambda: random_model(mean, precision="exact")):
        with pytest.raises(ValueError, match="no kind of attention is compiled in as mean"):
            make()

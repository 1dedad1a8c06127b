"""The compiled step gives a token the same bits whatever runs beside it, in however many
threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.state import Chunk, KvCache
from abruzzi.kernels import supported_isas

BLOCK = 8
# Wide enough that every stage of a step is shared out among threads, and attention has several
# parts.
CONFIG = ModelConfig(
    vocab_size=260,
    hidden_size=96,
    intermediate_size=160,
    moe_intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=6,
    n_routed_experts=8,
    num_experts_per_tok=3,
    kv_lora_rank=40,
    qk_nope_head_dim=24,
    qk_rope_head_dim=8,
    v_head_dim=20,
    q_lora_rank=48,
    max_position_embeddings=1024,
)


@pytest.fixture(scope="module", params=["int4", "bfloat16", "fast native", "fast int8-dense", "fast all-4-bit"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.uniform(0.5, 1.5, s.shape) if len(s.shape) == 1 else rng.normal(0, 0.15, s.shape)).astype(np.float32)
        for name, s in expected_tensors(CONFIG).items()
    }
    path = tmp_path_factory.mktemp("bits") / "m"
    save_checkpoint(path, CONFIG, tensors, dtype="bfloat16", int4=request.param != "bfloat16")
    return path.rename(path.with_name(request.param))


def load(folder: Path, isa: str, threads: int) -> NativeRunner:
    """The folder's name says the precision and the weight mode."""
    fast, _, mode = folder.name.partition(" ")
    with open_checkpoint(folder) as checkpoint:
        if fast != "fast":
            return NativeRunner.load(checkpoint, isa=isa, threads=threads)
        return NativeRunner.load(checkpoint, isa=isa, threads=threads, precision="fast", weights=mode)


class Story:
    """One sequence: ids, its blocks, how far it has come, its logits. prompt: ids in the prefill
    form."""

    def __init__(self, number: int, blocks: np.ndarray, length: int, prompt: int) -> None:
        self.ids = np.random.default_rng(number).integers(0, 260, length)
        self.blocks, self.prompt, self.done = blocks.astype(np.int32), prompt, 0
        self.logits: list[np.ndarray] = []

    def chunk(self, count: int) -> Chunk:
        end = self.done + count
        return Chunk(self.ids[self.done : end], self.done, self.blocks[: -(-end // BLOCK)], self.prompt, True)


LENGTHS = [(330, 300), (12, 0), (60, 50), (290, 30), (33, 33), (5, 0), (300, 0), (80, 64)]


def stories(seed: int) -> list[Story]:
    blocks = np.random.default_rng(seed).permutation(180)
    at = np.cumsum([0, *(-(-n // BLOCK) for n, _ in LENGTHS)])
    return [Story(i, blocks[at[i] : at[i + 1]], *LENGTHS[i]) for i in range(len(LENGTHS))]


def play(runner: NativeRunner, told: list[Story], seed: int | None) -> list[np.ndarray]:
    """All of them together in steps of random sizes; seed None: each in one piece."""
    rng = np.random.default_rng(seed)
    cache = KvCache(CONFIG, 180 * BLOCK, BLOCK)
    while any(s.done < len(s.ids) for s in told):
        mine = [s for s in told if s.done < len(s.ids) and (seed is None or rng.random() < 0.8)]
        if not mine:
            continue
        sizes = [
            len(s.ids) if seed is None else min(int(rng.choice([1, 2, 7, 40, 200])), len(s.ids) - s.done) for s in mine
        ]
        for s, count, logits in zip(mine, sizes, runner.forward([s.chunk(n) for s, n in zip(mine, sizes)], cache)):
            s.logits.append(logits)
            s.done += count
    return [np.concatenate(s.logits) for s in told]


@pytest.mark.parametrize("isa", supported_isas())
def test_the_same_bits_alone_and_in_a_batch_of_eight_in_any_number_of_threads(folder: Path, isa: str) -> None:
    runner = load(folder, isa, threads=1)
    alone = []
    for i in range(len(LENGTHS)):
        alone += play(runner, [stories(seed=0)[i]], seed=None)
    assert all(np.isfinite(a).all() and len(np.unique(a)) > a.size // 2 for a in alone)
    for threads in (1, 2, 5):
        runner = load(folder, isa, threads)
        for seed in (1, 2) if threads > 1 else (1,):
            for number, (one, other) in enumerate(zip(alone, play(runner, stories(seed), seed))):
                np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32), err_msg=f"{threads} {number}")


def test_the_comparison_would_notice_a_last_bit(folder: Path) -> None:
    """Attending in the other form changes last bits and no more: what the test above must be able
    to see."""
    runner = load(folder, supported_isas()[-1], threads=1)
    one, other = stories(0)[2], stories(0)[2]
    other.prompt = 0
    (a,), (b,) = play(runner, [one], None), play(runner, [other], None)
    assert (a.view(np.uint32) != b.view(np.uint32)).any()
    if not folder.name.startswith("fast"):  # there the other form rounds other numbers, which can tip a route
        assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


FORK = """
import os, sys
import numpy as np
from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.state import Chunk, KvCache
with open_checkpoint(sys.argv[1]) as checkpoint:
    runner = NativeRunner.load(checkpoint, threads=3)
def step():
    chunk = Chunk(np.arange(200), 0, np.arange(200, dtype=np.int32))
    return runner.forward([chunk], KvCache(runner.config, 200))[0]
before = step()
child = os.fork()
if child == 0:
    same = (step() == before).all()
    del runner
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), (step() == before).all())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_runs_although_threads_stay_behind(folder: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", FORK, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, _ = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    assert said.split() == ["0", "True"]

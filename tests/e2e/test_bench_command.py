"""`abruzzi bench`: what it prints, that it asks of a runner what the engine asks, and what it
refuses."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from abruzzi import nano_path
from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.cli.fit import planned
from abruzzi.cost.capacity import step_bytes
from abruzzi.engine.attention import attention_of
from abruzzi.engine.llm import LLM
from abruzzi.engine.measure import speed
from abruzzi.engine.measure.speed import STEP_TOKENS, Stopwatch, Workload
from abruzzi.engine.step.state import Chunk, KvCache
from abruzzi.engine.weights.random_model import named_shape
from abruzzi.types import SamplingParams
from tests.e2e.test_cli import abruzzi, one_clear_line

PROMISED = {
    *("shape", "weights", "isa", "threads", "prefill_tok_s", "decode_tok_s", "batch", "depth", "bytes_per_token"),
    *("effective_gb_s", "bandwidth_gb_s", "samples"),
}


def test_json_has_the_promised_keys_and_its_numbers_fit_together() -> None:
    done = abruzzi(
        "bench", "--json", "--prefill", "40", "--decode", "3", "--depth", "20", "--batch", "2", "--repeat", "3"
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert set(said) >= PROMISED
    assert (said["shape"], said["weights"], said["batch"], said["depth"]) == ("nano", "native", 2, 20)
    samples = said["samples"]
    assert {k: len(v) for k, v in samples.items()} == dict.fromkeys(samples, 3)
    for name in ("prefill_tok_s", "decode_tok_s", "bandwidth_gb_s", "integer_peak_gops"):
        assert said[name] == statistics.median(samples[name]) > 0
    assert said["effective_gb_s"] == pytest.approx(said["bytes_per_token"] * said["decode_tok_s"] / 1e9)
    shares = [r * said["bytes_per_token"] / 1e9 / b for r, b in zip(samples["decode_tok_s"], samples["bandwidth_gb_s"])]
    assert said["share_of_bandwidth"] == pytest.approx(statistics.median(shares))
    assert 0.5 < said["bandwidth_gb_s"] < 2000 and 1 < said["integer_peak_gops"] < 1e6
    # A difference of two times: on a busy machine it may be anything, but not more than the step.
    assert said["engine_step_s"] > 0 and said["engine_overhead_s"] < said["engine_step_s"]
    assert said["weights_bytes"] < said["peak_memory_bytes"] < said["weights_bytes"] + 100e6


def test_a_shape_alone_gets_random_weights(tmp_path: Path) -> None:
    shutil.copy(nano_path() / "config.json", tmp_path)
    options = ("--prefill", "0", "--decode", "2", "--repeat", "1", "--weights", "all-4-bit")
    done = abruzzi("bench", "--shape", str(tmp_path), *options, "--json")
    said = json.loads(done.stdout)
    assert said["prefill_tok_s"] is None and said["share_of_peak"] is None and said["engine_step_s"] is None
    assert said["decode_tok_s"] > 0 and said["weights"] == "all-4-bit"
    text = abruzzi("bench", "--shape", str(tmp_path), *options).stdout
    assert "prefill" not in text and "tok/s at depth 0" in text and "that memory gives" in text


def test_bytes_are_those_of_the_experts_that_a_batch_touches() -> None:
    """moonlight in 4 bits, by hand: 18 bytes per 32 weights, bf16 router, float32 norms and one
    embedding row."""
    c = named_shape("moonlight").with_int4(Int4Scheme())
    attention = 16 * 192 * 2048 + 576 * 2048 + 16 * 256 * 512 + 2048 * 2048
    expert = 3 * 2048 * 1408

    def by_hand(batch: int) -> float:
        touched = 64 * (1 - (1 - 6 / 64) ** batch)
        packed = 27 * attention + 3 * 2048 * 11264 + 26 * (2 + touched) * expert + 163840 * 2048
        plain = 26 * 64 * 2048 * 2 + 26 * 64 * 4 + (55 * 2048 + 27 * 512) * 4 + batch * 2048 * 2
        return packed * 18 / 32 + plain + batch * 100 * 27 * (512 + 64) * 4

    tensors = planned(c)
    assert step_bytes(c, tensors, 100, 1, "all-4-bit") == pytest.approx(by_hand(1), rel=1e-9)
    assert step_bytes(c, tensors, 100, 8, "all-4-bit") == pytest.approx(by_hand(8), rel=1e-9)


class Recorder:
    """A runner that writes down what it is asked, and runs it if it can."""

    def __init__(self, config: ModelConfig, inner: object = None) -> None:
        self.config, self.inner, self.steps = config, inner, []

    def forward(self, chunks: Sequence[Chunk], cache: KvCache) -> list[np.ndarray]:
        kind = attention_of(self.config)
        self.steps.append(
            [(len(c.ids), c.start, c.blocks.tolist(), c.prefill_tokens(kind), c.logit_rows) for c in chunks]
        )
        if self.inner is not None:
            return self.inner.forward(chunks, cache)  # type: ignore[attr-defined]
        cache.rows[:] = 1
        return [np.zeros((1, self.config.vocab_size), np.float32) for _ in chunks]


def test_steps_are_those_that_the_engine_makes() -> None:
    """Same chunks as `LLM.step` asks for, for one prompt of several chunks and for three sequences
    that decode."""
    llm = LLM.load(nano_path(), cache_tokens=2048)
    prompt = STEP_TOKENS + 100
    recorder = Recorder(llm.config, llm.runner)
    engine = LLM(llm.config, recorder, llm.tokenizer, "nano", 2048)
    sequence = engine.submit(range(5, 5 + prompt), SamplingParams(max_tokens=3, temperature=0))
    sequence.ends = frozenset()
    while sequence.finish_reason is None:
        engine.step()
    watched = Recorder(llm.config, llm.runner)
    Stopwatch(watched, Workload(prefill=prompt, decode=0)).prefill()
    assert watched.steps == recorder.steps[: len(watched.steps)]
    depths = [step[0][1] for step in recorder.steps[len(watched.steps) :]]
    watched = Recorder(llm.config)
    watch = Stopwatch(watched, Workload(prefill=0, decode=2, depth=prompt, batch=3))
    assert (watch.cache.rows == 1).all()  # filled up to the depth, by copies of what was computed
    watched.steps.clear()
    watch.decode()
    assert [[(n, start) for n, start, *_ in step] for step in watched.steps] == [[(1, d)] * 3 for d in depths]
    tables = [blocks for _, _, blocks, _, _ in watched.steps[-1]]
    assert len({b for t in tables for b in t}) == sum(map(len, tables))  # nobody's latents are another's
    assert all(len(t) * speed.BLOCK_TOKENS >= prompt + 2 for t in tables)


def test_the_overhead_is_what_is_not_the_step() -> None:
    llm = LLM.load(nano_path(), cache_tokens=64)
    found = speed.step_overhead(llm, steps=5, batch=2)
    assert 0 < found.forward_s < found.step_s and found.overhead_s == found.step_s - found.forward_s
    assert llm.scheduler.pool.held == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--shape", "maxi"), "--shape maxi is no shape; expected mini, moonlight, glm-4.7-flash,"),
        (("--prefill", "0", "--decode", "0"), "leave nothing to measure"),
        (("--prefill", "9000"), "9000 tokens, but nano was made for 4096 at most"),
        (("--depth", "4096"), "4160 tokens, but nano was made for 4096 at most"),
        (("--weights", "q5"), "weights='q5'; expected one of native, int8-dense, all-4-bit"),
        (("--precision", "half"), "precision='half'; expected one of exact, fast"),
        (("--shape", "moonlight", "--batch", "100000", "--depth", "8000"), "GB in all, but"),
        (("--shape", "/nowhere"), "is not there"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options: tuple[str, ...], says: str) -> None:
    one_clear_line(abruzzi("bench", *options), says)

"""Many sequences at once: the same tokens as alone, blocks counted, whatever is submitted, aborted
or preempted."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.llm import LLM
from abruzzi.engine.sequence import Sequence
from abruzzi.engine.step.native import NativeRunner
from abruzzi.types import SamplingParams
from tests import tiny

BLOCK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture(scope="module")
def runner(folder: Path) -> NativeRunner:
    with open_checkpoint(folder) as checkpoint:
        return NativeRunner.load(checkpoint)


def engine(folder: Path, runner: NativeRunner, cache_tokens: int, **options: int) -> LLM:
    """An engine with small blocks and, if asked for, a cache that is too small for everybody."""
    tok = LLM.load(folder).tokenizer
    return LLM(runner.config, runner, tok, "tiny", cache_tokens, block_tokens=BLOCK, **options)


def requests(seed: int, count: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts of which some share a beginning."""
    rng = random.Random(seed)
    beginnings = [[rng.randrange(5, 200) for _ in range(30)] for _ in range(2)]
    made = []
    for number in range(count):
        shared = rng.choice(beginnings)[: rng.randrange(31)]
        prompt = [*shared, *(rng.randrange(5, 200) for _ in range(rng.randint(1, 20)))]
        made.append((prompt, SamplingParams(temperature=1.0, max_tokens=rng.randint(1, 25), seed=number)))
    return made


def run_all(llm: LLM, sequences: list[Sequence]) -> None:
    for _ in range(2000):
        if not llm.step() and all(s.finish_reason for s in sequences):
            return
    raise AssertionError("the engine does not come to an end")


@pytest.mark.parametrize("cache_tokens", [1024, 96])
def test_a_request_gives_the_same_tokens_alone_and_in_a_crowd(
    folder: Path, runner: NativeRunner, cache_tokens: int
) -> None:
    """To the last bit. The small cache holds one or two of them, so the others are preempted and
    prefilled again."""
    asked = requests(seed=1, count=12)
    llm = engine(folder, runner, cache_tokens)
    crowd = [llm.submit(p, params) for p, params in asked]
    run_all(llm, crowd)
    assert (llm.scheduler.preemptions > 0) == (cache_tokens == 96)
    assert llm.scheduler.pool.held == 0
    for sequence, (prompt, params) in zip(crowd, asked):
        alone = engine(folder, runner, 1024).generate(prompt, params)
        assert tuple(t.id for t in sequence.tokens) == alone.ids
        if not sequence.cached_tokens:  # what was taken over may have been computed in the other form of attention
            assert tuple(t.logprob for t in sequence.tokens) == alone.logprobs
        assert [t.logprob for t in sequence.tokens] == pytest.approx(alone.logprobs, abs=1e-4)
        assert sequence.finish_reason == alone.finish_reason


def test_a_long_prefill_does_not_hold_up_the_others(folder: Path, runner: NativeRunner) -> None:
    llm = engine(folder, runner, 1024, step_tokens=16, max_running=8)
    short = llm.submit([7, 8, 9], SamplingParams(temperature=0, max_tokens=30))
    llm.step()
    long = llm.submit(range(5, 205), SamplingParams(temperature=0, max_tokens=2))
    for moved in range(2, 10):
        assert short in llm.step() and len(short.tokens) == moved
    assert not long.tokens and 0 < long.computed < 200
    run_all(llm, [short, long])


def test_a_shared_beginning_is_computed_once_and_reported(folder: Path, runner: NativeRunner) -> None:
    llm = engine(folder, runner, 1024)
    system = list(range(10, 51))
    greedy = SamplingParams(temperature=0, max_tokens=4)
    first = llm.generate([*system, 60, 61], greedy)
    second = llm.generate([*system, 70, 71], greedy)
    assert first.usage.cached_tokens == 0 and second.usage.cached_tokens == 40
    assert second.ids == engine(folder, runner, 1024).generate([*system, 70, 71], greedy).ids
    # The same prompt again: all of it but the last id, in whole blocks.
    assert llm.generate([*system, 60, 61], greedy).usage.cached_tokens == 40
    # Known to the last block: the last id still runs, or there would be no logits.
    whole = system[:40]
    assert llm.generate(whole, greedy).usage.cached_tokens == 36
    assert llm.generate(whole, greedy).ids == engine(folder, runner, 1024).generate(whole, greedy).ids
    # Several that hold the same blocks at once, one aborted: the others are not disturbed.
    three = [llm.submit([*system, n], greedy) for n in (80, 81, 82)]
    llm.step()
    assert llm.scheduler.pool.held < 3 * 11
    llm.abort(three[1])
    run_all(llm, [three[0], three[2]])
    assert llm.scheduler.pool.held == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([64, 128, 512]))
def test_blocks_come_back_whatever_happens(folder: Path, runner: NativeRunner, seed: int, cache_tokens: int) -> None:
    rng = random.Random(seed)
    llm = engine(folder, runner, cache_tokens)
    alive: list[Sequence] = []
    for prompt, params in requests(seed, 8):
        alive.append(llm.submit(prompt, params))
        for _ in range(rng.randrange(4)):
            llm.step()
        if rng.random() < 0.4:
            llm.abort(alive.pop(rng.randrange(len(alive))))
    run_all(llm, alive)
    assert llm.scheduler.pool.held == 0 and not llm.scheduler.running and not llm.scheduler.waiting
    assert all(1 <= len(s.tokens) <= s.limit for s in alive)


def test_a_stream_that_is_closed_early_frees_its_blocks(folder: Path, runner: NativeRunner) -> None:
    llm = engine(folder, runner, 1024)
    events = llm.chat([{"role": "user", "content": "Hi"}], max_tokens=50, temperature=1, seed=1)
    next(iter(events))
    assert llm.scheduler.pool.held > 0
    events.close()  # type: ignore[attr-defined]
    assert llm.scheduler.pool.held == 0


def test_two_streams_under_way_at_once_do_not_mix(folder: Path, runner: NativeRunner) -> None:
    def ask(llm: LLM, text: str, seed: int):
        return llm.chat([{"role": "user", "content": text}], max_tokens=25, temperature=1, seed=seed)

    llm = engine(folder, runner, 1024)
    one, two = ask(llm, "one two", 1), ask(llm, "three", 2)
    seen: tuple[list, list] = ([], [])
    alive = [one, two]
    while alive:
        for stream in list(alive):
            event = next(stream, None)
            if event is None:
                alive.remove(stream)
            else:
                seen[stream is two].append(event)
    for got, text, seed in ((seen[0], "one two", 1), (seen[1], "three", 2)):
        want = list(ask(engine(folder, runner, 1024), text, seed))
        assert got[:-1] == want[:-1] and got[-1].message == want[-1].message


def test_a_mask_limits_what_is_said(folder: Path, runner: NativeRunner) -> None:
    class OnlyEven:
        def allowed(self) -> np.ndarray:
            return np.arange(runner.config.vocab_size) % 2 == 0

        def accept(self, token_id: int) -> None:
            assert token_id % 2 == 0

    llm = engine(folder, runner, 1024)
    sequence = llm.submit([5, 6], SamplingParams(temperature=2.0, max_tokens=40, seed=3), OnlyEven())
    run_all(llm, [sequence])
    assert sequence.tokens and all(t.id % 2 == 0 for t in sequence.tokens)


def test_what_can_never_fit_is_refused_with_both_numbers(folder: Path, runner: NativeRunner) -> None:
    llm = engine(folder, runner, 64)
    assert llm.max_context == 64
    with pytest.raises(ValueError, match="prompt has 64 tokens but the context holds 64"):
        llm.submit([5] * 64)
    with pytest.raises(ValueError, match="prompt is empty"):
        llm.submit([])
    with pytest.raises(ValueError, match="token id 100000 is outside"):
        llm.submit([5, 100_000])
    with pytest.raises(ValueError, match="step_tokens=4 is less than max_running=8"):
        engine(folder, runner, 64, step_tokens=4, max_running=8)


class Counting:
    """A runner that counts the tokens it runs."""

    def __init__(self, inner: NativeRunner) -> None:
        self.config, self.inner, self.tokens = inner.config, inner, 0

    def forward(self, chunks, cache):
        self.tokens += sum(len(c.ids) for c in chunks)
        return self.inner.forward(chunks, cache)


def test_n_samples_of_a_prompt_compute_it_once(folder: Path, runner: NativeRunner) -> None:
    llm = engine(folder, runner, 1024)
    llm.runner = counting = Counting(runner)
    prompt, params = list(range(10, 110)), SamplingParams(temperature=1.0, max_tokens=6, seed=5)
    samples = llm.generate_n(prompt, 4, params)
    decoded = sum(len(s.ids) for s in samples)
    assert counting.tokens <= len(prompt) + 3 * BLOCK + decoded  # the others run what lies in no full block
    assert [s.usage.cached_tokens for s in samples] == [0, 96, 96, 96]
    assert len({s.ids for s in samples}) == 4 and llm.scheduler.pool.held == 0
    alone = engine(folder, runner, 1024).generate(prompt, params)
    assert (samples[0].ids, samples[0].logprobs) == (alone.ids, alone.logprobs)
    assert samples == engine(folder, runner, 1024).generate_n(prompt, 4, params)
    with pytest.raises(ValueError, match="n=0; expected 1 or more"):
        llm.generate_n(prompt, 0, params)


def test_each_of_n_samples_ends_by_itself(folder: Path, runner: NativeRunner) -> None:
    llm = engine(folder, runner, 1024)
    prompt, params = [7, 8, 9], SamplingParams(temperature=1.5, max_tokens=30, seed=1)
    free = llm.generate_n(prompt, 3, params)
    texts = [llm.tokenizer.decode(s.ids) for s in free]
    stop = next(t for t in (texts[1][i : i + 3] for i in range(3, 30)) if t not in texts[0] and t not in texts[2])
    cut = llm.generate_n(prompt, 3, params, stop=(stop,))
    assert cut[0].ids == free[0].ids and cut[2].ids == free[2].ids
    assert cut[1].finish_reason == "stop" and cut[1].ids == free[1].ids[: len(cut[1].ids)] != free[1].ids
    assert llm.scheduler.pool.held == 0


def test_prompts_that_come_at_once_compute_a_shared_beginning_once(folder: Path, runner: NativeRunner) -> None:
    """In chunks, with somebody who shares nothing and passes them, and one that is aborted in the
    middle."""
    llm = engine(folder, runner, 2048, step_tokens=32, max_running=16)
    llm.runner = counting = Counting(runner)
    greedy = SamplingParams(temperature=0, max_tokens=2)
    shared = list(range(20, 148))
    crowd = [llm.submit([*shared, 200 + i], greedy) for i in range(5)]
    stranger = llm.submit([3, 4, 5, 6, 7], greedy)
    for _ in range(3):
        llm.step()
    assert not crowd[1].blocks and counting.tokens == 32 * 3
    llm.abort(crowd[0])  # whoever waited for it goes on where it was
    run_all(llm, [*crowd[1:], stranger])
    assert counting.tokens <= 128 + 5 + 5 * BLOCK + 12
    assert llm.scheduler.pool.held == 0
    for i, sequence in enumerate(crowd[1:], 1):
        assert (sequence.cached_tokens or 0) >= 96
        alone = engine(folder, runner, 1024).generate([*shared, 200 + i], greedy)
        assert tuple(t.id for t in sequence.tokens) == alone.ids


def test_a_constraint_that_fails_ends_its_own_sequence_only(folder: Path, runner: NativeRunner) -> None:
    class Broken:
        def allowed(self) -> None:
            raise RuntimeError("no grammar")

        def accept(self, token_id: int) -> None: ...

    llm = engine(folder, runner, 1024)
    asked = requests(seed=3, count=4)
    crowd = [llm.submit(p, params) for p, params in asked]
    broken = llm.submit([5, 6, 7], SamplingParams(max_tokens=5), Broken())
    crowd += [llm.submit(p, params) for p, params in asked]
    assert broken in llm.step() and not broken.tokens
    assert (broken.finish_reason, broken.error) == ("error", "RuntimeError: no grammar")
    assert broken not in llm.scheduler.running and not broken.blocks
    run_all(llm, crowd)
    for sequence, (prompt, params) in zip(crowd, [*asked, *asked]):
        assert tuple(t.id for t in sequence.tokens) == engine(folder, runner, 1024).generate(prompt, params).ids
    assert llm.scheduler.pool.held == 0

"""One sequence's failure is its own: whatever it asks for, whatever its constraint raises, no
neighbour notices."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.llm import LLM
from abruzzi.engine.sampler import sample
from abruzzi.engine.sequence import Sequence
from abruzzi.engine.step.native import NativeRunner
from abruzzi.types import MessageEnd, SamplingParams
from tests import tiny

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    with open_checkpoint(folder) as checkpoint:
        runner = NativeRunner.load(checkpoint)
    return LLM(runner.config, runner, LLM.load(folder).tokenizer, "tiny", 1024, block_tokens=4)


class Panic(BaseException):
    """What a panic in a compiled library looks like: no Exception."""


class Raising:
    """A constraint that raises at its `moment`-th question (allowed) or token (accept); before, it
    answers `answer`."""

    def __init__(self, error: BaseException, moment: int, in_accept: bool, answer: object = None) -> None:
        self._error, self._left, self._in_accept, self._answer = error, moment, in_accept, answer

    def _tick(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error

    def allowed(self) -> object:
        if not self._in_accept:
            self._tick()
        return self._answer

    def accept(self, token_id: int) -> None:
        if self._in_accept:
            self._tick()


TINY = st.sampled_from([1e-46, 5e-324, 1e-45, 1e-38, 1e-30, 1e-7, 1e-6])
numbers = st.floats(0, 1e38)
shares = st.floats(0, 1, exclude_min=True)
params = st.builds(
    SamplingParams,
    temperature=TINY | numbers | st.floats(0, 2),
    top_p=shares,
    top_k=st.integers(0, 2**70),
    min_p=st.floats(0, 1),
    max_tokens=st.integers(1, 12),
    stop_token_ids=st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
    seed=st.none() | st.integers(-(2**70), 2**70),
    thinking_budget=st.none() | st.integers(0, 9),
    top_logprobs=st.integers(0, 1000),
)
ERRORS = [
    RuntimeError("no grammar"),
    AssertionError(),
    RecursionError("deep"),
    MemoryError(),
    KeyError("k"),
    Panic("!"),
]
WRONG = [10**9, -1, np.zeros(3, bool), np.ones((2, 2), bool), "text", 1.5]
constraints = st.none() | st.builds(
    Raising, st.sampled_from(ERRORS), st.integers(0, 6), st.booleans(), st.none() | st.sampled_from(WRONG)
)
# The seeds and temperatures of neighbours; what they say alone is asked once.
NEIGHBOURS = [
    ([5, 6, 7, 8, 9], SamplingParams(temperature=1.0, seed=1, max_tokens=8)),
    ([40, 41], SamplingParams(temperature=0.0, max_tokens=8)),
    (list(range(20, 45)), SamplingParams(temperature=0.7, top_p=0.9, seed=3, max_tokens=8)),
]


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[tuple[int, ...]]:
    return [llm.generate(prompt, wanted).ids for prompt, wanted in NEIGHBOURS]


def run(llm: LLM, sequences: list[Sequence]) -> None:
    for _ in range(200):
        if not llm.step() and all(s.finish_reason for s in sequences):
            return
    raise AssertionError("the engine does not come to an end")


@settings(max_examples=60, deadline=None)
@given(params, constraints, st.integers(0, len(NEIGHBOURS)))
@example(SamplingParams(temperature=1e-46, max_tokens=5), None, 0)
@example(SamplingParams(temperature=1e38, max_tokens=5), None, 0)
@example(SamplingParams(top_p=5e-324, min_p=1.0, max_tokens=5), None, 1)
@example(SamplingParams(max_tokens=5), Raising(Panic("!"), 1, True), 1)
@example(SamplingParams(max_tokens=5), Raising(ValueError(), 9, True, -1), 0)
def test_neighbours_ids_do_not_depend_on_what_a_request_asks_or_its_constraint_raises(
    llm: LLM, alone: list[tuple[int, ...]], wanted: SamplingParams, constraint: Raising | None, place: int
) -> None:
    crowd = [llm.submit(*asked) for asked in NEIGHBOURS[:place]]
    odd = llm.submit([9, 9, 9], wanted, constraint)  # type: ignore[arg-type]
    crowd += [llm.submit(*asked) for asked in NEIGHBOURS[place:]]
    run(llm, [*crowd, odd])
    assert [tuple(t.id for t in s.tokens) for s in crowd] == alone
    assert {s.finish_reason for s in crowd} <= {"stop", "length"}
    assert llm.scheduler.pool.held == 0
    if constraint is None:
        assert odd.error is None and odd.finish_reason in ("stop", "length")
        assert all(math.isfinite(t.logprob) for t in odd.tokens)
    assert (odd.finish_reason == "error") == (odd.error is not None)


@pytest.mark.parametrize("temperature", [1e-7, 1e-30, 1e-46, 5e-324])
def test_temperatures_below_a_millionth_are_greedy(llm: LLM, temperature: float) -> None:
    greedy = llm.generate([5, 6, 7], temperature=0, max_tokens=12, top_logprobs=2)
    assert llm.generate([5, 6, 7], temperature=temperature, max_tokens=12, top_logprobs=2, seed=4) == greedy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_end_their_own_sequence(llm: LLM, alone: list[tuple[int, ...]], bad: float) -> None:
    class Damaged:
        """The runner, whose logits are damaged wherever the last id was 251."""

        def forward(self, chunks: list, cache: Any) -> list:
            out = runner.forward(chunks, cache)
            for chunk, logits in zip(chunks, out):
                if chunk.ids[-1] == 251:
                    logits[:] = bad
            return out

    runner, llm.runner = llm.runner, Damaged()  # type: ignore[assignment]
    try:
        crowd = [llm.submit(*asked) for asked in NEIGHBOURS[:1]]
        damaged = llm.submit([3, 251], SamplingParams(max_tokens=5))
        crowd += [llm.submit(*asked) for asked in NEIGHBOURS[1:2]]
        run(llm, [*crowd, damaged])
        completion = llm.generate([3, 251], max_tokens=5)
    finally:
        llm.runner = runner
    assert [tuple(t.id for t in s.tokens) for s in crowd] == alone[:2]
    assert damaged.finish_reason == "error" and "NaN" in (damaged.error or "") and not damaged.tokens
    assert completion.finish_reason == "error" and completion.error == damaged.error and completion.ids == ()


def test_a_chat_that_fails_ends_with_what_was_said_and_why(llm: LLM) -> None:
    drawn = 0

    def fails_at_the_third(*asked: object) -> tuple[int, float]:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            raise RuntimeError("a broken sampler")
        return 40, -1.0

    llm.sample = fails_at_the_third  # type: ignore[assignment]
    try:
        events = list(llm.chat(USER, thinking=False, max_tokens=9))
    finally:
        llm.sample = sample
    end = events[-1]
    assert (
        isinstance(end, MessageEnd) and end.finish_reason == "error" and end.error == "RuntimeError: a broken sampler"
    )
    assert end.usage.completion_tokens == 2 and end.message.content == llm.tokenizer.decode([40, 40]).strip()
    assert llm.scheduler.pool.held == 0


# a vocabulary that is padded beyond its tokenizer


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM.load(tiny.write(tmp_path_factory.mktemp("padded") / "m", padding=64))


def test_ids_without_a_token_are_never_sampled(padded: LLM) -> None:
    tokens = padded.vocab_size - 64
    assert any(row.argmax() >= tokens for row in padded.logits(range(5, 60)))  # the model would
    said = [i for seed in range(8) for i in padded.generate([5, 6], seed=seed, max_tokens=40, top_logprobs=20).ids]
    assert len(said) > 50 and max(said) < tokens
    completion = padded.generate([5, 6], temperature=0, max_tokens=5, top_logprobs=1000)
    assert all(i < tokens for tops in completion.top_logprobs or () for i, _ in tops)
    assert all(math.isfinite(logprob) for logprob in completion.logprobs)


def test_ids_without_a_token_are_no_part_of_a_form_either(padded: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    for seed in range(4):
        *_, end = padded.chat(USER, response_schema=schema, seed=seed, max_tokens=60)
        assert isinstance(end, MessageEnd) and set(json.loads(end.message.content or "")) == {"a"}


def test_ids_without_a_token_decode_to_nothing_and_are_refused_in_a_prompt(padded: LLM) -> None:
    tokens = padded.vocab_size - 64
    assert padded.tokenizer.decode([tokens, tokens + 63]) == ""
    with pytest.raises(ValueError, match=f"token id {tokens + 3} has no token: it is padding"):
        padded.submit([5, tokens + 3])
    with pytest.raises(ValueError, match="not in this vocabulary"):
        padded.tokenizer.decode([tokens + 64])

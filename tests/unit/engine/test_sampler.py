"""Sampling: what may be drawn, how often it is, and that a draw depends on seed and position
alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.engine.sampler import log_softmax, most_likely, next_token, sample, seed_of
from abruzzi.engine.sequence import Sequence
from abruzzi.kernels import ops, ref, supported_isas
from abruzzi.types import SamplingParams


def logits(seed: int, size: int = 50) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * 3).astype(np.float32)


@given(
    seed=st.integers(0, 10_000),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_candidates_are_what_the_definitions_say(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logprobs = log_softmax(logits(seed))
    kept = ref.candidates(logprobs, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p))
    order = np.argsort(-logprobs, kind="stable")[: top_k or None]
    probs = np.exp(logprobs[order].astype(np.float64))
    want = []
    for rank, token in enumerate(order):
        reached = rank > 0 and probs[:rank].sum() / probs.sum() >= top_p - 1e-12
        if top_p < 1 and reached:
            break
        if min_p == 0 or probs[rank] >= min_p * probs[0]:
            want.append(token)
    assert kept.tolist() == want
    assert kept[0] == logprobs.argmax()


def drawn_near(values: np.ndarray, draw: SamplingParams, uniform: float, near: float = 1e-6) -> set[int]:
    """The candidates whose place among the others the number hits, within rounding; in the tail these are many."""
    logprobs = log_softmax((values / np.float32(draw.temperature)).astype(np.float64))
    kept = ref.candidates(logprobs, draw)
    ends = np.cumsum(np.exp(logprobs[kept]))
    ends /= ends[-1]
    begins = np.concatenate([[0.0], ends[:-1]])
    return {int(i) for i in kept[(begins <= uniform + near) & (ends >= uniform - near)]}


@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.01, 1.0, 5.0, 40.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 300, 900]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.9]),
    uniform=st.floats(0, 1, exclude_max=True),
    masked=st.booleans(),
)
def test_the_compiled_draw_equals_its_twin(
    seed: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float, masked: bool
) -> None:
    values = logits(seed, 500) * np.float32(spread / 3)
    values[100:110] = values[50]  # equals
    if masked:
        values[np.random.default_rng(seed).random(500) < 0.9] = -np.inf
    draw = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    # A border of top_p or min_p may fall on either side of a candidate, by rounding.
    nudged = [
        replace(draw, top_p=min(1.0, top_p * (1 + d)) if top_p < 1 else 1.0, min_p=min(1.0, min_p * (1 + d)))
        for d in (-1e-6, 0, 1e-6)
    ]
    want = {token for one in nudged for token in drawn_near(values, one, uniform)}
    for isa in supported_isas():
        assert ops.sample(values, draw, uniform, isa=isa) in want
        exact = np.log(np.exp((values / np.float32(temperature)).astype(np.float64)).sum())
        assert ops.log_partition(values, temperature, isa=isa) == pytest.approx(exact, abs=2e-6, rel=1e-6)


def test_a_nan_among_the_logits_is_an_error() -> None:
    values = logits(1)
    values[13] = np.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="a logit is NaN"):
            sample(values, SamplingParams(temperature=temperature), 0, 0)


def test_frequencies_follow_the_probabilities() -> None:
    values = logits(1, size=8)
    params = SamplingParams(temperature=1.7)
    draws = [sample(values, params, seed=5, position=p)[0] for p in range(20_000)]
    counts = np.bincount(draws, minlength=8)
    probs = np.exp(log_softmax(values / np.float32(1.7)).astype(np.float64))
    chi_square = ((counts - 20_000 * probs) ** 2 / (20_000 * probs)).sum()
    assert chi_square < 24.3  # 99.9 % quantile for 7 degrees of freedom
    wrong = np.exp(log_softmax(values).astype(np.float64))  # temperature ignored
    assert ((counts - 20_000 * wrong) ** 2 / (20_000 * wrong)).sum() > 100


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    values, params = logits(2), SamplingParams()
    one = [sample(values, params, 7, p) for p in range(50)]
    assert one == [sample(values, params, 7, p) for p in reversed(range(50))][::-1]
    assert one != [sample(values, params, 8, p) for p in range(50)]
    assert len({token for token, _ in one}) > 5


def test_greedy_takes_the_first_of_the_largest_and_reports_its_probability() -> None:
    values = np.array([1.0, 3.0, 3.0, 0.0], np.float32)
    token, logprob = sample(values, SamplingParams(temperature=0), 0, 0)
    assert token == 1
    assert logprob == pytest.approx(3 - np.log(np.exp([1, 3, 3, 0]).sum()), abs=1e-6)


def test_log_softmax_of_large_logits_is_finite() -> None:
    out = log_softmax(np.array([[1e30, 0, -1e30], [5, 5, 5]], np.float32))
    assert np.isfinite(out[:, 0]).all() and out[1].tolist() == pytest.approx([-np.log(3)] * 3)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_the_most_likely_are_those_of_the_distribution_that_is_sampled(temperature: float) -> None:
    values = logits(3)
    values[7] = values[4]
    params = SamplingParams(temperature=temperature, top_logprobs=50)
    told = most_likely(values, params)
    chosen, logprob = sample(values, params, seed=1, position=1)
    assert dict(told)[chosen] == logprob
    ids, logprobs = zip(*told)
    assert sorted(ids) == list(range(50)) and list(logprobs) == sorted(logprobs, reverse=True)
    assert ids.index(7) == ids.index(4) + 1  # of equals the lower first
    assert sum(np.exp(logprobs)) == pytest.approx(1, abs=1e-5)
    few = SamplingParams(temperature=temperature, top_logprobs=3, top_k=1)  # truncation does not renormalize it
    assert most_likely(values, few) == told[:3]
    assert most_likely(values, SamplingParams(temperature=temperature)) == ()
    values[:48] = -np.inf
    assert len(most_likely(values, params)) == 2


def test_the_first_of_n_samples_draws_with_the_seed_itself_and_no_two_share_one() -> None:
    assert seed_of(7, 0) == 7
    seeds = [seed_of(seed, number) for seed in range(20) for number in range(8)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("outside", [-1, 500])
def test_an_id_outside_the_vocabulary_is_an_error_wherever_it_comes_from(outside: int) -> None:
    class Forced:
        def allowed(self) -> int:
            return outside

        def accept(self, token_id: int) -> None: ...

    for constraint, chosen in ((None, outside), (Forced(), 3)):
        sequence = Sequence([1], 1, SamplingParams(), 0, 9, frozenset(), constraint)
        with pytest.raises(ValueError, match=f"token id {outside} is outside the vocabulary of 500"):
            next_token(sequence, logits(1, 500), lambda *_, id_=chosen: (id_, -1.0))

"""The plain sampler: teacher-forced equality, ends, filters, refusals."""

from __future__ import annotations

import pytest
import torch
from test_model_moe import CONFIG, loud

from abruzzi.model import K2Model, PlainSampler
from abruzzi.model.generate import candidates
from abruzzi.types import GenerateFn, SamplingParams

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model() -> K2Model:
    return loud(K2Model(CONFIG))


@torch.no_grad()
def teacher_forced(model: K2Model, ids: tuple[int, ...], temperature: float) -> torch.Tensor:
    """Log-probabilities [len(ids), V] of each generated position, from one uncached forward."""
    logits = model(torch.tensor([[*PROMPT, *ids]]))[0, len(PROMPT) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def test_greedy_takes_the_largest_of_the_full_forward(model: K2Model) -> None:
    generate: GenerateFn = PlainSampler(model)
    done = generate(PROMPT, SamplingParams(temperature=0, max_tokens=12))
    forced = teacher_forced(model, done.ids, 1.0)
    assert forced.argmax(-1).tolist() == list(done.ids) and done.finish_reason == "length"
    assert done.logprobs == pytest.approx(forced.max(-1).values.tolist(), abs=1e-5)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (5, 12) and done.sampled is None


def test_a_seed_repeats_and_logprobs_are_of_the_tempered_distribution(model: K2Model) -> None:
    params = SamplingParams(temperature=0.7, top_k=20, seed=11, max_tokens=10)
    first, second = PlainSampler(model)(PROMPT, params), PlainSampler(model)(PROMPT, params)
    assert first == second
    assert PlainSampler(model)(PROMPT, SamplingParams(temperature=0.7, seed=12, max_tokens=10)).ids != first.ids
    want = teacher_forced(model, first.ids, 0.7)
    assert first.logprobs == pytest.approx([float(want[i, t]) for i, t in enumerate(first.ids)], abs=1e-4)


def test_stops_at_an_end_and_keeps_it(model: K2Model) -> None:
    free = PlainSampler(model)(PROMPT, SamplingParams(temperature=0, max_tokens=12))
    end = free.ids[4]
    done = PlainSampler(model)(PROMPT, SamplingParams(temperature=0, max_tokens=12, stop_token_ids=(end,)))
    assert done.ids == free.ids[: free.ids.index(end) + 1] and done.finish_reason == "stop"


def test_candidates() -> None:
    logprobs = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1]).log()
    for params, want in (
        (SamplingParams(), [1, 3, 2, 4, 0]),
        (SamplingParams(top_k=2), [1, 3]),
        (SamplingParams(top_p=0.7), [1, 3]),
        (SamplingParams(top_p=0.71), [1, 3, 2]),
        (SamplingParams(min_p=0.3), [1, 3, 2]),
        (SamplingParams(top_k=3, top_p=0.8, min_p=0.9), [1]),
    ):
        assert candidates(logprobs, params).tolist() == want, params


def test_draws_follow_the_distribution(model: K2Model) -> None:
    """400 first tokens at temperature 0.3 among the top 3: shares within 4 standard errors."""
    from abruzzi.model.generate import sample

    with torch.no_grad():
        logits = model(torch.tensor([PROMPT]))[0, -1]
    params = SamplingParams(temperature=0.9, top_k=3)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sample(logits, params, generator)[0] for _ in range(400)])
    top = logits.topk(3)
    shares = (top.values / 0.9).softmax(-1)
    for token, share in zip(top.indices, shares):
        error = (share * (1 - share) / 400) ** 0.5
        assert abs((drawn == token).float().mean() - share) < 4 * error
    assert set(drawn.tolist()) <= set(top.indices.tolist())


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (SamplingParams(stop=("x",)), "stop"),
        (SamplingParams(thinking_budget=0), "thinking_budget"),
        (SamplingParams(stop=("x",), thinking_budget=9), "stop, thinking_budget"),
    ],
)
def test_refuses_what_it_lacks(model: K2Model, params: SamplingParams, named: str) -> None:
    with pytest.raises(ValueError, match=f"does not support {named};"):
        PlainSampler(model)(PROMPT, params)


def test_refuses_prompts_that_do_not_fit(model: K2Model) -> None:
    for prompt in ([], [1] * CONFIG.max_position_embeddings):
        with pytest.raises(ValueError, match=f"the prompt has {len(prompt)} tokens"):
            PlainSampler(model)(prompt, SamplingParams())

"""From logits to the next token: temperature, then top-k, top-p and min-p, then one draw.

Randomness is counter-based: the draw for a position depends on (seed, position) and on nothing else, so
a request gives the same tokens alone or beside others, and after a resume.
"""

from __future__ import annotations

import numpy as np

from abruzzi.types import SamplingParams


def sample(logits_V: np.ndarray, params: SamplingParams, seed: int, position: int) -> tuple[int, float]:
    """The next id and its natural log-probability.

    logits_V: float32 [V]. Temperature 0 takes the largest (the first of equals). The log-probability is
    that of softmax(logits / temperature) over the whole vocabulary (temperature 1 when greedy): what a
    trainer recomputes; truncation by top-k, top-p or min-p does not renormalize it."""
    greedy = params.temperature == 0
    logprobs_V = log_softmax(logits_V if greedy else logits_V / np.float32(params.temperature))
    if greedy:
        chosen = int(logits_V.argmax())
        return chosen, float(logprobs_V[chosen])
    kept = candidates(logprobs_V, params)
    weights = np.exp(logprobs_V[kept].astype(np.float64))
    # Philox is counter-based: one independent stream per (seed, position).
    draw = np.random.Generator(np.random.Philox(key=seed & (2**64 - 1), counter=position)).random()
    place = int(np.searchsorted(np.cumsum(weights), draw * weights.sum(), side="right"))
    chosen = int(kept[min(place, len(kept) - 1)])
    return chosen, float(logprobs_V[chosen])


def most_likely(logits_V: np.ndarray, params: SamplingParams) -> tuple[tuple[int, float], ...]:
    """The params.top_logprobs most likely ids and their log-probabilities, best first; of equals the lower id.

    Of the same distribution as the log-probability that `sample` gives. Ids that a mask excludes are not among them."""
    if not params.top_logprobs:
        return ()
    scale = np.float32(params.temperature or 1.0)
    logprobs_V = log_softmax(logits_V / scale)
    best = np.argsort(-logprobs_V, kind="stable")[: params.top_logprobs]
    return tuple((int(i), float(logprobs_V[i])) for i in best if np.isfinite(logprobs_V[i]))


def candidates(logprobs_V: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Ids that may be drawn, most likely first: top_k of them, then the fewest whose mass reaches top_p,
    then those at least min_p times as likely as the first."""
    order = np.argsort(-logprobs_V, kind="stable")
    if params.top_k:
        order = order[: params.top_k]
    probs = np.exp(logprobs_V[order].astype(np.float64))
    if params.top_p < 1:
        before = np.cumsum(probs) / probs.sum() - probs / probs.sum()
        order, probs = order[before < params.top_p], probs[before < params.top_p]
    if params.min_p > 0:
        order = order[probs >= params.min_p * probs[0]]
    return order


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float32, stable for large logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

"""From logits to the next token: temperature, then top-k, top-p and min-p, then one draw.

Randomness is counter-based: the draw for a position depends on (seed, position) and on nothing
else, so a request gives the same tokens alone or beside others, and after a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from abruzzi.engine.sequence import Sequence, Token
from abruzzi.kernels import ops
from abruzzi.types import SamplingParams

_HOTTEST = 1e30  # finite in float32, and as good as infinite
# (logits [V], params, seed, position) -> the next id and its log-probability; the logits of
# forbidden ids are -inf.
Sampler = Callable[[np.ndarray, SamplingParams, int, int], tuple[int, float]]


def next_token(sequence: Sequence, logits_V: np.ndarray, sample: Sampler) -> Token:
    """Sampled from the logits, among what the sequence's constraint allows; forced where it leaves
    no choice.

    Raises what the constraint or the sampler raises, and ValueError for an id that is none of the
    vocabulary."""
    allowed = sequence.constraint.allowed() if sequence.constraint is not None else None
    if isinstance(allowed, int):
        _require_id(allowed, logits_V)
        top = most_likely(logits_V, sequence.params)
        return Token(allowed, logprob_of(logits_V, allowed), sampled=False, top=top)
    if allowed is not None:
        logits_V = np.where(allowed, logits_V, np.float32(-np.inf))
    chosen, logprob = sample(logits_V, sequence.params, sequence.seed, len(sequence.ids))
    _require_id(chosen, logits_V)
    return Token(chosen, logprob, top=most_likely(logits_V, sequence.params))


def _require_id(token_id: int, logits_V: np.ndarray) -> None:
    """An id of another vocabulary would fail in the next step, which is everybody's."""
    if not 0 <= token_id < len(logits_V):
        raise ValueError(f"token id {token_id} is outside the vocabulary of {len(logits_V)}")


def seed_of(seed: int, number: int) -> int:
    """A seed for each of n samples: the given one, then hashes of it (neighbouring seeds must not
    share samples)."""
    if number == 0:
        return seed
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def sample(logits_V: np.ndarray, params: SamplingParams, seed: int, position: int) -> tuple[int, float]:
    """The next id and its natural log-probability.

    logits_V: float32 [V]. A greedy one takes the largest (the first of equals). The log-probability
    is that of softmax(logits / temperature) over the whole vocabulary (temperature 1 when greedy):
    what a trainer recomputes; truncation by top-k, top-p or min-p does not renormalize it. Raises
    ValueError for a NaN among the logits."""
    temperature = _temperature(params)
    log_all = ops.log_partition(logits_V, temperature or 1.0)
    if temperature == 0:
        chosen = int(logits_V.argmax())
    else:
        # Philox is counter-based: one independent stream per (seed, position).
        uniform = np.random.Generator(np.random.Philox(key=int(seed) & (2**64 - 1), counter=position)).random()
        chosen = ops.sample(logits_V, params, uniform)
    return chosen, _logprob(logits_V[chosen], temperature, log_all)


def logprob_of(logits_V: np.ndarray, token_id: int) -> float:
    """The log-probability of one id, at temperature 1."""
    return float(logits_V[token_id]) - ops.log_partition(logits_V)


def most_likely(logits_V: np.ndarray, params: SamplingParams) -> tuple[tuple[int, float], ...]:
    """The params.top_logprobs most likely ids and their log-probabilities, best first; of equals
    the lower id.

    Of the same distribution as the log-probability that `sample` gives. Ids that a mask excludes
    are not among them."""
    wanted = min(params.top_logprobs or 0, len(logits_V))
    if not wanted:
        return ()
    temperature = _temperature(params)
    log_all = ops.log_partition(logits_V, temperature or 1.0)
    floor = np.partition(logits_V, len(logits_V) - wanted)[len(logits_V) - wanted]
    among = np.flatnonzero(logits_V >= floor)
    best = among[np.argsort(-logits_V[among], kind="stable")][:wanted]
    return tuple((int(i), _logprob(logits_V[i], temperature, log_all)) for i in best if np.isfinite(logits_V[i]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float32, stable for large logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _temperature(params: SamplingParams) -> float:
    """What a float32 kernel can divide by; 0 = greedy."""
    return 0.0 if params.greedy else min(float(params.temperature), _HOTTEST)


def _logprob(logit: Any, temperature: float, log_all: float) -> float:
    return float(np.float32(float(logit / np.float32(temperature or 1.0)) - log_all))

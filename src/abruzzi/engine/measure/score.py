"""Scoring (teacher forcing): the log-probability of each token of a text, given those in front of
it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from abruzzi.engine.sampler import logprob_of, most_likely
from abruzzi.engine.sequence import Token
from abruzzi.types import SamplingParams


class Teacher(Protocol):
    """What gives logits, float32 [T, V]: row t predicts the token after ids[t]."""

    def logits(self, ids: Sequence[int]) -> np.ndarray: ...


def score(llm: Teacher, ids: Sequence[int], top: int = 0) -> tuple[Token, ...]:
    """ids[1:] with their log-probabilities at temperature 1; top: also tell so many of the
    likeliest at each place.

    Nothing stands in front of ids[0], so it has none. All logits are held at once: 4 bytes per
    token and word."""
    if len(ids) < 2:
        return ()
    params = SamplingParams(temperature=1.0, top_logprobs=top)
    logits_TV = llm.logits(ids[:-1])
    return tuple(
        Token(token_id, logprob_of(row_V, token_id), sampled=False, top=most_likely(row_V, params))
        for token_id, row_V in zip(ids[1:], logits_TV)
    )

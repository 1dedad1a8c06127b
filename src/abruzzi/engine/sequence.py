"""One request inside the engine: its ids so far, its blocks of the latent cache, and what ends
it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from abruzzi.engine.block_pool import BlockKey
from abruzzi.engine.constraint import Constraint
from abruzzi.types import Completion, FinishReason, SamplingParams, Usage


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id with its natural log-probability. sampled: False when it was forced by a
    constraint.

    top: the most likely ids at its place with theirs, best first, as many as were asked for."""

    id: int
    logprob: float
    sampled: bool = True
    top: tuple[tuple[int, float], ...] = ()


class State(Enum):
    """Where a sequence is: in the scheduler's queue, in its batch, or out of it (ended or
    aborted)."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """ids: prompt, then what was generated. limit: how many tokens may be generated. ends: ids that
    end it.

    computed: how many ids have their latents in the cache; cached_tokens: how many of the prompt
    were taken over from an earlier one. blocks: the table, in order; keys: the keys of its full
    blocks. prefill_until: the position up to which tokens attend in the prefill form
    (step/attention.py); asked when it first runs, and kept."""

    ids: list[int]
    prompt_length: int
    params: SamplingParams
    seed: int
    limit: int
    ends: frozenset[int]
    constraint: Constraint | None = None
    state: State = State.WAITING  # the scheduler's to change
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    computed: int = 0
    cached_tokens: int | None = None  # None until it was admitted for the first time
    blocks: list[int] = field(default_factory=list)
    keys: list[BlockKey] = field(default_factory=list)
    prefill_until: int | None = None
    error: str | None = None  # why it failed, with finish_reason "error"

    @property
    def waiting_ids(self) -> int:
        """Ids that must still go through the model before the next one can be sampled: 1 in
        decode."""
        return len(self.ids) - self.computed

    @property
    def decodes(self) -> bool:
        """Whether one token is all that the next step runs of it."""
        return self.waiting_ids == 1

    def append(self, token: Token) -> None:
        """A new token; decides whether it is the last. Raises what the constraint raises, and then
        adds nothing."""
        if self.constraint is not None:
            self.constraint.accept(token.id)
        self.tokens.append(token)
        self.ids.append(token.id)
        if token.id in self.ends:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish_reason = "length"

    def fail(self, error: BaseException) -> None:
        """End it, and it alone: its sampler or its constraint raised this."""
        self.finish_reason, self.error = "error", f"{type(error).__name__}: {error}"

    def completion(self, cut: bool = False) -> Completion:
        """What it gave. cut: a stop string ended it."""
        tokens = self.tokens
        return Completion(
            tuple(t.id for t in tokens),
            tuple(t.logprob for t in tokens),
            "stop" if cut else self.finish_reason or "length",
            Usage(self.prompt_length, self.cached_tokens or 0, len(tokens)),
            tuple(t.sampled for t in tokens),
            tuple(t.top for t in tokens) if self.params.top_logprobs else None,
            self.error,
        )

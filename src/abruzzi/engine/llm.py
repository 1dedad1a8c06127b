"""A checkpoint that runs on this machine: logits, generate, chat. No torch.

    llm = abruzzi.load("nano")
    for event in llm.chat([{"role": "user", "content": "What is 17 * 23?"}]): ...

One sequence at a time; the latent cache of the last one is kept, and a prompt that begins with the same
ids is not computed again (`usage.cached_tokens`). Batching and a shared prefix cache are not here yet.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi import tokenizer
from abruzzi.checkpoint import open_checkpoint
from abruzzi.config import ModelConfig
from abruzzi.engine.runner import LatentCache, Runner
from abruzzi.engine.sampler import log_softmax, sample
from abruzzi.engine.weights import load_weights
from abruzzi.types import (
    Completion,
    ContentDelta,
    Event,
    FinishReason,
    Message,
    MessageEnd,
    SamplingParams,
    ToolSpec,
    Usage,
)

# A thought is closed early enough that at least this share of max_tokens is left for the answer.
ANSWER_SHARE = 0.25
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id. sampled: False when it was forced (the end of a thought over its budget)."""

    id: int
    logprob: float
    sampled: bool = True


class LLM:
    """Weights, tokenizer and one latent cache. Not safe for use by two threads at once."""

    def __init__(self, config: ModelConfig, runner: Runner, tok: tokenizer.Tokenizer, name: str) -> None:
        self.config = config
        self.tokenizer = tok
        self.name = name
        self.thinking = True  # the default of `chat`
        self.max_context = config.max_position_embeddings
        self._runner = runner
        self._cache = LatentCache(config, self.max_context)
        self._cached: list[int] = []

    @classmethod
    def load(cls, path: str | Path) -> LLM:
        """A directory in Hugging Face layout. Raises FileNotFoundError or ValueError with a hint."""
        path = Path(path)
        with open_checkpoint(path) as checkpoint:
            tok = tokenizer.load(path)
            if tok.vocab_size > checkpoint.config.vocab_size:
                raise ValueError(
                    f"{path}: the tokenizer has {tok.vocab_size} ids but the model {checkpoint.config.vocab_size}; "
                    "hint: the tokenizer files belong to another checkpoint"
                )
            runner = Runner(checkpoint.config, load_weights(checkpoint))
            return cls(checkpoint.config, runner, tok, Path(path).name)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits, float32 [T, vocab_size]: row t predicts the token after ids[t]."""
        cache = LatentCache(self.config, self.max_context)
        return self._runner.forward(np.asarray(ids, np.int64), cache, last_only=False)

    def generate(self, ids: Sequence[int], params: SamplingParams | None = None, **options: Any) -> Completion:
        """Continue `ids`. Options are SamplingParams' fields, e.g. max_tokens=64, temperature=0.

        Ends at an end token, a stop string or id ("stop"), or at max_tokens or the end of the context
        ("length"). The ids include whatever ended it. Raises ValueError for a prompt that does not fit."""
        params = _params(params, options)
        prompt = list(ids)
        tokens, text = [], ""
        reason: FinishReason = "length"
        decoder = _TextOf(self.tokenizer)
        cached = self._reusable(prompt)
        for token in self._tokens(prompt, params):
            tokens.append(token)
            text += decoder.feed(token.id)
            if token.id in self._ends(params) or any(s in text for s in params.stop):
                reason = "stop"
                break
        usage = Usage(len(prompt), cached, len(tokens))
        return Completion(
            tuple(t.id for t in tokens),
            tuple(t.logprob for t in tokens),
            reason,
            usage,
            tuple(t.sampled for t in tokens),
        )

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[ToolSpec | Mapping[str, Any]] = (),
        params: SamplingParams | None = None,
        *,
        stream: bool = True,
        thinking: bool | None = None,
        **options: Any,
    ) -> Iterator[Event]:
        """Answer a conversation: events as they come, then one MessageEnd with the whole message.

        stream=False gives only the MessageEnd. thinking: None = `self.thinking`; False closes the thought
        before it begins. Stop strings apply to the answer, not to the thought.
        Raises ValueError for messages of a wrong shape and for a prompt that does not fit the context."""
        params = _params(params, options)
        events = self._chat(messages, tools, params, self.thinking if thinking is None else thinking)
        return events if stream else (e for e in events if isinstance(e, MessageEnd))

    def _chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[ToolSpec | Mapping[str, Any]],
        params: SamplingParams,
        thinking: bool,
    ) -> Iterator[Event]:
        started = time.perf_counter()
        rendered = tokenizer.render(self.tokenizer, messages, list(tools) or None, thinking=thinking)
        header = tokenizer.generation_prefix(self.tokenizer, thinking=thinking)
        parser = tokenizer.ChatParser(self.tokenizer)
        for forced in header:
            parser.feed(forced)
        prompt = list(rendered.ids)
        cached = self._reusable(prompt)
        tokens: list[Token] = []
        ends = self._ends(params)
        reason: FinishReason = "length"
        held = _StopStrings(params.stop)
        first: float | None = None
        for token in self._tokens(prompt, params, parser):
            first = first or time.perf_counter()
            tokens.append(token)
            for event in parser.feed(token.id):
                yield from held.pass_on(event)
            if token.id in ends or held.found:
                reason = "stop"
                break
        if not held.found:
            for event in parser.finish():
                yield from held.pass_on(event)
            yield from held.rest()
        now = time.perf_counter()
        message = replace(
            parser.message(),
            ids=(*header, *(t.id for t in tokens)),
            sampled=(*(False for _ in header), *(t.sampled for t in tokens)),
        )
        if held.found:
            message = replace(message, content=held.text)
        if reason == "stop" and message.tool_calls:
            reason = "tool_calls"
        spent = (first or now) - started
        yield MessageEnd(
            message,
            reason,
            Usage(len(prompt), cached, len(tokens), parser.reasoning_tokens),
            prefill_tok_s=(len(prompt) - cached) / spent if spent > 0 else None,
            decode_tok_s=(len(tokens) - 1) / (now - first) if first and now > first and len(tokens) > 1 else None,
            ttft_s=spent,
        )

    def _ends(self, params: SamplingParams) -> frozenset[int]:
        return frozenset((*self.config.eos_token_ids, *self.tokenizer.end_ids, *params.stop_token_ids))

    def _reusable(self, prompt: Sequence[int]) -> int:
        """How many leading ids of the prompt are in the cache; the last one always runs, for its logits."""
        same = 0
        for a, b in zip(self._cached, prompt[:-1]):
            if a != b:
                break
            same += 1
        return same

    def _tokens(
        self, prompt: list[int], params: SamplingParams, parser: tokenizer.ChatParser | None = None
    ) -> Iterator[Token]:
        """Sample until max_tokens or the end of the context; the caller decides about ends."""
        if len(prompt) >= self.max_context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens but the context holds {self.max_context} with at least one to "
                "answer; hint: shorten the prompt or the files you gave"
            )
        room = self.max_context - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        budget = _thinking_budget(params, limit)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        logits_V = self._prefill(prompt)
        for number in range(limit):
            close = self.tokenizer.id_of("</think>")
            over = (
                budget is not None and parser is not None and parser.in_thinking and parser.reasoning_tokens >= budget
            )
            if over and close is not None:
                token = Token(close, float(log_softmax(logits_V)[close]), sampled=False)
            else:
                token = Token(*sample(logits_V, params, seed, len(prompt) + number))
            yield token
            if number + 1 < limit:
                logits_V = self._extend([token.id])

    def _prefill(self, prompt: list[int]) -> np.ndarray:
        keep = self._reusable(prompt)
        self._cache.truncate(keep)
        del self._cached[keep:]
        logits_V = None
        for start in range(keep, len(prompt), PREFILL_CHUNK):
            logits_V = self._extend(prompt[start : start + PREFILL_CHUNK])
        assert logits_V is not None
        return logits_V

    def _extend(self, ids: list[int]) -> np.ndarray:
        logits_1V = self._runner.forward(np.asarray(ids, np.int64), self._cache)
        self._cached.extend(ids)
        return logits_1V[0]


class _TextOf:
    """Text of a growing list of ids; bytes of an unfinished character wait for the next id."""

    def __init__(self, tok: tokenizer.Tokenizer) -> None:
        import codecs

        self._tok = tok
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        return self._decoder.decode(self._tok.token_bytes(token_id))


class _StopStrings:
    """Passes events on, but holds back answer text that may be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.found = False
        self.text = ""  # what was passed on
        self._held = ""

    def pass_on(self, event: Event) -> Iterator[Event]:
        if self.found:
            return
        if not self.stops or not isinstance(event, ContentDelta):
            yield from self.rest()
            yield event
            return
        text = self._held + event.text
        hits = [text.find(s) for s in self.stops if s in text]
        if hits:
            self.found, self._held = True, ""
            text = text[: min(hits)]
        else:
            hold = max((n for s in self.stops for n in range(len(s)) if n and text.endswith(s[:n])), default=0)
            self._held = text[len(text) - hold :]
            text = text[: len(text) - hold]
        if text:
            self.text += text
            yield ContentDelta(text)

    def rest(self) -> Iterator[Event]:
        held, self._held = self._held, ""
        if held and not self.found:
            self.text += held
            yield ContentDelta(held)


def _params(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    try:
        return replace(params or SamplingParams(), **options)
    except TypeError as error:
        raise ValueError(f"unknown sampling option: {error}; hint: see SamplingParams") from error


def _thinking_budget(params: SamplingParams, limit: int) -> int | None:
    """The budget that was asked for, cut so that an answer still fits; None = no limit was asked for."""
    if params.thinking_budget is None and params.max_tokens is None:
        return None
    room = max(0, limit - max(1, int(limit * ANSWER_SHARE)))
    return room if params.thinking_budget is None else min(params.thinking_budget, room)

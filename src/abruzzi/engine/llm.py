"""A checkpoint that runs on this machine: logits, generate, chat. No torch.

    llm = abruzzi.load("nano")
    for event in llm.chat([{"role": "user", "content": "What is 17 * 23?"}]): ...

Underneath lies one loop, `step`, which moves every submitted sequence on by a token (continuous batching);
`generate` and `chat` submit one and step until it ends, so several of them may be under way at once in one
thread. What a prompt has in common with an earlier one is not computed again (`usage.cached_tokens`).
"""

from __future__ import annotations

import hashlib
import operator
import os
import secrets
import time
from collections import abc
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi import tokenizer
from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.block_pool import BLOCK_TOKENS, BlockPool
from abruzzi.engine.constraint import Constraint, ThinkingBudget
from abruzzi.engine.sampler import logprob_of, most_likely, sample
from abruzzi.engine.scheduler import Scheduler
from abruzzi.engine.sequence import Sequence, Token
from abruzzi.engine.step.attention import attention_of
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.state import Chunk, KvCache, StepRunner
from abruzzi.engine.stop_strings import StopStrings
from abruzzi.engine.weights.packing import Precision, WeightMode
from abruzzi.types import (
    Completion,
    ContentDelta,
    ContextFull,
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


class LLM:
    """Weights, tokenizer, and the sequences that are under way. Not safe for use by two threads at once.

    cache_tokens: room for the latents of so many tokens, of all sequences together."""

    def __init__(
        self,
        config: ModelConfig,
        runner: StepRunner,
        tok: tokenizer.Tokenizer,
        name: str,
        cache_tokens: int,
        block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        self.config = config
        self.tokenizer = tok
        self.name = name
        self.thinking = True  # the default of `chat`
        blocks = -(-cache_tokens // block_tokens)
        self.max_context = min(config.max_position_embeddings, blocks * block_tokens)
        self.scheduler = Scheduler(BlockPool(blocks, block_tokens))
        self._cache = KvCache(config, blocks * block_tokens, block_tokens)
        self._attention = attention_of(config)
        self.runner = runner

    @classmethod
    def load(
        cls,
        path: str | Path,
        cache_tokens: int | None = None,
        threads: int | None = None,
        precision: Precision = "exact",
        weights: WeightMode = "native",
    ) -> LLM:
        """A directory in Hugging Face layout. cache_tokens None: four full contexts, or what half of the free
        memory holds. threads None: ABRUZZI_THREADS, or every core. precision and weights: what may be rounded
        (native.py, packing.py); as they are by default, nothing is.
        Raises FileNotFoundError or ValueError with a hint."""
        path = Path(path)
        with open_checkpoint(path) as checkpoint:
            config = checkpoint.config
            tok = tokenizer.load(path)
            if tok.vocab_size > config.vocab_size:
                raise ValueError(
                    f"{path}: the tokenizer has {tok.vocab_size} ids but the model {config.vocab_size}; "
                    "hint: the tokenizer files belong to another checkpoint"
                )
            runner = NativeRunner.load(checkpoint, threads=threads, precision=precision, weights=weights)
            room = cache_tokens if cache_tokens is not None else _cache_tokens(config)
            return cls(config, runner, tok, path.name, room)

    def logits(self, ids: abc.Sequence[int]) -> np.ndarray:
        """Teacher-forced logits, float32 [T, vocab_size]: row t predicts the token after ids[t].

        Raises ValueError for more ids than the context holds, and for none."""
        if len(ids) > self.max_context:
            raise ValueError(f"{len(ids)} tokens do not fit the context of {self.max_context}; hint: fewer at once")
        cache = KvCache(self.config, len(ids))
        chunk = Chunk(np.asarray(ids, np.int64), 0, np.arange(len(ids), dtype=np.int32), all_logits=True)
        return self.runner.forward([chunk], cache)[0]

    # the loop

    def submit(
        self, ids: abc.Iterable[int], params: SamplingParams | None = None, constraint: Constraint | None = None
    ) -> Sequence:
        """Queue a prompt; `step` moves it on. Ends, limits and budgets are the engine's; stop strings are not.

        Raises ValueError, with both numbers, for a prompt that does not fit the context, and for an empty one."""
        params, prompt = params or SamplingParams(), _ids(ids)
        room = self._room(prompt)
        sequence = Sequence(
            ids=prompt,
            prompt_length=len(prompt),
            params=params,
            seed=params.seed if params.seed is not None else secrets.randbits(63),
            limit=room if params.max_tokens is None else min(params.max_tokens, room),
            ends=frozenset((*self.config.eos_token_ids, *self.tokenizer.end_ids, *params.stop_token_ids)),
            constraint=constraint,
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[Sequence]:
        """One forward pass over everything that is under way; the sequences that got a token.

        Those that ended (finish_reason) have given their blocks back. What a constraint raises comes through."""
        plan = self.scheduler.schedule()
        if not plan:
            return []
        logits = self.runner.forward([self._chunk(s, count) for s, count in plan], self._cache)
        moved = []
        for (sequence, count), logits_1V in zip(plan, logits):
            self.scheduler.ran(sequence, count)
            if sequence.waiting_ids:
                continue  # a prefill that goes on in the next step
            try:
                sequence.append(_next_token(sequence, logits_1V[0]))
            except BaseException:
                self.abort(sequence)  # a constraint that fails ends its own sequence; the others run again as planned
                raise
            moved.append(sequence)
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence)
        return moved

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence and take its blocks back at once. Does nothing to one that has ended."""
        self.scheduler.remove(sequence)

    def _tokens(self, sequence: Sequence) -> abc.Generator[Token, None, None]:
        """The tokens of one sequence as they come; closing this iterator aborts it."""
        given = 0
        try:
            while True:
                while given < len(sequence.tokens):
                    yield sequence.tokens[given]
                    given += 1
                if sequence.finish_reason is not None:
                    return
                self.step()
        finally:
            self.abort(sequence)

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        """The next `count` ids. How a token attends follows from the sequence alone, never from how its prefill was
        cut or whether it was preempted: its bits are the same in every crowd."""
        at = sequence.computed
        if sequence.prefill_until is None:
            sequence.prefill_until = self._attention.prefill_until(at, sequence.prompt_length)
        return Chunk(
            np.array(sequence.ids[at : at + count], np.int64),
            at,
            np.array(sequence.blocks[: -(-(at + count) // self.scheduler.pool.block_tokens)], np.int32),
            prefill_until=sequence.prefill_until,
        )

    def _room(self, prompt: abc.Sequence[int]) -> int:
        """How many tokens may follow the prompt."""
        if not prompt:
            raise ValueError("the prompt is empty; expected at least one token id")
        wrong = next((i for i in prompt if not 0 <= i < self.config.vocab_size), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
        if len(prompt) >= self.max_context:
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens but the context holds {self.max_context} with at least one to "
                "answer; hint: shorten the prompt or the files you gave"
            )
        return self.max_context - len(prompt)

    # one answer

    def generate(self, ids: abc.Sequence[int], params: SamplingParams | None = None, **options: Any) -> Completion:
        """Continue `ids`. Options are SamplingParams' fields, e.g. max_tokens=64, temperature=0.

        Ends at an end token, a stop string or id ("stop"), or at max_tokens or the end of the context
        ("length"). The ids include whatever ended it. Raises ValueError for a prompt that does not fit."""
        return self.generate_n(ids, 1, params, **options)[0]

    def generate_n(
        self, ids: abc.Sequence[int], n: int, params: SamplingParams | None = None, **options: Any
    ) -> list[Completion]:
        """`n` continuations of one prompt, sampled side by side; the prompt is computed once. The first draws as
        `generate` would, the others with seeds made from its seed. Raises what `generate` raises."""
        if n < 1:
            raise ValueError(f"n={n}; expected 1 or more")
        params = _params(params, options)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        sequences = [self.submit(ids, replace(params, seed=_seed_of(seed, i))) for i in range(n)]
        texts = [_TextOf(self.tokenizer) for _ in sequences]
        alive, cut = set(range(n)), set[int]()
        try:
            while alive:
                moved = self.step()
                for i in sorted(alive):
                    if sequences[i] in moved and texts[i].feed(sequences[i].tokens[-1].id, params.stop):
                        cut.add(i)
                        self.abort(sequences[i])
                    if i in cut or sequences[i].finish_reason is not None:
                        alive.remove(i)
        finally:
            for sequence in sequences:
                self.abort(sequence)
        return [_completion(s, params, i in cut) for i, s in enumerate(sequences)]

    def chat(
        self,
        messages: abc.Sequence[Message | abc.Mapping[str, Any]],
        tools: abc.Sequence[ToolSpec | abc.Mapping[str, Any]] = (),
        params: SamplingParams | None = None,
        *,
        stream: bool = True,
        thinking: bool | None = None,
        **options: Any,
    ) -> abc.Iterator[Event]:
        """Answer a conversation: events as they come, then one MessageEnd with the whole message.

        stream=False gives only the MessageEnd. thinking: None = `self.thinking`; False closes the thought
        before it begins. Stop strings apply to the answer, not to the thought.
        Raises ValueError for messages of a wrong shape and for a prompt that does not fit the context."""
        params = _params(params, options)
        events = self._chat(messages, tools, params, self.thinking if thinking is None else thinking)
        return events if stream else (e for e in events if isinstance(e, MessageEnd))

    def _chat(
        self,
        messages: abc.Sequence[Message | abc.Mapping[str, Any]],
        tools: abc.Sequence[ToolSpec | abc.Mapping[str, Any]],
        params: SamplingParams,
        thinking: bool,
    ) -> abc.Iterator[Event]:
        started = time.perf_counter()
        rendered = tokenizer.render(self.tokenizer, messages, list(tools) or None, thinking=thinking)
        header = tokenizer.generation_prefix(self.tokenizer, thinking=thinking)
        parser = self._parser(header)
        sequence = self.submit(rendered.ids, params, self._budget(rendered.ids, params, header))
        held = _Held(params.stop)
        first: float | None = None
        given = 0
        with closing(self._tokens(sequence)) as stream:
            for token in stream:
                first = first or time.perf_counter()
                given += 1
                for event in parser.feed(token.id):
                    yield from held.pass_on(event)
                if held.found:
                    break
        reason: FinishReason = "stop" if held.found else sequence.finish_reason or "length"
        tokens = sequence.tokens[:given]
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
        cached = sequence.cached_tokens or 0
        yield MessageEnd(
            message,
            reason,
            Usage(sequence.prompt_length, cached, len(tokens), parser.reasoning_tokens),
            prefill_tok_s=(sequence.prompt_length - cached) / spent if spent > 0 else None,
            decode_tok_s=(len(tokens) - 1) / (now - first) if first and now > first and len(tokens) > 1 else None,
            ttft_s=spent,
        )

    def _parser(self, header: abc.Iterable[int]) -> tokenizer.ChatParser:
        parser = tokenizer.ChatParser(self.tokenizer)
        parser.feed_all(header)
        return parser

    def _budget(
        self, prompt: abc.Sequence[int], params: SamplingParams, header: abc.Iterable[int]
    ) -> ThinkingBudget | None:
        """What closes the thought in time, for a chat that has a limit."""
        room = self._room(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        budget = _thinking_budget(params, limit)
        close = self.tokenizer.id_of("</think>")
        if budget is None or close is None:
            return None
        return ThinkingBudget(self._parser(header), close, budget)


def _ids(given: abc.Iterable[Any]) -> list[int]:
    """Plain integers, whatever kind of integers they were. Raises ValueError."""
    try:
        ids = [-1 if isinstance(i, bool) else operator.index(i) for i in given]
    except TypeError as error:
        raise ValueError(
            f"a prompt is a sequence of token ids ({error}); hint: encode text with the tokenizer"
        ) from error
    return ids


def _next_token(sequence: Sequence, logits_V: np.ndarray) -> Token:
    """Sampled from the logits, unless the sequence's constraint leaves no choice."""
    allowed = sequence.constraint.allowed() if sequence.constraint is not None else None
    if isinstance(allowed, int):
        top = most_likely(logits_V, sequence.params)
        return Token(allowed, logprob_of(logits_V, allowed), sampled=False, top=top)
    if allowed is not None:
        logits_V = np.where(allowed, logits_V, np.float32(-np.inf))
    chosen, logprob = sample(logits_V, sequence.params, sequence.seed, len(sequence.ids))
    return Token(chosen, logprob, top=most_likely(logits_V, sequence.params))


def _cache_tokens(config: ModelConfig) -> int:
    fitting = _available_memory() // 2 // KvCache.bytes_per_slot(config)
    return max(BLOCK_TOKENS, min(4 * config.max_position_embeddings, fitting))


def _available_memory() -> int:
    """Bytes. What was read of files counts as available: a large checkpoint has just gone through the page cache."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _completion(sequence: Sequence, params: SamplingParams, cut: bool) -> Completion:
    """cut: a stop string ended it."""
    tokens = sequence.tokens
    return Completion(
        tuple(t.id for t in tokens),
        tuple(t.logprob for t in tokens),
        "stop" if cut else sequence.finish_reason or "length",
        Usage(sequence.prompt_length, sequence.cached_tokens or 0, len(tokens)),
        tuple(t.sampled for t in tokens),
        tuple(t.top for t in tokens) if params.top_logprobs else None,
    )


def _seed_of(seed: int, sample: int) -> int:
    """A seed for each of n samples: the given one, then hashes of it (neighbouring seeds must not share samples)."""
    if sample == 0:
        return seed
    digest = hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class _TextOf:
    """Text of a growing list of ids; bytes of an unfinished character wait for the next id."""

    def __init__(self, tok: tokenizer.Tokenizer) -> None:
        import codecs

        self._tok, self._text = tok, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int, stops: abc.Sequence[str]) -> bool:
        """Whether the text now holds one of the stop strings."""
        self._text += self._decoder.decode(self._tok.token_bytes(token_id))
        return any(s in self._text for s in stops)


class _Held:
    """Passes events on, but holds back answer text that may be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.text = ""  # what was passed on
        self._stops = StopStrings(stops)

    @property
    def found(self) -> bool:
        return self._stops.found is not None

    def pass_on(self, event: Event) -> abc.Iterator[Event]:
        if self.found:
            return
        if isinstance(event, ContentDelta):
            yield from self._shown(self._stops.feed(event.text))
        else:
            yield from self.rest()
            yield event

    def rest(self) -> abc.Iterator[Event]:
        yield from self._shown(self._stops.rest())

    def _shown(self, text: str) -> abc.Iterator[Event]:
        if text:
            self.text += text
            yield ContentDelta(text)


def _params(params: SamplingParams | None, options: abc.Mapping[str, Any]) -> SamplingParams:
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

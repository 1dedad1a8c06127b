"""A checkpoint that runs on this machine: logits, generate, chat. No torch.

    llm = abruzzi.load("nano")
    for event in llm.chat([{"role": "user", "content": "What is 17 * 23?"}]): ...

Underneath lies one loop, `step`, which moves every submitted sequence on by a token (continuous
batching); `generate` and `chat` submit one and step until it ends, so several of them may be under
way at once in one thread. What a prompt has in common with an earlier one is not computed again
(`usage.cached_tokens`).
"""

from __future__ import annotations

import secrets
import time
from collections import abc
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.answer import Answer, Ended
from abruzzi.engine.attention import attention_of
from abruzzi.engine.block_pool import BLOCK_TOKENS, BlockPool
from abruzzi.engine.constraint import Constraint
from abruzzi.engine.grammar.compiled import Grammars
from abruzzi.engine.grammar.structure import structure_of
from abruzzi.engine.plain_text import StopSearch
from abruzzi.engine.prompt import Conversation, plain_ids, room_behind
from abruzzi.engine.sampler import Sampler, next_token, sample, seed_of
from abruzzi.engine.scheduler import MAX_RUNNING, STEP_TOKENS, Occupancy, Scheduler
from abruzzi.engine.sequence import Sequence, Token
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.state import Chunk, KvCache, StepRunner
from abruzzi.engine.vocabulary import tokenizer_of
from abruzzi.engine.weights.memory import available_memory
from abruzzi.engine.weights.packing import Precision, WeightMode
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import (
    Completion,
    Event,
    Message,
    MessageEnd,
    SamplingParams,
    ToolSpec,
)


class LLM:
    """Weights, tokenizer, and the sequences that are under way. Not safe for use by two threads at
    once.

    cache_tokens: room for the latents of so many tokens, of all sequences together. max_running:
    how many sequences share a step at most (None: 64); step_tokens: how many tokens it has. sample:
    draws the next id, see sampler.Sampler."""

    def __init__(
        self,
        config: ModelConfig,
        runner: StepRunner,
        tok: Tokenizer,
        name: str,
        cache_tokens: int,
        block_tokens: int = BLOCK_TOKENS,
        max_running: int | None = None,
        step_tokens: int | None = None,
        sample: Sampler = sample,
    ) -> None:
        self.config = config
        missing = tok.missing(config.vocab_size)  # padding of the model's vocabulary, mostly none
        self.tokenizer = tok.padded(config.vocab_size) if missing else tok
        self._missing = frozenset(missing)
        self._never = np.array(missing, np.int64) if missing else None  # ids that are not sampled
        self.name = name
        self.thinking = True  # the default of `chat`
        blocks = -(-cache_tokens // block_tokens)
        self.max_context = min(config.max_position_embeddings, blocks * block_tokens)
        max_running = MAX_RUNNING if max_running is None else max_running
        step_tokens = max(STEP_TOKENS, max_running) if step_tokens is None else step_tokens
        self.scheduler = Scheduler(BlockPool(blocks, block_tokens), step_tokens, max_running)
        self.sample = sample
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
        max_running: int | None = None,
    ) -> LLM:
        """A directory in Hugging Face layout, or a GGUF file. cache_tokens None: four full contexts, or what half
        of the free memory holds. threads None: ABRUZZI_THREADS, or every core. precision and
        weights: what may be rounded (native.py, packing.py); as they are by default, nothing is.
        max_running: how many sequences share a step at most. Raises FileNotFoundError or ValueError
        with a hint."""
        path = Path(path)
        with open_checkpoint(path) as checkpoint:
            config = replace(checkpoint.config, eos_token_id=checkpoint.end_ids or None)
            tok = tokenizer_of(path)
            if tok.vocab_size > config.vocab_size:
                raise ValueError(
                    f"{path}: the tokenizer has {tok.vocab_size} ids but the model {config.vocab_size}; "
                    "hint: the tokenizer files belong to another checkpoint"
                )
            runner = NativeRunner.load(checkpoint, threads=threads, precision=precision, weights=weights)
            room = cache_tokens if cache_tokens is not None else _cache_tokens(config)
            return cls(config, runner, tok, path.name, room, max_running=max_running)

    @property
    def vocab_size(self) -> int:
        """How many logits a token has; the tokenizer may have fewer ids."""
        return self.config.vocab_size

    def occupancy(self) -> Occupancy:
        """Sequences and blocks of the cache under way; another thread may ask."""
        return self.scheduler.occupancy()

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.vocab_size)

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
        """Queue a prompt; `step` moves it on. Ends, limits and budgets are the engine's; stop
        strings are not.

        Raises ValueError, with both numbers, for a prompt that does not fit the context, and for an
        empty one."""
        params, prompt = params or SamplingParams(), plain_ids(ids)
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

        Those that ended (finish_reason) have given their blocks back. One whose sampler or
        constraint raises ends with "error" and its message (Sequence.error), without a token; the
        others notice nothing."""
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
                logits_V = logits_1V[0]
                if self._never is not None:
                    logits_V[self._never] = -np.inf
                sequence.append(next_token(sequence, logits_V, self.sample))
            except (KeyboardInterrupt, SystemExit):
                self.abort(sequence)  # the others run again as planned
                raise
            except BaseException as error:  # a panic in a compiled constraint is no Exception
                sequence.fail(error)
            moved.append(sequence)
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence)
        return moved

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence and take its blocks back at once. Does nothing to one that has ended."""
        self.scheduler.remove(sequence)

    def _tokens(self, sequence: Sequence) -> abc.Generator[Token, None, None]:
        """The tokens of one sequence as they come; closing this iterator aborts it."""
        sent = 0
        try:
            while True:
                while sent < len(sequence.tokens):
                    yield sequence.tokens[sent]
                    sent += 1
                if sequence.finish_reason is not None:
                    return
                self.step()
        finally:
            self.abort(sequence)

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        """The next `count` ids. How a token attends follows from the sequence alone, never from how
        its prefill was cut or whether it was preempted: its bits are the same in every crowd."""
        at = sequence.computed
        if sequence.prefill_until is None:
            sequence.prefill_until = self._attention.prefill_until(at, sequence.prompt_length)
        return Chunk(
            np.array(sequence.ids[at : at + count], np.int64),
            at,
            np.array(sequence.blocks[: -(-(at + count) // self.scheduler.pool.block_tokens)], np.int32),
            prefill_until=sequence.prefill_until,
        )

    # one answer

    def generate(self, ids: abc.Sequence[int], params: SamplingParams | None = None, **options: Any) -> Completion:
        """Continue `ids`. Options are SamplingParams' fields, e.g. max_tokens=64, temperature=0.

        Ends at an end token, a stop string or id ("stop"), or at max_tokens or the end of the
        context ("length"); with finish_reason "error" and `error` where sampling failed (NaN
        logits, a constraint that raises). The ids include whatever ended it. Raises ValueError for
        a prompt that does not fit."""
        return self.generate_n(ids, 1, params, **options)[0]

    def generate_n(
        self, ids: abc.Sequence[int], n: int, params: SamplingParams | None = None, **options: Any
    ) -> list[Completion]:
        """`n` continuations of one prompt, sampled side by side; the prompt is computed once. The
        first draws as `generate` would, the others with seeds made from its seed. Raises what
        `generate` raises."""
        if n < 1:
            raise ValueError(f"n={n}; expected 1 or more")
        params = _params(params, options)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        sequences = [self.submit(ids, replace(params, seed=seed_of(seed, i))) for i in range(n)]
        stops = [StopSearch(self.tokenizer, params.stop) for _ in sequences]
        alive, cut = set(range(n)), set[int]()
        try:
            while alive:
                moved = self.step()
                for i in sorted(alive):
                    failed = sequences[i].finish_reason == "error"
                    if sequences[i] in moved and not failed and stops[i].feed(sequences[i].tokens[-1].id):
                        cut.add(i)
                        self.abort(sequences[i])
                    if i in cut or sequences[i].finish_reason is not None:
                        alive.remove(i)
        finally:
            for sequence in sequences:
                self.abort(sequence)
        return [s.completion(i in cut) for i, s in enumerate(sequences)]

    def chat(
        self,
        messages: abc.Sequence[Message | abc.Mapping[str, Any]],
        tools: abc.Sequence[ToolSpec | abc.Mapping[str, Any]] = (),
        params: SamplingParams | None = None,
        *,
        stream: bool = True,
        thinking: bool | None = None,
        effort: str | None = None,
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        response_schema: abc.Mapping[str, Any] | bool | None = None,
        **options: Any,
    ) -> abc.Iterator[Event]:
        """Answer a conversation: events as they come, then one MessageEnd with the whole message. A
        generation that fails ends with finish_reason "error", its message so far, and why
        (MessageEnd.error).

        stream=False gives only the MessageEnd. thinking: None = `self.thinking`; False closes the
        thought before it begins. effort: a key of budget.EFFORTS, the share of the tokens that may
        be thought. tool_choice: "auto", "none", "required" (at least one call), or the name of the
        one tool to call. response_schema: JSON Schema of the answer. Calls are always of tools that
        were offered, with arguments that fit; parts of a tool's schema that cannot be enforced are
        left out unless it says strict, and a SchemaWeakened warning names them. Options are
        SamplingParams' fields; stop strings apply to the answer, not to the thought. Raises
        ValueError for messages of a wrong shape, a prompt that does not fit the context, and a form
        that cannot be enforced; SchemaMissed (one too) where a finished answer misses its schema
        all the same."""
        params = _params(params, options)
        structure = structure_of(tools, tool_choice, parallel_tool_calls, response_schema, self.tokenizer.format)
        cut = structure.cut_by(params)
        if cut is not None:
            raise ValueError(f"{cut} would cut what {structure.demanded} demands; hint: leave one of them out")
        thinking = self.thinking if thinking is None else thinking
        events = self._chat(Conversation(messages, tools, params, thinking, effort, structure))
        return events if stream else (e for e in events if isinstance(e, MessageEnd))

    def _chat(self, conversation: Conversation) -> abc.Iterator[Event]:
        answer = Answer(self.tokenizer, conversation.asked(self.tokenizer, self._grammars, self._room))
        started, first, cached, error = time.perf_counter(), None, None, None
        while not isinstance(answer.ended, Ended):
            run = answer.submission
            sequence = self.submit(run.ids, run.params, run.constraint)
            with closing(self._tokens(sequence)) as tokens:
                for token in tokens:
                    first = first or time.perf_counter()
                    last = token is sequence.tokens[-1] and sequence.error is None
                    yield from answer.feed(token, sequence.finish_reason if last else None)
                    if answer.ended is not None:
                        break
            if cached is None:  # a sequence that resumes finds the first one's blocks, which nobody asked about
                cached = sequence.cached_tokens or 0
            if answer.submission is run and not isinstance(answer.ended, Ended):  # it ended without a token
                yield from answer.finish(sequence.finish_reason or "length")
            error = sequence.error
        if error is None:
            answer.require_whole()
            answer.require_kept()
        yield answer.message_end(cached or 0, started, first, time.perf_counter(), error)

    def _room(self, prompt: abc.Sequence[int]) -> int:
        room = room_behind(prompt, self.vocab_size, self.max_context)
        if not self._missing.isdisjoint(prompt):
            wrong = next(i for i in prompt if i in self._missing)
            raise ValueError(
                f"token id {wrong} has no token: it is padding of the model's vocabulary of {self.vocab_size}; "
                "hint: encode text with the checkpoint's tokenizer"
            )
        return room


def _cache_tokens(config: ModelConfig) -> int:
    fitting = available_memory() // 2 // KvCache.bytes_per_slot(config)
    return max(BLOCK_TOKENS, min(4 * config.max_position_embeddings, fitting))


def _params(params: SamplingParams | None, options: abc.Mapping[str, Any]) -> SamplingParams:
    try:
        return replace(params or SamplingParams(), **options)
    except TypeError as error:
        raise ValueError(f"unknown sampling option: {error}; hint: see SamplingParams") from error

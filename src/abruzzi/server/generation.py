"""One request under way: token ids in, one stream of typed events per choice out.

Every dialect encodes this same stream. Tokens travel with the events that they completed, so that
ids and log-probabilities can be sent beside the text. Leaving the stream closes it, and the engine
frees its blocks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from abruzzi.engine.answer import Answer, Asked, Ended
from abruzzi.engine.budget import ThoughtEnd
from abruzzi.engine.grammar.judge import SchemaMissed
from abruzzi.engine.sequence import Token
from abruzzi.server.engine_thread import EngineThread, TokenStream
from abruzzi.server.errors import ApiError
from abruzzi.server.memory.seal import wire_id
from abruzzi.types import FinishReason, Message, ParserEvent, ToolCallStart, Usage


@dataclass(frozen=True, slots=True)
class Batch:
    """What some tokens gave. Either may be empty: a token may complete no event. last: the End
    follows at once."""

    tokens: tuple[Token, ...]
    events: tuple[ParserEvent, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """A choice is over. message: with ids, and calls with their ids on the wire. tokens: all of
    them.

    stop: the stop string that ended it. Seconds are wall time; rates tokens per second, None =
    unknown. error: with finish_reason "error", why this choice failed."""

    message: Message
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    usage: Usage
    thought_end: ThoughtEnd
    stop: str | None = None
    ttft_s: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    error: ApiError | None = None


class Choice:
    """One of a request's n answers: a stream of tokens through an Answer. Iterate `items` once;
    `close` at any time.

    call_prefix: how ids of calls begin on the wire."""

    def __init__(self, engine: EngineThread, asked: Asked, call_prefix: str = "call_") -> None:
        self.asked = asked
        self.call_ids: list[str] = []
        self._engine, self._call_prefix = engine, call_prefix
        self._started = time.perf_counter()
        try:
            self._answer = Answer(engine.llm.tokenizer, asked)
        except ValueError as error:  # only exact prompt ids can begin a turn with anything
            raise ApiError(400, f"prompt_token_ids: {error}", "prompt_token_ids", "invalid_value") from None
        self._over = False  # an End was made
        self._stream = self._first_stream = self._submit()

    async def items(self) -> AsyncGenerator[Batch | End, None]:
        """Batches, then one End, with its `error` when this sequence failed. Raises ApiError when
        the engine fails."""
        try:
            while not self._over:
                tokens = await self._stream.take()
                batch = self._feed(tokens)
                if batch.tokens or batch.events:
                    yield batch
                if batch.last:
                    try:
                        if self._stream.failure is None:
                            self._answer.require_whole()
                    except ValueError as error:
                        raise ApiError(400, str(error), None, "grammar_too_complex") from None
                    await self._require_kept()
                    self._over = True
                    self._stream.close()
                    yield self._end()
        finally:
            self.close()

    def answer_now(self) -> bool:
        """Close the running thought. False when there is none, or it cannot be closed."""
        return self._answer.answer_now()

    def close(self) -> None:
        """Abort what runs: the client left, or all is said. Idempotent."""
        self._stream.close()

    def cut(self) -> End | None:
        """End it where it is (finish_reason "abort"): what was said so far. None when it has ended
        already."""
        if self._over:
            return None
        self._over = True
        self.close()
        self._name_calls(self._answer.finish("abort"))
        return self._end()

    def thought_ids(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """The ids of the thought, its end included, and their flags. Before it has ended: all so
        far."""
        return self._answer.thought_ids()

    async def _require_kept(self) -> None:
        """What was to be enforced is held against its schema once more, off the event loop. Raises
        ApiError."""
        if self._answer.to_judge:
            try:
                await asyncio.to_thread(self._answer.require_kept)
            except SchemaMissed as error:
                raise ApiError(500, str(error), None, "schema_missed") from None

    def _submit(self) -> TokenStream:
        run = self._submission = self._answer.submission
        return self._engine.submit(run.ids, run.params, run.constraint)

    def _feed(self, tokens: Sequence[Token]) -> Batch:
        """What the stream gave, as far as it belongs to the turn; goes on with the next stream
        where that is due."""
        answer, events = self._answer, []
        before = len(answer.tokens)
        for token in tokens:
            last = self._stream.drained and token is tokens[-1]
            events += answer.feed(token, self._stream.finish if last else None)
            if answer.ended is not None:
                break
        if answer.submission is not self._submission:  # a thought ended the turn
            self._stream.close()
            self._stream = self._submit()
        elif self._stream.drained and not isinstance(answer.ended, Ended):  # it ended without a token
            events += answer.finish(self._stream.finish or "length")
        self._name_calls(events)
        return Batch(tuple(answer.tokens[before:]), tuple(events), isinstance(answer.ended, Ended))

    def _name_calls(self, events: Sequence[ParserEvent]) -> None:
        self.call_ids += [wire_id(self._call_prefix) for event in events if isinstance(event, ToolCallStart)]

    def _end(self) -> End:
        answer, stream = self._answer, self._first_stream
        said = answer.message_end(stream.cached_tokens, self._started, stream.first_token, time.perf_counter())
        assert isinstance(answer.ended, Ended)
        calls = tuple(replace(c, id=i) for c, i in zip(said.message.tool_calls, self.call_ids))
        return End(
            replace(said.message, tool_calls=calls),
            tuple(answer.tokens),
            said.finish_reason,
            said.usage,
            answer.thought_end,
            answer.ended.stop,
            said.ttft_s,
            said.prefill_tok_s,
            said.decode_tok_s,
            self._stream.failure,
        )


@dataclass(slots=True)
class Generation:
    """The choices of one request. on_end: told of every End, before anybody else sees it. seal: a
    turn for the client to keep; with End None only its thought."""

    id: str
    choices: list[Choice]
    headers: dict[str, str] = field(default_factory=dict)
    on_end: Callable[[Choice, End], None] = lambda choice, end: None
    on_close: Callable[[], None] = lambda: None
    seal: Callable[[Choice, End | None], str] = lambda choice, end: ""

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.choices[0].asked.prompt

    async def items(self) -> AsyncGenerator[tuple[int, Batch | End], None]:
        """The items of all choices as they come, with the choice's number.

        A choice that fails among others is an End with its error. Raises ApiError when every one
        failed."""
        well, failed = len(self.choices), None
        try:
            async for at, item in self._merged() if len(self.choices) > 1 else self._only():
                if isinstance(item, End):
                    self.on_end(self.choices[at], item)
                    if item.error is not None:
                        well, failed = well - 1, item.error
                        if len(self.choices) == 1:
                            break
                yield at, item
            if failed is not None and not well:
                raise failed
        finally:
            self.close()

    async def ends(self) -> list[End]:
        """Wait for all of it."""
        found = {at: item async for at, item in self.items() if isinstance(item, End)}
        return [found[at] for at in range(len(self.choices))]

    def close(self) -> None:
        """Abort unfinished choices. Idempotent."""
        for choice in self.choices:
            choice.close()
        self.on_close()

    async def _only(self) -> AsyncGenerator[tuple[int, Batch | End], None]:
        async for item in self.choices[0].items():
            yield 0, item

    async def _merged(self) -> AsyncGenerator[tuple[int, Batch | End], None]:
        queue: asyncio.Queue[tuple[int, Batch | End | Exception]] = asyncio.Queue()

        async def pump(at: int) -> None:
            try:
                async for item in self.choices[at].items():
                    queue.put_nowait((at, item))
            except Exception as error:  # handed to whoever reads
                queue.put_nowait((at, error))

        tasks = [asyncio.create_task(pump(at)) for at in range(len(self.choices))]
        try:
            left = len(tasks)
            while left:
                at, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                left -= isinstance(item, End)
                yield at, item
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

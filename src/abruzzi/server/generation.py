"""One request under way: token ids in, one stream of typed events per choice out.

Every dialect encodes this same stream. Tokens travel with the events that they completed, so that ids and
log-probabilities can be sent beside the text. Leaving the stream closes it, and the engine frees its blocks.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from abruzzi.engine.constraint import Both, Constraint
from abruzzi.engine.sequence import Token
from abruzzi.engine.stop_strings import StopStrings
from abruzzi.server.budget import ClosedBy, ThoughtLimit
from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.errors import ApiError
from abruzzi.server.memory.seal import wire_id
from abruzzi.tokenizer import ChatParser, Tokenizer
from abruzzi.types import (
    ContentDelta,
    FinishReason,
    Message,
    ParserEvent,
    ReasoningDelta,
    SamplingParams,
    ToolCallStart,
    Usage,
)

if TYPE_CHECKING:
    from abruzzi.engine.grammar.turn import TurnConstraint, TurnGrammar

# How a thought ended: "cut" = the generation ended inside it; None = there was none.
ThoughtEnd = ClosedBy | Literal["cut"] | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What some tokens gave. Either may be empty: a token may complete no event. last: the End follows at once."""

    tokens: tuple[Token, ...]
    events: tuple[ParserEvent, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """A choice is over. message: with ids, and calls with their ids on the wire. tokens: all of them.

    stop: the stop string that ended it. Seconds are wall time; rates tokens per second, None = unknown."""

    message: Message
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    usage: Usage
    thought_end: ThoughtEnd
    stop: str | None = None
    ttft_s: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a choice needs. header: the end of the prompt that belongs to the assistant's message.

    limit: tokens that may be generated. no_call: control ids that may not come; one that does ends the turn in
    front of it. grammar: what the turn may be, None = anything. call_prefix: how ids of calls begin. chat=False:
    all ids are plain text."""

    prompt: tuple[int, ...]
    header: tuple[int, ...]
    params: SamplingParams
    limit: int
    thinking_budget: int | None
    close_id: int | None
    no_call: frozenset[int] = frozenset()
    grammar: TurnGrammar | None = None
    call_prefix: str = "call_"
    chat: bool = True


class Choice:
    """One of a request's n answers. Iterate `items` once; `close` at any time."""

    def __init__(self, engine: EngineThread, job: Job) -> None:
        self.job = job
        self.call_ids: list[str] = []
        self._engine, self._tok = engine, engine.llm.tokenizer
        self._parser = parser_after(self._tok, job.header) if job.chat else PlainText(self._tok)
        self._stops = StopStrings(job.params.stop)
        self._started = time.perf_counter()
        self._over = False  # an End was made
        self._tokens: list[Token] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._thought = self._parser.in_thinking  # whether there ever was one
        self._thought_end: ThoughtEnd = None
        self._thought_length: int | None = None  # of the header's and the choice's ids, once it has ended
        self._limit: ThoughtLimit | None = None
        self._turn: TurnConstraint | None = None
        self._stream = engine.submit(job.prompt, self._params(job.limit), self._constraint([]))
        self._first_stream = self._stream

    async def items(self) -> AsyncGenerator[Batch | End, None]:
        """Batches, then one End. Raises ApiError when the engine fails."""
        try:
            while True:
                tokens = await self._stream.take()
                kept, events, end = self._feed(tokens)
                if kept or events:
                    yield Batch(tuple(kept), tuple(events), end is not None)
                if end is not None:
                    self._require_whole()
                    self._over = True
                    self._stream.close()
                    yield self._end(end)
                    return
        finally:
            self.close()

    def answer_now(self) -> bool:
        """Close the running thought. False when there is none, or it cannot be closed."""
        return self._limit is not None and self._limit.answer_now()

    def close(self) -> None:
        """The client left, or all is said."""
        self._stream.close()

    def cut(self) -> End | None:
        """End it where it is (finish_reason "abort"): what was said so far. None when it has ended already."""
        if self._over:
            return None
        self._over = True
        self.close()
        self._finish()
        return self._end("abort")

    def thought_ids(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """The ids of the thought, its end included, and their flags. Before it has ended: all so far."""
        header = self.job.header
        ids = (*header, *(t.id for t in self._tokens))
        sampled = (*(False for _ in header), *(t.sampled for t in self._tokens))
        length = self._thought_length
        if length is None:
            length = len(ids) if self._parser.in_thinking else len(header)
        return ids[:length], sampled[:length]

    # from tokens to events

    def _feed(self, tokens: Sequence[Token]) -> tuple[list[Token], list[ParserEvent], FinishReason | None]:
        """Tokens that are kept, their events, and why the choice ended, if it did."""
        kept: list[Token] = []
        events: list[ParserEvent] = []
        for token in tokens:
            if token.id in self.job.no_call:
                return kept, events + self._finish(), "stop"
            last = self._stream.finish == "stop" and token is tokens[-1]
            if last and self._ends_inside_thought(token) and self._go_on():
                return kept, events, None
            kept.append(token)
            self._tokens.append(token)
            events += self._events(token)
            if self._stops.found is not None:
                return kept, events, "stop"
        if self._stream.drained:
            return kept, events + self._finish(), self._stream.finish
        return kept, events, None

    def _events(self, token: Token) -> list[ParserEvent]:
        before = self._parser.in_thinking
        events = self._shown(self._parser.feed(token.id))
        if self._parser.in_thinking:
            self._thought = True
        elif before:
            forced = not token.sampled and self._limit is not None
            self._thought_end = self._limit.closes_as if forced and self._limit is not None else "model"
            if self._thought_length is None:
                cut_off = token.id in self._tok.control_ids and token.id != self._tok.id_of("</think>")
                self._thought_length = len(self.job.header) + len(self._tokens) - cut_off
        return events

    def _finish(self) -> list[ParserEvent]:
        if self._parser.in_thinking:
            self._thought_end = "cut"
        events = self._shown(self._parser.finish())
        rest = self._stops.rest()
        if rest:
            self._content.append(rest)
            events.append(ContentDelta(rest))
        return events

    def _shown(self, events: list[ParserEvent]) -> list[ParserEvent]:
        """Without stop strings; calls get their ids."""
        shown: list[ParserEvent] = []
        for event in events:
            if isinstance(event, ReasoningDelta):
                self._reasoning.append(event.text)
                shown.append(event)
                continue
            text = self._stops.feed(event.text) if isinstance(event, ContentDelta) else self._stops.rest()
            if text:
                self._content.append(text)
                shown.append(ContentDelta(text))
            if self._stops.found is not None:
                break
            if isinstance(event, ToolCallStart):
                self.call_ids.append(wire_id(self.job.call_prefix))
            if not isinstance(event, ContentDelta):
                shown.append(event)
        return shown

    # a turn that the model ended inside its thought

    def _ends_inside_thought(self, token: Token) -> bool:
        asked_for = token.id in self.job.params.stop_token_ids
        return self._parser.in_thinking and not asked_for and self._thought_end != "end_of_turn"

    def _go_on(self) -> bool:
        """Close the thought where the model ended the turn, and let it answer from the same tokens. Their latents
        are in the cache, so nothing is computed again. False when nothing may follow."""
        left = self.job.limit - len(self._tokens)
        if left < 2 or self._limit is None:
            return False
        said = [t.id for t in self._tokens]
        self._thought_end = "end_of_turn"
        constraint = self._constraint(said)
        assert self._limit is not None
        self._limit.answer_now("end_of_turn")
        self._stream.close()
        self._stream = self._engine.submit((*self.job.prompt, *said), self._params(left), constraint)
        return True

    def _params(self, limit: int) -> SamplingParams:
        ends = (*self.job.params.stop_token_ids, *self.job.no_call)
        return replace(self.job.params, max_tokens=limit, stop_token_ids=ends)

    def _constraint(self, said: Sequence[int]) -> Constraint | None:
        """What holds from here on: the limit of the thought, then the grammar of the turn."""
        job, begun = self.job, (*self.job.header, *said)
        if job.close_id is not None and job.thinking_budget is not None:
            self._limit = ThoughtLimit(parser_after(self._tok, begun), job.close_id, job.thinking_budget)
        if job.grammar is None:
            return self._limit
        try:
            self._turn = job.grammar.begin(begun, job.limit - len(said), job.params.stop_token_ids)
        except ValueError as error:  # only exact prompt ids can begin a turn with anything
            raise ApiError(400, f"prompt_token_ids: {error}", "prompt_token_ids", "invalid_value") from None
        return self._turn if self._limit is None else Both(self._limit, self._turn)

    def _require_whole(self) -> None:
        """Raises ApiError for a turn that its grammar could not complete."""
        if self._turn is not None and self._turn.failed is not None:
            raise ApiError(
                400,
                f"the schema is too complex for what was being written: {self._turn.failed}; hint: simplify it",
                None,
                "grammar_too_complex",
            )

    # the end

    def _end(self, reason: FinishReason) -> End:
        parsed = self._parser.message()
        calls = tuple(replace(c, id=i) for c, i in zip(parsed.tool_calls, self.call_ids))
        if reason == "stop" and calls:
            reason = "tool_calls"
        header = self.job.header
        message = replace(
            parsed,
            content="".join(self._content),
            reasoning_content="".join(self._reasoning) or None,
            tool_calls=calls,
            ids=(*header, *(t.id for t in self._tokens)),
            sampled=(*(False for _ in header), *(t.sampled for t in self._tokens)),
        )
        cached = self._first_stream.cached_tokens
        usage = Usage(len(self.job.prompt), cached, len(self._tokens), self._parser.reasoning_tokens)
        first, now = self._first_stream.first_token, time.perf_counter()
        ttft = first - self._started if first is not None else None
        return End(
            message,
            tuple(self._tokens),
            reason,
            usage,
            self._thought_end if self._thought else None,
            self._stops.found,
            ttft_s=ttft,
            prefill_tok_s=(usage.prompt_tokens - cached) / ttft if ttft else None,
            decode_tok_s=(usage.completion_tokens - 1) / (now - first)
            if first is not None and now > first and usage.completion_tokens > 1
            else None,
        )


def parser_after(tok: Tokenizer, header: Sequence[int]) -> ChatParser:
    """A parser that stands behind these ids of the assistant's turn."""
    parser = ChatParser(tok)
    parser.feed_all(header)
    return parser


class PlainText:
    """In place of a ChatParser where the answer is no chat: every id is text, but the end of the turn."""

    in_thinking = False
    reasoning_tokens = 0

    def __init__(self, tok: Tokenizer) -> None:
        self._tok = tok
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> list[ParserEvent]:
        piece = b"" if token_id in self._tok.end_ids else self._tok.token_bytes(token_id)
        text = self._decoder.decode(piece)
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[ParserEvent]:
        text = self._decoder.decode(b"", True)
        return [ContentDelta(text)] if text else []

    def message(self) -> Message:
        return Message("assistant")


@dataclass(slots=True)
class Generation:
    """The choices of one request. on_end: told of every End, before anybody else sees it. seal: a turn for the
    client to keep; with End None only its thought."""

    id: str
    choices: list[Choice]
    headers: dict[str, str] = field(default_factory=dict)
    on_end: Callable[[Choice, End], None] = lambda choice, end: None
    on_close: Callable[[], None] = lambda: None
    seal: Callable[[Choice, End | None], str] = lambda choice, end: ""

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.choices[0].job.prompt

    async def items(self) -> AsyncGenerator[tuple[int, Batch | End], None]:
        """The items of all choices as they come, with the choice's number."""
        try:
            if len(self.choices) == 1:
                async for item in self.choices[0].items():
                    self._note(0, item)
                    yield 0, item
                return
            async for at, item in self._merged():
                self._note(at, item)
                yield at, item
        finally:
            self.close()

    async def ends(self) -> list[End]:
        """Wait for all of it."""
        found = {at: item async for at, item in self.items() if isinstance(item, End)}
        return [found[at] for at in range(len(self.choices))]

    def close(self) -> None:
        """Free what is still under way. Any number of times."""
        for choice in self.choices:
            choice.close()
        self.on_close()

    def _note(self, at: int, item: Batch | End) -> None:
        if isinstance(item, End):
            self.on_end(self.choices[at], item)

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

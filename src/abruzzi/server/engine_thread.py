"""The one thread that owns the engine, and the queues between it and the event loop.

`LLM` is not safe for use by two threads, and a forward pass must not block the event loop. So one
thread calls submit, step and abort; requests reach it as commands, tokens leave it through an
`Outbox`, and a reader that is slower than the engine gets several tokens at once (coalescing under
load).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from abruzzi.engine.constraint import Constraint
from abruzzi.engine.scheduler import Occupancy
from abruzzi.engine.sequence import Sequence as EngineSequence
from abruzzi.engine.sequence import Token
from abruzzi.server.errors import ApiError, not_submitted
from abruzzi.server.outbox import Outbox
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import FinishReason, SamplingParams

Answer = TypeVar("Answer")


class Engine(Protocol):
    """What the server needs of `engine.llm.LLM`; a scripted one in tests satisfies it as well."""

    tokenizer: Tokenizer
    name: str
    max_context: int
    thinking: bool

    @property
    def vocab_size(self) -> int: ...

    def occupancy(self) -> Occupancy: ...

    def submit(
        self, ids: Iterable[int], params: SamplingParams | None = None, constraint: Constraint | None = None
    ) -> EngineSequence: ...

    def step(self) -> list[EngineSequence]: ...

    def abort(self, sequence: EngineSequence) -> None: ...

    def logits(self, ids: Sequence[int]) -> Any: ...


class TokenStream:
    """The tokens of one sequence, on the event loop's side."""

    def __init__(self, owner: EngineThread, outbox: Outbox[_News]) -> None:
        self.cached_tokens = 0
        self.finish: FinishReason | None = None
        self.failure: ApiError | None = None  # of this sequence alone, with finish "error"
        self.first_token: float | None = None  # time.perf_counter
        self._owner = owner
        self._outbox = outbox
        self._news = asyncio.Event()
        self._tokens: list[Token] = []
        self._error: ApiError | None = None
        self._closed = False
        self._sequence: EngineSequence | None = None  # the engine thread's
        self._given = 0

    async def take(self) -> list[Token]:
        """The tokens since the last call, at least one unless the sequence has ended (`finish`).

        Raises ApiError when the whole engine failed or the server shuts down."""
        while not self._tokens and self.finish is None and self._error is None:
            self._news.clear()
            await self._news.wait()
        if self._error is not None and not self._tokens:
            raise self._error
        tokens, self._tokens = self._tokens, []
        return tokens

    @property
    def drained(self) -> bool:
        """Whether it has ended and every token was taken."""
        return self.finish is not None and not self._tokens

    def close(self) -> None:
        """No more interest: the engine drops the sequence and its blocks. Idempotent, at any
        time."""
        if not self._closed:
            self._closed = True
            if self.finish is None and self._error is None:
                self._owner.close(self)

    def deliver(self, tokens: Sequence[Token], finish: FinishReason | None, error: ApiError | None) -> None:
        """News from the engine thread, brought by the event loop."""
        if tokens and self.first_token is None:
            self.first_token = time.perf_counter()
        self._tokens.extend(tokens)
        self.finish = finish
        if finish == "error":
            self.failure = error
        else:
            self._error = error
        if finish is not None or error is not None:
            self._owner.ended(self)
        self._news.set()


@dataclass(slots=True)
class _News:
    stream: TokenStream
    tokens: list[Token] = field(default_factory=list)
    finish: FinishReason | None = None
    error: ApiError | None = None
    first: bool = False  # no token of this stream came before


class EngineThread:
    """max_sequences: how many may be under way or wait; one more is a 429. Use from one event loop.

    Call `start` once, `stop` at the end."""

    def __init__(self, llm: Engine, max_sequences: int = 512) -> None:
        self.llm, self.max_sequences = llm, max_sequences
        self.failures = 0
        self._commands: list[Callable[[], None]] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._refusal: ApiError | None = None
        self._open: set[TokenStream] = set()  # the event loop's
        self._latest_outbox: Outbox[_News] | None = None
        self._live: dict[EngineSequence, TokenStream] = {}  # the engine thread's
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step that it is in; what still ran is told so."""
        self.refuse(ApiError(503, "the server is shutting down", code="shutting_down"))
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def open(self) -> int:
        """Sequences that are under way or wait."""
        return len(self._open)

    @property
    def closing(self) -> bool:
        """Whether no new sequences are taken."""
        return self._refusal is not None

    def occupancy(self) -> Occupancy:
        """Numbers for /health and /metrics, read without stopping the engine."""
        return self.llm.occupancy()

    def require_room(self, count: int) -> None:
        """Raises ApiError when `count` more sequences are too many, or none are taken any more."""
        if self._refusal is not None:
            raise self._refusal
        if len(self._open) + count > self.max_sequences:
            raise ApiError(
                429,
                f"{len(self._open)} generations are under way or wait, and at most {self.max_sequences} may; "
                "hint: try again later, or with a smaller n",
                code="queue_full",
                retry_after=max(1, round(len(self._open) / 64)),
            )

    def submit(self, ids: Sequence[int], params: SamplingParams, constraint: Constraint | None = None) -> TokenStream:
        """Queue a prompt. Raises ApiError 429 when the queue is full."""
        self.require_room(1)
        stream = TokenStream(self, self._outbox())
        self._open.add(stream)
        self._command(lambda: self._submit(stream, ids, params, constraint))
        return stream

    def close(self, stream: TokenStream) -> None:
        self._open.discard(stream)
        self._command(lambda: self._abort(stream))

    def ended(self, stream: TokenStream) -> None:
        self._open.discard(stream)

    def _outbox(self) -> Outbox[_News]:
        """The running loop's; tests run one loop after another."""
        loop = asyncio.get_running_loop()
        if self._latest_outbox is None or self._latest_outbox.loop is not loop:
            self._latest_outbox = Outbox(loop, _deliver)
        return self._latest_outbox

    async def ask(self, question: Callable[[], Answer]) -> Answer:
        """What `question` answers in the engine's thread, between two steps. Raises what it raises,
        and ApiError when nothing new is taken."""
        self.require_room(0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def settle(answer: Answer | None, error: Exception | None) -> None:
            if future.done():
                return  # nobody waits any more
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer)  # type: ignore[arg-type]

        def work() -> None:
            answer, failed = None, None
            try:
                answer = question()
            except Exception as error:
                failed = error
            loop.call_soon_threadsafe(settle, answer, failed)

        self._command(work)
        return await future

    def refuse(self, error: ApiError, running: bool = False) -> None:
        """Take no new sequences. running: end those that are under way with this error as well."""
        self._refusal = error
        if running:
            self._command(lambda: self._fail_all(error))

    # the engine thread

    def _command(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._commands and not self._live and not self._stopping:
                    self._wake.wait()
                commands, self._commands = self._commands, []
                stopping = self._stopping
            for command in commands:
                command()
            if stopping:
                self._fail_all(ApiError(503, "the server is shutting down", code="shutting_down"))
                return
            if self._live:
                self._step()

    def _submit(
        self, stream: TokenStream, ids: Sequence[int], params: SamplingParams, constraint: Constraint | None
    ) -> None:
        try:
            sequence = self.llm.submit(ids, params, constraint)
        except ValueError as error:
            self._tell([_News(stream, error=not_submitted(error))])
            return
        except Exception as error:  # of this request alone
            self.failures += 1
            self._tell([_News(stream, error=_failed(f"{type(error).__name__}: {error}"))])
            return
        stream._sequence = sequence
        self._live[sequence] = stream

    def _abort(self, stream: TokenStream) -> None:
        sequence = stream._sequence
        if sequence is not None and self._live.pop(sequence, None) is not None:
            self.llm.abort(sequence)

    def _step(self) -> None:
        try:
            moved = self.llm.step()
        except BaseException as error:  # the border between the engine and everybody's requests; this thread goes on
            self.failures += 1
            self._fail_all(_failed(f"{type(error).__name__}: {error}"))
            return
        news = []
        for sequence in moved:
            stream = self._live.get(sequence)
            if stream is None:
                continue
            stream.cached_tokens = sequence.cached_tokens or 0
            tokens, first = sequence.tokens[stream._given :], stream._given == 0
            stream._given = len(sequence.tokens)
            if sequence.finish_reason is not None:
                del self._live[sequence]
            error = None
            if sequence.finish_reason == "error":
                self.failures += 1
                error = _failed(sequence.error or "unknown")
            news.append(_News(stream, tokens, sequence.finish_reason, error, first))
        self._tell(news)

    def _fail_all(self, error: ApiError) -> None:
        news = []
        for sequence, stream in self._live.items():
            self.llm.abort(sequence)
            news.append(_News(stream, error=error))
        self._live.clear()
        self._tell(news)

    def _tell(self, news: list[_News]) -> None:
        by_outbox: dict[Outbox[_News], list[_News]] = {}
        for item in news:
            by_outbox.setdefault(item.stream._outbox, []).append(item)
        for outbox, items in by_outbox.items():
            urgent = any(i.first or i.finish is not None or i.error is not None for i in items)
            if not outbox.put(items, urgent):
                for item in items:
                    self._abort(item.stream)


def _failed(why: str) -> ApiError:
    return ApiError(500, f"the engine failed: {why}", code="engine_failed")


def _deliver(item: _News) -> None:
    item.stream.deliver(item.tokens, item.finish, item.error)

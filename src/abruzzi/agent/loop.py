"""The agent loop (ReAct): one step is one generation and its tool calls; steps follow until an
answer.

`step` never changes the history it is given: it returns the messages to append. `run` is a stream
of events, so that a terminal, a server and a test all read the same run; nobody else writes
history.

Not here: which model, which tools, how they are shown; they are injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from abruzzi.tools import Tool, ToolError, ToolOk, call_tool
from abruzzi.types import (
    ChatModel,
    ContentDelta,
    ContextFull,
    Event,
    Message,
    MessageEnd,
    SamplingParams,
    ToolCall,
    Usage,
)

StopReason = Literal["answer", "max_steps", "max_seconds", "length", "aborted", "no_answer", "error"]

NOT_RUN = ToolError("not run: the generation was cut off before its end", "not run (cut off)")
# Finish reasons of a generation whose last call may be half a call.
_CUT_REASONS: dict[str, StopReason] = {"length": "length", "abort": "aborted", "error": "error"}
CUT_OFF = tuple(_CUT_REASONS)


@dataclass(frozen=True, slots=True)
class Limits:
    """max_steps: generations in one turn. max_seconds: wall time, checked between steps."""

    max_steps: int = 300
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StepStart:
    number: int


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave. seconds: wall time of the call."""

    call: ToolCall
    result: ToolOk | ToolError
    seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of a run. messages: what to append to the history, all of the turn, every call
    with its result.

    error: what ended it where a generation failed (stop_reason error, or length where the context
    was full); answer then holds what had been said of the answer by then."""

    stop_reason: StopReason
    answer: str
    messages: tuple[Message, ...]
    steps: int
    usage: Usage
    error: Exception | None = None

    def check(self) -> None:
        """Raise what ended the run, for a caller to whom only a whole turn is one. A context that
        the tools' results filled is no error: whoever asked too much from the start can shorten it,
        whoever asked for tools cannot."""
        if self.error is not None and (self.stop_reason == "error" or self.steps == 1):
            raise self.error


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a run. finish: the turn so far."""

    def __init__(self, finish: Finish) -> None:
        super().__init__()
        self.finish = finish


AgentEvent = StepStart | Event | ToolResult | Finish


@dataclass(slots=True)
class _Turn:
    messages: list[Message] = field(default_factory=list)
    usage: Usage = Usage()
    steps: int = 0
    end: MessageEnd | None = None  # of the step that is under way
    said: list[str] = field(default_factory=list)  # of the answer, by the generation that is under way

    def begin_step(self) -> StepStart:
        self.steps += 1
        self.end = None
        self.said.clear()
        return StepStart(self.steps)

    def take(self, event: Event | ToolResult) -> None:
        """Keep what an event adds to the history and to the bill."""
        if isinstance(event, MessageEnd):
            self.end = event
            self.messages.append(event.message)
            self.usage = _add(self.usage, event.usage)
        elif isinstance(event, ToolResult):
            self.messages.append(Message("tool", event.result.message, tool_call_id=event.call.id))
        elif isinstance(event, ContentDelta):
            self.said.append(event.text)

    def finish(self, reason: StopReason, answer: str = "") -> Finish:
        return Finish(reason, answer, tuple(self.messages), self.steps, self.usage)

    def broken_off(self, reason: StopReason, error: Exception | None) -> Finish:
        """The turn as far as it came, with a result for each call that was not run."""
        answered = {m.tool_call_id for m in self.messages if m.role == "tool"}
        calls = [] if self.end is None else self.end.message.tool_calls
        left = [Message("tool", NOT_RUN.message, tool_call_id=c.id) for c in calls if c.id not in answered]
        answer = "".join(self.said) if self.end is None else ""
        return replace(self.finish(reason, answer), messages=(*self.messages, *left), error=error)


def run(
    model: ChatModel,
    history: Sequence[Message],
    tools: Sequence[Tool] = (),
    params: SamplingParams = SamplingParams(),
    limits: Limits = Limits(),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[AgentEvent]:
    """Work on the last user message of `history` until the model answers or a limit is hit.

    Yields every event as it happens; the last one is always a Finish whose stop_reason says why it
    ended: answer; max_steps / max_seconds; length (the generation hit its token limit, or the
    context was full); aborted (somebody ended it); no_answer (it ended with neither text nor a
    call); error (the generation failed: Finish.error). A tool call that fails is an error result
    for the model to read. Ctrl-C alone is raised, as Interrupted, which holds the turn so far."""
    turn, started = _Turn(), clock()
    while True:
        if turn.steps >= limits.max_steps:
            yield turn.finish("max_steps")
            return
        if limits.max_seconds is not None and clock() - started >= limits.max_seconds:
            yield turn.finish("max_seconds")
            return
        yield turn.begin_step()
        events = step(model, [*history, *turn.messages], tools, params, clock)
        while True:
            # Only the model's own errors are caught: not those of whoever reads these events.
            try:
                event = next(events, None)
            except ContextFull as error:
                yield turn.broken_off("length", error)
                return
            except Exception as error:
                yield turn.broken_off("error", error)
                return
            except KeyboardInterrupt as interrupt:
                raise Interrupted(turn.broken_off("aborted", None)) from interrupt
            if event is None:
                break
            turn.take(event)
            yield event
        finish = _ending(turn)
        if finish is not None:
            yield finish
            return


def _ending(turn: _Turn) -> Finish | None:
    """How the step that is over ends the run; None where the model called tools and is to read
    their results."""
    end = turn.end
    if end is None:
        return turn.broken_off("error", RuntimeError("a ChatModel must end its stream with MessageEnd"))
    cut = _CUT_REASONS.get(end.finish_reason)
    if end.message.tool_calls and cut is None:
        return None
    answer = end.message.content or ""
    return turn.finish(cut or ("answer" if answer.strip() else "no_answer"), answer)


def step(
    model: ChatModel,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    params: SamplingParams = SamplingParams(),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event | ToolResult]:
    """One generation, then its tool calls in order. Every complete call gets exactly one result.

    A generation that was cut (CUT_OFF) runs no tools, since its last call may be half a
    call; its calls get an error result all the same, so that the history stays valid."""
    calls: tuple[ToolCall, ...] = ()
    cut = False
    for event in model.chat(messages, [tool.spec for tool in tools], params):
        if isinstance(event, MessageEnd):
            event = replace(event, message=_with_ids(event.message, messages))
            calls, cut = event.message.tool_calls, event.finish_reason in CUT_OFF
        yield event
    for call in calls:
        before = clock()
        result = NOT_RUN if cut else call_tool(tools, call)
        yield ToolResult(call, result, clock() - before)


def _with_ids(message: Message, history: Sequence[Message]) -> Message:
    """Calls need ids that are unique in the conversation, so that each result finds its call."""
    taken = {c.id for m in history for c in m.tool_calls}
    count = sum(len(m.tool_calls) for m in history)
    calls = []
    for offset, call in enumerate(message.tool_calls):
        call_id = call.id
        if not call_id or call_id in taken:
            call_id = f"call_{count + offset}"
            while call_id in taken:
                call_id += "_"
        taken.add(call_id)
        calls.append(replace(call, id=call_id))
    return replace(message, tool_calls=tuple(calls))


def _add(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.prompt_tokens + b.prompt_tokens,
        a.cached_tokens + b.cached_tokens,
        a.completion_tokens + b.completion_tokens,
        a.reasoning_tokens + b.reasoning_tokens,
    )

"""The agent loop (ReAct): one step is one generation and its tool calls; steps follow until an answer.

`step` never changes the history it is given: it returns the messages to append. `run` is a stream of
events, so that a terminal, a server and a test all read the same run; nobody else writes history.

Not here: which model, which tools, how they are shown; they are injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from abruzzi.tools import Tool, ToolError, ToolOk, call_tool
from abruzzi.types import ChatModel, ContextFull, Event, Message, MessageEnd, SamplingParams, ToolCall, Usage

NOT_RUN = ToolError("not run: the generation was cut off before its end", "not run (cut off)")
# Finish reasons of a generation whose last call may be half a call.
CUT_OFF = ("length", "abort")

StopReason = Literal["answer", "max_steps", "max_seconds", "length", "aborted", "no_answer", "error"]


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
    """The last event of a run. messages: what to append to the history, all of the turn."""

    stop_reason: StopReason
    answer: str
    messages: tuple[Message, ...]
    steps: int
    usage: Usage


AgentEvent = StepStart | Event | ToolResult | Finish


@dataclass(slots=True)
class _Turn:
    messages: list[Message] = field(default_factory=list)
    usage: Usage = Usage()
    steps: int = 0

    def take(self, event: Event | ToolResult) -> None:
        """Keep what an event adds to the history and to the bill."""
        if isinstance(event, MessageEnd):
            self.messages.append(event.message)
            self.usage = _add(self.usage, event.usage)
        elif isinstance(event, ToolResult):
            self.messages.append(Message("tool", event.result.message, tool_call_id=event.call.id))

    def finish(self, reason: StopReason, answer: str = "") -> Finish:
        return Finish(reason, answer, tuple(self.messages), self.steps, self.usage)


def run(
    model: ChatModel,
    history: Sequence[Message],
    tools: Sequence[Tool] = (),
    params: SamplingParams = SamplingParams(),
    limits: Limits = Limits(),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[AgentEvent]:
    """Work on the last user message of `history` until the model answers or a limit is hit.

    Yields every event as it happens; the last one is a Finish whose stop_reason says why it ended:
    answer; max_steps / max_seconds; length (the generation hit its token limit); aborted (somebody ended
    it); no_answer (it ended with neither text nor a call). A tool call that fails is an error result for the
    model to read."""
    turn, started = _Turn(), clock()
    while True:
        if turn.steps >= limits.max_steps:
            yield turn.finish("max_steps")
            return
        if limits.max_seconds is not None and clock() - started >= limits.max_seconds:
            yield turn.finish("max_seconds")
            return
        turn.steps += 1
        yield StepStart(turn.steps)
        end: MessageEnd | None = None
        try:
            for event in step(model, [*history, *turn.messages], tools, params, clock):
                turn.take(event)
                if isinstance(event, MessageEnd):
                    end = event
                yield event
        except ContextFull:
            if turn.steps == 1:
                raise  # what was asked is too long, and whoever asked can shorten it
            yield turn.finish("length")  # what tools said filled it: the turn so far is kept
            return
        assert end is not None, "a ChatModel must end its stream with MessageEnd"
        if end.message.tool_calls and end.finish_reason not in CUT_OFF:
            continue
        answer = end.message.content or ""
        if end.finish_reason in CUT_OFF:
            yield turn.finish("length" if end.finish_reason == "length" else "aborted", answer)
        else:
            yield turn.finish("answer" if answer.strip() else "no_answer", answer)
        return


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

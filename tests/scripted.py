"""A ChatModel that says what it is told to say: a fake instead of a mock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from abruzzi.types import (
    ContentDelta,
    Event,
    FinishReason,
    Message,
    MessageEnd,
    ReasoningDelta,
    SamplingParams,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    ToolSpec,
    Usage,
)


def say(
    content: str = "", *calls: tuple[str, str], thought: str | None = None, reason: FinishReason | None = None
) -> MessageEnd:
    """One scripted message; calls are (name, arguments)."""
    message = Message(
        "assistant", content, reasoning_content=thought, tool_calls=tuple(ToolCall(n, a) for n, a in calls)
    )
    usage = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=5, reasoning_tokens=2)
    return MessageEnd(message, reason or ("tool_calls" if calls else "stop"), usage)


class ScriptedModel:
    """Gives its messages in order and remembers what it was asked."""

    def __init__(self, *script: MessageEnd) -> None:
        self.script = list(script)
        self.asked: list[tuple[tuple[Message, ...], tuple[ToolSpec, ...]]] = []

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        params: SamplingParams = SamplingParams(),
    ) -> Iterator[Event]:
        self.asked.append((tuple(messages), tuple(tools)))
        end = self.script.pop(0)
        if end.message.reasoning_content:
            yield ReasoningDelta(end.message.reasoning_content)
        if end.message.content:
            yield ContentDelta(end.message.content)
        for position, call in enumerate(end.message.tool_calls):
            yield ToolCallStart(position, call.name)
            yield ToolCallDelta(position, call.arguments)
            yield ToolCallEnd(position)
        yield end

"""The words that all rooms share: messages, tools, sampling, completions, streamed events.

Plain frozen dataclasses without numpy or torch, so that any room may import them for nothing.
Two protocols hold the house together: `ChatModel` (messages -> events -> Completion) and
`GenerateFn` (ids -> Completion).

A sampled message keeps the token ids it was sampled as (`Message.ids`); its text fields are only a
view of them. Nothing that was sampled is ever tokenized again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from numbers import Integral, Real
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model made.

    name:      the function's name, as declared.
    arguments: the JSON text exactly as the model wrote it; it may be broken JSON.
    id:        opaque on the wire (`call_...`, `toolu_...`, `functions.x:0`); never parsed for meaning.
    index:     which call of the conversation this is, from 0; None = count it when rendering.
    """

    name: str
    arguments: str
    id: str = ""
    index: int | None = None

    @classmethod
    def from_openai(cls, call: Mapping[str, Any]) -> ToolCall:
        """Read `{"id", "type": "function", "function": {"name", "arguments"}}`.

        Arguments may be JSON text (kept as it is) or an object (dumped as K2's template does).
        Raises ValueError that says what was given."""
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ValueError(
                f"tool call {brief(call)} has no 'function' object; "
                'hint: {"id": "...", "type": "function", "function": {"name": "...", "arguments": "{}"}}'
            )
        if call.get("type", "function") != "function":
            raise ValueError(f"tool call type {call.get('type')!r} is not supported; expected 'function'")
        name, arguments, call_id = function.get("name"), function.get("arguments", ""), call.get("id")
        if not isinstance(name, str) or not name:
            raise ValueError(f"tool call {brief(call)}: function.name must be a non-empty string, got {name!r}")
        if call_id is not None and not isinstance(call_id, str):
            raise ValueError(f"tool call {name!r}: id must be a string, got {call_id!r}")
        if isinstance(arguments, Mapping):
            import json

            arguments = json.dumps(arguments, ensure_ascii=False)
        if not isinstance(arguments, str):
            raise ValueError(
                f"tool call {name!r}: function.arguments must be JSON text or an object, got {brief(arguments)}"
            )
        return cls(name=name, arguments=arguments, id=call_id or "")

    def to_openai(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told of a tool. parameters: a JSON Schema object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_openai(self) -> dict[str, Any]:
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; OpenAI's fields plus the sampled ids.

    ids:     assistant only: the tokens after the assistant header, up to and including the end of
             the turn if the model produced it. When present, `render` splices them.
    sampled: one bool per id: False where the token was put there by us (a forced end of thinking,
             the empty think block of a no-think turn). None = all were sampled.
    """

    role: str
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    ids: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"message role {self.role!r} is unknown; expected one of {', '.join(ROLES)}")
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content is not None or self.ids is not None):
            raise ValueError(f"a {self.role} message cannot carry tool_calls, reasoning_content or sampled ids")
        if self.sampled is not None and (self.ids is None or len(self.ids) != len(self.sampled)):
            given = "no ids" if self.ids is None else f"{len(self.ids)} ids"
            raise ValueError(f"message has {len(self.sampled)} 'sampled' flags but {given}; expected one flag per id")

    @classmethod
    def from_openai(cls, message: Mapping[str, Any] | Message) -> Message:
        """Read an OpenAI-shaped message. Raises ValueError that says what was given and expected.

        Content may be text, None, or a list of text parts (joined as they stand). Thinking is taken
        from `reasoning_content`, else from `reasoning`."""
        if isinstance(message, Message):
            return message
        if not isinstance(message, Mapping):
            raise ValueError(
                f'a message must be an object with a role, got {brief(message)}; hint: {{"role": "user", ...}}'
            )
        role = message.get("role")
        if not isinstance(role, str):
            raise ValueError(f"message {brief(message)} has no role; expected one of {', '.join(ROLES)}")
        calls = message.get("tool_calls") or ()
        if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
            raise ValueError(f"tool_calls must be a list of calls, got {brief(calls)}")
        reasoning = message.get("reasoning_content")
        if reasoning is None:
            reasoning = message.get("reasoning")
        for key, value in (
            ("reasoning_content", reasoning),
            ("name", message.get("name")),
            ("tool_call_id", message.get("tool_call_id")),
        ):
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{role} message: {key} must be text, got {brief(value)}")
        ids, sampled = message.get("ids"), message.get("sampled")
        return cls(
            role=role,
            content=_text_of(role, message.get("content")),
            reasoning_content=reasoning,
            tool_calls=tuple(c if isinstance(c, ToolCall) else ToolCall.from_openai(c) for c in calls),
            tool_call_id=message.get("tool_call_id"),
            name=message.get("name"),
            ids=None if ids is None else tuple(ids),
            sampled=None if sampled is None else tuple(sampled),
        )

    def to_openai(self) -> dict[str, Any]:
        """The wire form: only fields that are set; sampled ids stay at home."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning_content is not None:
            out["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            out["tool_calls"] = [c.to_openai() for c in self.tool_calls]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            out["name"] = self.name
        return out


GREEDY_BELOW = 1e-6  # temperatures
HOTTEST = 1e38  # the compiled sampler divides by a float32
# Of SamplingParams: what may be None as well has True.
_NUMBERS: tuple[tuple[str, type, bool], ...] = (
    *((name, Real, False) for name in ("temperature", "top_p", "min_p")),
    *((name, Integral, False) for name in ("top_k", "top_logprobs")),
    *((name, Integral, True) for name in ("max_tokens", "seed", "thinking_budget")),
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. temperature 0 = greedy, and so is one below 1e-6. max_tokens None = as much as
    the context holds.

    thinking_budget: at most this many thinking tokens, then the thought is closed; None = no limit.
    top_logprobs: also tell so many of the most likely ids at each place."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    thinking_budget: int | None = None
    top_logprobs: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the most likely id is taken: float32 logits divided by a smaller temperature
        overflow."""
        return self.temperature < GREEDY_BELOW

    def __post_init__(self) -> None:
        for name, kind, optional in _NUMBERS:
            given = getattr(self, name)
            if isinstance(given, bool) or not (isinstance(given, kind) or (optional and given is None)):
                raise ValueError(f"{name}={given!r}; expected {'a whole' if kind is Integral else 'a'} number")
        for name, ok, want in (
            ("temperature", 0 <= self.temperature <= HOTTEST, f"from 0 to {HOTTEST:g}"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "1 or more, or None"),
            ("thinking_budget", self.thinking_budget is None or self.thinking_budget >= 0, "0 or more, or None"),
            ("top_logprobs", 0 <= self.top_logprobs <= 1000, "0 (off) to 1000"),
        ):
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)!r} is out of range; expected {want}")


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; equal to what the recorded ids count."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What one generation gave: ids, one log-probability per id (natural log), why it ended.

    sampled: False for ids that were forced (the end of a thought over its budget); None = all
    sampled. top_logprobs: for each id the most likely ones at its place with their
    log-probabilities, best first; None = not asked for. error: why a generation failed, with
    finish_reason "error"."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    sampled: tuple[bool, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    error: str | None = None


# Events of a streamed message, in the order in which the model wrote them.


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call's header is complete. position counts the calls of this message from 0."""

    position: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the arguments' JSON text."""

    position: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call is complete (or the generation ended inside it: complete=False)."""

    position: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """Always the last event: the whole message, why it ended, and what it took.

    prefill_tok_s, decode_tok_s: tokens per second, those from the prefix cache not counted; ttft_s:
    seconds from submission to the first token. None where the model does not tell. logprobs:
    natural log-probability of each generated id, forced ones included: aligned with the last
    usage.completion_tokens of message.ids, whose ids in front of these (the prompt's part of the
    turn, such as the empty thought of a no-think turn) have none. Empty where the model does not
    tell. error: why the generation failed, with finish_reason "error"; the message is what was said
    before."""

    message: Message
    finish_reason: FinishReason
    usage: Usage
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    ttft_s: float | None = None
    logprobs: tuple[float, ...] = ()
    error: str | None = None


# What a parser emits from ids, and what a ChatModel streams (the same, then one MessageEnd).
ParserEvent = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallDelta | ToolCallEnd
Event = ParserEvent | MessageEnd


class UserError(ValueError):
    """Something that the person at the keyboard can mend; the text is one line with a `hint:`.

    Plain ValueError and OSError are read as people's mistakes too. This is for errors that callers
    tell apart by name (EndpointError, Diverged) and for those that no builtin class names."""


class ContextFull(UserError):
    """A prompt that leaves no room to answer. prompt_tokens, max_context: in tokens, where they are
    known."""

    def __init__(self, message: str, prompt_tokens: int | None = None, max_context: int | None = None) -> None:
        super().__init__(message)
        self.prompt_tokens, self.max_context = prompt_tokens, max_context


class GenerateFn(Protocol):
    """ids -> Completion: the engine and the plain torch sampler satisfy it."""

    def __call__(self, ids: Sequence[int], params: SamplingParams) -> Completion: ...


class ChatModel(Protocol):
    """messages -> events, the last one a MessageEnd: the engine, an endpoint and the fakes satisfy
    it."""

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        params: SamplingParams = SamplingParams(),
    ) -> Iterator[Event]: ...


def brief(value: object, length: int = 80) -> str:
    """The repr of a value that somebody gave, cut to `length` characters, for an error's one
    line."""
    if isinstance(value, (list, tuple, dict, str, bytes)) and len(value) > length:
        value = dict(islice(value.items(), length)) if isinstance(value, dict) else value[:length]
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def _text_of(role: str, content: object) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        texts: list[str] = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(
                    f"{role} message: content part {brief(part)} is not supported; "
                    'expected {"type": "text", "text": "..."}'
                )
            texts.append(part["text"])
        return "".join(texts)
    raise ValueError(f"{role} message: content must be text or a list of text parts, got {brief(content)}")

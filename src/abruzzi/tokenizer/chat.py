"""Messages -> token ids and a mask of what was sampled, in K2-Thinking's format (k2.md 5.2).

Sampled messages bring their ids, which are spliced as they are; only what has no ids is encoded. Control
tokens are placed by id, so no text of anybody can forge a turn. With `preserve_thinking` the result is
append-only: what was rendered before a turn is a prefix of what is rendered after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.types import Message, ToolSpec

THINK, END_THINK = "<think>", "</think>"
SECTION, END_SECTION = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, END_CALL = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
IM_END, IM_MIDDLE = "<|im_end|>", "<|im_middle|>"
OPENERS = {"user": "<|im_user|>", "assistant": "<|im_assistant|>"}
SYSTEM_OPENER = "<|im_system|>"
NEEDED = (*OPENERS.values(), SYSTEM_OPENER, IM_MIDDLE, IM_END, SECTION, END_SECTION, CALL, ARGUMENTS, END_CALL)


@dataclass(slots=True)
class Rendered:
    """ids, and one bool per id: True where the model sampled it (in SFT: where it is trained)."""

    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)

    def add(self, ids: Sequence[int], sampled: bool) -> None:
        """Append ids that share one flag."""
        self.ids.extend(ids)
        self.sampled.extend([sampled] * len(ids))


def render(
    tok: Tokenizer,
    messages: Sequence[Message | Mapping[str, Any]],
    tools: Sequence[ToolSpec | Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    preserve_thinking: bool | None = None,
    thinking: bool = True,
) -> Rendered:
    """Render a conversation.

    messages: abruzzi's or OpenAI-shaped, mixed. preserve_thinking: None = the checkpoint's default; False
    drops the thinking of everything up to the last final answer, as K2-Thinking's template does.
    thinking=False: the generation prompt closes the thought before it begins.
    Raises ValueError for messages of a wrong shape, results that answer no call, ids outside the
    vocabulary, and a tokenizer without the control tokens."""
    require_chat_tokens(tok)
    if isinstance(messages, (str, bytes, Mapping)):
        raise ValueError(f"messages must be a list of messages, got {type(messages).__name__}")
    history = [Message.from_openai(m) for m in messages]
    keep = tok.defaults.preserve_thinking if preserve_thinking is None else preserve_thinking
    finals = [i for i, m in enumerate(history) if m.role == "assistant" and not m.tool_calls]
    last_final = finals[-1] if finals else -1
    writer = _Writer(tok)
    if tools:
        writer.turn(SYSTEM_OPENER, "tool_declare", tools_text(tools))
    if tok.defaults.system and (not history or history[0].role not in ("system", "developer")):
        writer.turn(SYSTEM_OPENER, "system", tok.defaults.system)
    for index, message in enumerate(history):
        if message.role == "assistant":
            writer.assistant(message, drop_thinking=not keep and index <= last_final)
        elif message.role == "tool":
            writer.tool_result(message)
        else:
            role = "system" if message.role == "developer" else message.role
            opener = OPENERS.get(role, SYSTEM_OPENER)
            writer.turn(opener, message.name or role, message.content or "")
    if add_generation_prompt:
        writer.header(OPENERS["assistant"], "assistant")
        writer.out.add(generation_prefix(tok, thinking), False)
    return writer.out


def generation_prefix(tok: Tokenizer, thinking: bool = True) -> tuple[int, ...]:
    """Ids that we put after the assistant's header: nothing, or the empty thought of a no-think turn.

    The Message of such a completion carries them in front of its ids, with sampled=False."""
    return () if thinking else (*marker(tok, THINK), *marker(tok, END_THINK))


def tools_text(tools: Sequence[ToolSpec | Mapping[str, Any]]) -> str:
    """The declaration's JSON: OpenAI's tools array, keys sorted at every level, no spaces."""
    listed = [t.to_openai() if isinstance(t, ToolSpec) else t for t in tools]
    for tool in listed:
        if not isinstance(tool, Mapping):
            raise ValueError(f"a tool must be an object, got {tool!r:.80}")
    return json.dumps(listed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def marker(tok: Tokenizer, text: str) -> tuple[int, ...]:
    """A think marker: its token, or for tokenizers that have none its spelling."""
    token_id = tok.id_of(text)
    return (token_id,) if token_id is not None else tuple(tok.encode(text))


def require_chat_tokens(tok: Tokenizer) -> None:
    """Raises ValueError when control tokens of the chat format are absent."""
    missing = [t for t in NEEDED if tok.id_of(t) is None]
    if missing:
        raise ValueError(
            f"this tokenizer lacks {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}; "
            "hint: it is not of the Kimi family, so it cannot render chats (text works)"
        )


class _Writer:
    """Appends turns; knows which call has which label."""

    def __init__(self, tok: Tokenizer) -> None:
        self.tok = tok
        self.out = Rendered()
        self._calls = 0
        self._label_of: dict[str, str] = {}

    def header(self, opener: str, name: str) -> None:
        self._control(opener)
        self.out.add(self.tok.encode(name), False)
        self._control(IM_MIDDLE)

    def turn(self, opener: str, name: str, text: str) -> None:
        self.header(opener, name)
        self.out.add(self.tok.encode(text), False)
        self._control(IM_END)

    def tool_result(self, message: Message) -> None:
        label = self._label_of.get(message.tool_call_id or "")
        if label is None:
            raise ValueError(
                f"tool result with tool_call_id {message.tool_call_id!r} answers no earlier call; "
                f"known ids: {', '.join(self._label_of) or 'none'}; "
                "hint: keep the assistant message with its tool_calls"
            )
        self.turn(SYSTEM_OPENER, message.name or "tool", f"## Return of {label}\n{message.content or ''}")

    def assistant(self, message: Message, drop_thinking: bool) -> None:
        self.header(OPENERS["assistant"], message.name or "assistant")
        labels = self._number_calls(message)
        if message.ids is not None:
            self._spliced(message, drop_thinking)
            return
        thought = None if drop_thinking else message.reasoning_content
        # An empty thought that the model did not write is not trained on.
        written = thought is not None
        self.out.add(marker(self.tok, THINK), written)
        self.out.add(self.tok.encode(thought or ""), True)
        self.out.add(marker(self.tok, END_THINK), written)
        self.out.add(self.tok.encode(message.content or ""), True)
        if message.tool_calls:
            self._control(SECTION, True)
            for call, label in zip(message.tool_calls, labels):
                self._control(CALL, True)
                self.out.add(self.tok.encode(label), True)
                self._control(ARGUMENTS, True)
                self.out.add(self.tok.encode(call.arguments), True)
                self._control(END_CALL, True)
            self._control(END_SECTION, True)
        self._control(IM_END, True)

    def _spliced(self, message: Message, drop_thinking: bool) -> None:
        ids = message.ids or ()
        flags = message.sampled or (True,) * len(ids)
        outside = [i for i in ids if not 0 <= i < self.tok.vocab_size]
        if outside:
            raise ValueError(f"message carries id {outside[0]}, outside the vocabulary of {self.tok.vocab_size}")
        calls = sum(i == self.tok.control[CALL] for i in ids)
        if calls != len(message.tool_calls):
            raise ValueError(f"message has {len(message.tool_calls)} tool_calls but its ids hold {calls}")
        start = 0
        if drop_thinking:
            start = _end_of_thought(self.tok, ids)
            self.out.add((*marker(self.tok, THINK), *marker(self.tok, END_THINK)), False)
        self.out.ids.extend(ids[start:])
        self.out.sampled.extend(flags[start:])
        if not ids or ids[-1] not in self.tok.end_ids:
            self._control(IM_END)

    def _number_calls(self, message: Message) -> list[str]:
        labels = []
        ids = [c.id for c in message.tool_calls if c.id]
        if len(set(ids)) != len(ids):
            raise ValueError(
                f"two calls of one message share an id ({', '.join(ids)}); results could not be told apart"
            )
        for call in message.tool_calls:
            index = self._calls if call.index is None else call.index
            labels.append(f"functions.{call.name}:{index}")
            self._label_of[call.id] = labels[-1]
            self._calls += 1
        return labels

    def _control(self, text: str, sampled: bool = False) -> None:
        self.out.add((self.tok.control[text],), sampled)


def _end_of_thought(tok: Tokenizer, ids: Sequence[int]) -> int:
    """Where in sampled ids the thought is over: behind its end marker, or before a call that cut it off."""
    opened, closed = marker(tok, THINK), marker(tok, END_THINK)
    stops = {tok.control[SECTION], tok.control[CALL]}
    thinking = tuple(ids[: len(opened)]) == opened
    if not thinking:
        return 0
    for at, token_id in enumerate(ids):
        if tuple(ids[at : at + len(closed)]) == closed:
            return at + len(closed)
        if token_id in stops or token_id in tok.end_ids:
            return at
    return len(ids)

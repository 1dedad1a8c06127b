"""Messages -> token ids and a mask of what was sampled, in the tokenizer's chat format.

Sampled messages bring their ids, which are spliced as they are; only what has no ids is encoded.
Control tokens are placed by id, so no text of anybody can forge a turn. With `preserve_thinking`
the result is append-only: what was rendered before a turn is a prefix of what is rendered after it
(provided that the assistant's header was not given another name in between).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.tokenizer.formats.format import ABSENT, ChatFormat
from abruzzi.tokenizer.formats.open_calls import OpenCalls
from abruzzi.tokenizer.formats.thoughts import ids_without_thought
from abruzzi.types import Message, ToolSpec


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

    messages: abruzzi's or OpenAI-shaped, mixed. preserve_thinking: None = the checkpoint's default;
    False drops the thinking of everything up to the last final answer, as K2-Thinking's template
    does. thinking=False: the generation prompt closes the thought before it begins. A tool result
    answers the latest open call with its id; without an id, the oldest open call. Raises ValueError
    for messages of a wrong shape, results that answer no call, ids outside the vocabulary, and a
    tokenizer without the control tokens."""
    form = tok.format
    form.require(tok.control)
    history = [Message.from_openai(m) for m in _listed("messages", messages)]
    keep = tok.defaults.preserve_thinking if preserve_thinking is None else preserve_thinking
    clearing = [i for i, m in enumerate(history) if m.role == form.clears_thinking and not m.tool_calls]
    cleared = clearing[-1] if clearing else -1
    writer = _Writer(tok)
    if tools is not None and len(_listed("tools", tools)):
        _require_calls(form, f"{len(tools)} tools were offered")
        writer.turn("system", form.tools_name, tools_text(tools, form))
    if tok.defaults.system and (not history or history[0].role not in ("system", "developer")):
        writer.turn("system", "system", tok.defaults.system)
    for index, message in enumerate(history):
        if message.role == "assistant":
            writer.assistant(message, drop_thinking=not keep and index <= cleared)
        elif message.role == "tool":
            writer.tool_result(message)
        else:
            role = "system" if message.role == "developer" else message.role
            writer.turn(role, message.name or role, message.content or "")
    if add_generation_prompt:
        writer.header("assistant", "assistant")
        writer.out.add(generation_prefix(tok, thinking), False)
    return writer.out


def generation_prefix(tok: Tokenizer, thinking: bool = True) -> tuple[int, ...]:
    """Ids that we put after the assistant's header: nothing, or the empty thought of a no-think
    turn.

    The message of such a completion carries them in front of its ids, with sampled=False:
    parser.message_from_completion(tok, generation_prefix(tok, thinking=False), completion.ids)."""
    return () if thinking else (*tok.marker_ids.open_thought, *tok.marker_ids.close_thought)


def _require_calls(form: ChatFormat, why: str) -> None:
    if not form.calls:
        raise ValueError(f"{why}, but {form.title}, this model's chat format, has no tool calls; hint: another model")


def tools_text(tools: Sequence[ToolSpec | Mapping[str, Any]], form: ChatFormat) -> str:
    """The declaration's JSON: OpenAI's tools array, as the format writes JSON (K2: sorted, no
    spaces).

    Raises ValueError for a tool without a function and for what JSON cannot hold."""
    listed = [t.to_openai() if isinstance(t, ToolSpec) else t for t in tools]
    for tool in listed:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(
                f"tool {tool!r:.80} names no function; "
                'hint: {"type": "function", "function": {"name": "...", "parameters": {...}}}'
            )
    try:
        return json.dumps(listed, ensure_ascii=False, **form.tools_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"tools are not JSON: {error}; hint: text keys; only dict, list, text, number, bool") from None


def _listed(what: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"{what} must be a list, got {type(value).__name__}; hint: put it in [ ]")
    return value


class _Writer:
    """Appends turns in a format's layout; keeps the open calls and their labels for the results."""

    def __init__(self, tok: Tokenizer) -> None:
        self.tok, self.form, self.markers = tok, tok.format, tok.marker_ids
        self.out = Rendered()
        self._calls = 0
        self._open = OpenCalls[str]()  # with their labels

    def header(self, role: str, name: str, text: str = "") -> None:
        """And text behind it, as nobody sampled it. Where the header ends in text the two are one."""
        before, behind = self.markers.header(role)
        self._control(before)
        if behind == ABSENT:
            self.out.add(self.tok.encode(name + self.form.headers["system"].close + text), False)
            return
        self.out.add(self.tok.encode(name), False)
        self._control(behind)
        self.out.add(self.tok.encode(text), False)

    def turn(self, role: str, name: str, text: str) -> None:
        self.header(role, name, text)
        self.end()

    def end(self, sampled: bool = False) -> None:
        """Of a turn, and what stands between two."""
        self._control(self.markers.end_of_turn, sampled)
        self.out.add(self.markers.between, False)

    def tool_result(self, message: Message) -> None:
        call_id = message.tool_call_id
        label = self._open.answer(call_id)
        if label is None:
            known = ", ".join(map(repr, self._open.ids()[:8])) or "none"
            raise ValueError(
                f"tool result with tool_call_id {call_id!r} answers no open call; open calls: {known}; "
                "hint: keep the assistant message with its tool_calls before it, and one result for each call"
            )
        text = self.form.result.format(label=label, content=message.content or "")
        self.turn("tool", message.name or "tool", text)

    def assistant(self, message: Message, drop_thinking: bool) -> None:
        markers = self.markers
        if message.tool_calls:
            _require_calls(self.form, f"a message has {len(message.tool_calls)} tool calls")
        if message.ids is None and not self.form.thinks:
            self._plain_assistant(message)
            return
        self.header("assistant", message.name or "assistant")
        labels = self._number_calls(message)
        if message.ids is not None:
            self._spliced(message, drop_thinking)
            return
        thought = None if drop_thinking else message.reasoning_content
        # An empty thought that the model did not write is not trained on.
        written = thought is not None
        self.out.add(markers.open_thought, written)
        self.out.add(self.tok.encode(thought or ""), True)
        self.out.add(markers.close_thought, written)
        self.out.add(self.tok.encode(message.content or ""), True)
        if message.tool_calls:
            self._control(markers.section_open, True)
            for call, label in zip(message.tool_calls, labels):
                self._control(markers.call_open, True)
                self.out.add(self.tok.encode(label), True)
                self._control(markers.call_arguments, True)
                self.out.add(self.tok.encode(call.arguments), True)
                self._control(markers.call_close, True)
            self._control(markers.section_close, True)
        self.end(sampled=True)

    def _plain_assistant(self, message: Message) -> None:
        """Header and text, which are one text where the header ends in text; the model would have
        written what differs from the header alone."""
        at = len(self.out.ids)
        self.header("assistant", message.name or "assistant", message.content or "")
        whole = self.out.ids[at:]
        del self.out.ids[at:], self.out.sampled[at:]
        self.header("assistant", message.name or "assistant")
        alone = self.out.ids[at:]
        del self.out.ids[at:], self.out.sampled[at:]
        shared = next((n for n, (a, b) in enumerate(zip(whole, alone)) if a != b), min(len(whole), len(alone)))
        self.out.add(whole[:shared], False)
        self.out.add(whole[shared:], True)
        self.end(sampled=True)

    def _spliced(self, message: Message, drop_thinking: bool) -> None:
        ids: Sequence[int] = message.ids or ()
        flags: Sequence[bool] = message.sampled or (True,) * len(ids)
        outside = [i for i in ids if not hasattr(i, "__index__") or not 0 <= i < self.tok.vocab_size]
        if outside:
            raise ValueError(
                f"message carries id {outside[0]!r}, outside the vocabulary of {self.tok.vocab_size}; "
                "hint: it was sampled by another model"
            )
        calls = _calls_in(self.tok, ids)
        if calls != len(message.tool_calls):
            raise ValueError(
                f"message has {len(message.tool_calls)} tool_calls but its ids hold {calls}; "
                "hint: build it with parse(tok, ids)"
            )
        if drop_thinking:
            ids, flags = ids_without_thought(self.tok, ids, flags)
            self.out.add(generation_prefix(self.tok, thinking=False), False)
        self.out.ids.extend(ids)
        self.out.sampled.extend(flags)
        if not ids or ids[-1] not in self.tok.end_ids:
            self._control(self.markers.end_of_turn)
        self.out.add(self.markers.between, False)

    def _number_calls(self, message: Message) -> list[str]:
        ids = [c.id for c in message.tool_calls if c.id]
        if len(set(ids)) != len(ids):
            raise ValueError(
                f"two calls of one message share an id ({', '.join(ids):.200}), so results could not be told apart; "
                "hint: give each call its own"
            )
        labels = []
        for call in message.tool_calls:
            labels.append(self.form.label(call.name, self._calls if call.index is None else call.index))
            self._open.add(call.id, labels[-1])
            self._calls += 1
        return labels

    def _control(self, token_id: int, sampled: bool = False) -> None:
        self.out.add((token_id,), sampled)


def _calls_in(tok: Tokenizer, ids: Sequence[int]) -> int:
    """How many calls sampled ids hold, up to the end of the turn."""
    call, count = tok.marker_ids.call_open, 0
    for token_id in ids:
        if token_id in tok.end_ids:
            break
        count += token_id == call
    return count

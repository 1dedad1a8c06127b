"""Restoring a client's history: its assistant turns get back the ids that they were sampled as.

Clients drop thoughts, rewrite ids and reformat arguments between two calls; the model must see what
it wrote. A turn is taken for ours when its call ids, a seal or what it said lead to a stored one
AND everything in front of it is what it was sampled from AND it says what it said. A client's own
edits win. A thought that comes back as text of the assistant (Qwen Code over Responses does that)
is that turn's thought again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from abruzzi.server.errors import ApiError
from abruzzi.server.memory.seal import PrefixHash, SampledTurn, Seal, content_hash
from abruzzi.server.memory.store import Expired, ReasoningStore
from abruzzi.tokenizer import Tokenizer, generation_prefix, parse, render
from abruzzi.tokenizer.formats.spans import last_header_end
from abruzzi.types import Message

# kept: the client sent the thought. restored: we put it back. The other two: nobody has it.
STATES = ("kept", "restored", "absent", "expired")


@dataclass(slots=True)
class History:
    """A restored history. messages: ready to render. prefix: the hash of them all.

    states: of each assistant turn, by its place. prefill: the beginning of the answer, if the
    client sent one."""

    messages: tuple[Message, ...]
    prefix: bytes
    states: dict[int, str] = field(default_factory=dict)
    prefill: Message | None = None

    def header(self) -> str:
        """The states as the value of a response header."""
        counts = Counter(self.states.values())
        return " ".join(f"{state}={counts[state]}" for state in STATES)


class Restorer:
    """Looks sampled turns up. model: the name and vocabulary that the ids belong to."""

    def __init__(self, tok: Tokenizer, model: str, store: ReasoningStore, seal: Seal, strict: bool = False) -> None:
        self._tok, self._model, self._store, self._seal, self._strict = tok, model, store, seal, strict

    def resolve(
        self,
        scope: bytes,
        messages: Sequence[Message],
        seals: Mapping[int, str],
        tools: Sequence[dict[str, Any]],
        preserve_thinking: bool | None,
    ) -> History:
        """Raises ApiError for a forged seal, and in strict mode for a thought that nobody has."""
        keep = self._tok.defaults.preserve_thinking if preserve_thinking is None else preserve_thinking
        finals = [i for i, m in enumerate(messages) if m.role == "assistant" and not m.tool_calls]
        running = PrefixHash(model=self._model, tools=list(tools), keep=keep, system=self._tok.defaults.system)
        resolved: list[Message] = []
        states: dict[int, str] = {}
        made = 0  # calls
        told: Message | None = None  # its text is the thought of the message behind it
        for place, message in enumerate(messages):
            if message.role == "assistant":
                behind = messages[place + 1] if place + 1 < len(messages) else None
                if told is None and self._tells_the_thought_of(scope, message, behind, running.digest()):
                    told = message
                    continue
                if told is not None:
                    message, told = replace(message, reasoning_content=told.content), None
                message, states[place] = self._assistant(scope, message, seals.get(place), running.digest(), made)
                shown = keep or not finals or place > finals[-1]
                if self._strict and shown and states[place] in ("absent", "expired"):
                    raise ApiError(
                        400,
                        f"messages[{place}] came without its thought, and it is {states[place]} here; "
                        "hint: send reasoning_content back with every assistant message",
                        f"messages[{place}]",
                        f"reasoning_{states[place]}",
                    )
            running.add(message)
            made += len(message.tool_calls)
            resolved.append(message)
        return History(tuple(resolved), running.digest(), states)

    def _assistant(
        self, scope: bytes, message: Message, sealed: str | None, prefix: bytes, made: int
    ) -> tuple[Message, str]:
        content = content_hash(message.content, message.tool_calls)
        found = self._find(scope, message, prefix, content)
        if found is None and message.reasoning_content is None and message.content and message.tool_calls:
            calls_only = content_hash("", message.tool_calls)
            turn = self._find(scope, message, prefix, calls_only)
            if self._thinks(turn, message.content):
                message, found, content = (
                    replace(message, content="", reasoning_content=message.content),
                    turn,
                    calls_only,
                )
        if sealed is not None:
            carried = self._unseal(scope, sealed, message.reasoning_content)
            # The seal says which thought it was; the store may know the rest of the turn.
            agrees = isinstance(found, SampledTurn) and carried is not None and _begins(found, carried)
            if carried is not None and not agrees:
                fits = carried.prefix == prefix and (not carried.whole or carried.content == content)
                found = carried if fits else None
        if isinstance(found, SampledTurn):
            spliced = self._splice(message, found, made)
            if spliced is not None:
                return spliced, "restored" if message.reasoning_content is None else "kept"
        if message.reasoning_content is not None:
            return message, "kept"
        return message, "expired" if isinstance(found, Expired) else "absent"

    def _tells_the_thought_of(self, scope: bytes, message: Message, behind: Message | None, prefix: bytes) -> bool:
        if message.tool_calls or message.reasoning_content is not None or not message.content:
            return False
        if behind is None or behind.role != "assistant" or behind.reasoning_content is not None:
            return False
        found = self._find(scope, behind, prefix, content_hash(behind.content, behind.tool_calls))
        return self._thinks(found, message.content)

    def _thinks(self, turn: SampledTurn | Expired | None, text: str) -> bool:
        """Whether this is what the turn thought."""
        if not isinstance(turn, SampledTurn) or not text.strip():
            return False
        return (parse(self._tok, turn.ids).reasoning_content or "").strip() == text.strip()

    def _find(self, scope: bytes, message: Message, prefix: bytes, content: bytes) -> SampledTurn | Expired | None:
        """By the first call id that is known, else by content; prefix and content must be equal."""
        for call in message.tool_calls:
            found = self._store.by_call(scope, call.id) if call.id else None
            if found is not None and (found.prefix, found.content) == (prefix, content):
                return found
            if isinstance(found, Expired):
                return found
            if found is not None:
                return None  # edited, or its beginning was
        return self._store.by_said(scope, prefix, content)

    def _unseal(self, scope: bytes, sealed: str, thought: str | None) -> SampledTurn | None:
        try:
            turn = self._seal.read(scope, sealed)
        except ValueError as error:
            raise ApiError(400, str(error), "messages", "invalid_signature") from None
        sealed_thought = "" if turn is None else (parse(self._tok, turn.ids).reasoning_content or "").strip()
        # A second thought in the same turn has no seal of its own.
        if thought and turn is not None and not thought.strip().startswith(sealed_thought):
            raise ApiError(400, "a thought was changed but kept its signature", "messages", "invalid_signature")
        return turn

    def _splice(self, message: Message, turn: SampledTurn, made: int) -> Message | None:
        """The message with the turn's ids and its calls as the model labelled them; None when the
        client's thought is another one. made: calls in front of it."""
        own = parse(self._tok, turn.ids)
        thought = message.reasoning_content
        if thought is not None and thought.strip() != (own.reasoning_content or "").strip():
            return None
        if not turn.whole:
            return self._with_thought(message, turn, made)
        calls = tuple(replace(c, id=m.id) for c, m in zip(own.tool_calls, message.tool_calls))
        return replace(own, tool_calls=calls, name=message.name, sampled=turn.sampled[: len(own.ids or ())])

    def _with_thought(self, message: Message, turn: SampledTurn, made: int) -> Message:
        """Only the thought's ids are known: the answer behind it is encoded from its text."""
        calls = tuple(replace(c, index=made + n) for n, c in enumerate(message.tool_calls))
        plain = Message("assistant", message.content, tool_calls=calls)
        rendered = render(self._tok, [plain], add_generation_prompt=False, preserve_thinking=True)
        behind = last_header_end(self._tok, rendered.ids)
        assert behind is not None  # the message has just been rendered with its header
        start = behind + len(generation_prefix(self._tok, thinking=False))
        return replace(
            message,
            tool_calls=calls,
            reasoning_content=parse(self._tok, turn.ids).reasoning_content,
            ids=(*turn.ids, *rendered.ids[start:]),
            sampled=(*turn.sampled, *rendered.sampled[start:]),
        )


def _begins(turn: SampledTurn, part: SampledTurn) -> bool:
    return turn.ids[: len(part.ids)] == part.ids

"""Tool calls put together from streamed pieces, for servers that number them in ways of their
own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from abruzzi.agent.chunk import CallPiece
from abruzzi.types import ToolCall, ToolCallDelta, ToolCallStart


@dataclass(slots=True)
class _Call:
    position: int
    index: int | None
    id: str | None
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class StreamedCalls:
    """The calls of one message, in the order in which they began.

    A piece belongs to the latest call of its index, but an id and a name of its own make a new call
    (Ollama numbers all calls 0). Without an index the id decides; without both, a name after
    complete arguments begins a new call."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def feed(self, piece: CallPiece) -> Iterator[ToolCallStart | ToolCallDelta]:
        call = self._find(piece)
        started = call is None
        if call is None:
            call = _Call(len(self._calls), piece.index, piece.id)
            self._calls.append(call)
        call.id = call.id or piece.id
        call.name = _joined(call.name, piece.name)
        if started:
            yield ToolCallStart(call.position, call.name)
        if piece.arguments and not (piece.whole and call.pieces):
            call.pieces.append(piece.arguments)
            yield ToolCallDelta(call.position, piece.arguments)

    def finished(self) -> tuple[ToolCall, ...]:
        """All of them; a call without arguments has none to give: {}."""
        return tuple(ToolCall(c.name, c.arguments if c.pieces else "{}", c.id or "") for c in self._calls)

    def _find(self, piece: CallPiece) -> _Call | None:
        """The call that a piece continues; None = it begins one."""
        if piece.index is not None:
            same = [c for c in self._calls if c.index == piece.index]
        elif piece.id is not None and any(c.id == piece.id for c in self._calls):
            same = [c for c in self._calls if c.id == piece.id]
        else:
            same = self._calls
        last = same[-1] if same else None
        # Without a name it goes on with the call: some servers make up a new id for every piece.
        if last is None or (piece.name and piece.id and piece.id != last.id and (last.id or piece.index is None)):
            return None
        if piece.name and piece.arguments and piece.id is None and _complete(last.arguments):
            return None
        return last


def _joined(name: str, more: str) -> str:
    """A name that comes in pieces, or again with every piece, or grows with every piece."""
    return more if more.startswith(name) else name + more


def _complete(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False

"""The calls of a conversation that no result has answered yet."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class OpenCalls(Generic[T]):
    """Calls by their ids, each with a value of the caller's; any number of them in constant time
    each.

    A result answers the latest open call with its id; one without an id, the oldest open call."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, T]] = {}  # by number, oldest first
        self._by_id: dict[str, list[int]] = {}  # numbers, some of them answered without an id
        self._count = 0

    def add(self, call_id: str, value: T) -> None:
        """A call was made."""
        self._open[self._count] = (call_id, value)
        self._by_id.setdefault(call_id, []).append(self._count)
        self._count += 1

    def answer(self, call_id: str | None) -> T | None:
        """The value of the call that a result answers, which is open no more; None when there is
        none."""
        number = self._latest(call_id) if call_id else next(iter(self._open), None)
        return None if number is None else self._open.pop(number)[1]

    def ids(self) -> list[str]:
        """Of the open calls, oldest first."""
        return [call_id for call_id, _ in self._open.values()]

    def _latest(self, call_id: str) -> int | None:
        numbers = self._by_id.get(call_id, [])
        while numbers:
            number = numbers.pop()
            if number in self._open:
                return number
        return None

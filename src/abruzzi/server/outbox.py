"""Outbox: batched delivery from the engine thread to one event loop.

A call into the loop costs more than a token of a small model does. The first item wakes the loop at
once, and so do urgent ones: a stream's first token, and its end. Other items wait until TICK after
the last delivery and come together (coalescing): a stream is woken a thousand times a second at
most however fast the engine is, and no token waits longer than a TICK. Nothing waits for the
engine: the loop itself looks again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

TICK = 0.001  # seconds
Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """A queue: `put` in one thread; `deliver` is called in the loop's, item by item in their
    order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Item], None]) -> None:
        self.loop = loop
        self._deliver = deliver
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._awake = False  # the loop will look by itself

    def put(self, items: Iterable[Item], urgent: bool = False) -> bool:
        """Hand them over. urgent: not to wait for the end of a TICK.

        False when the loop is closed: nobody listens any more."""
        with self._lock:
            self._items.extend(items)
            wake, self._awake = urgent or not self._awake, True
        try:
            if wake:
                self.loop.call_soon_threadsafe(self._look)
        except RuntimeError:
            return False
        return not self.loop.is_closed()

    def _look(self) -> None:
        with self._lock:
            items, self._items = self._items, []
            self._awake = bool(items)
        for item in items:
            self._deliver(item)
        if items:
            self.loop.call_later(TICK, self._look)

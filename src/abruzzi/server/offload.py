"""Off the event loop: work that is proportional to what a client sent runs in a worker thread once it is large.

What is small runs at once, for a thread costs more than that. The workers are few: each takes its turn with the
interpreter's lock, and the event loop waits for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
SMALL = 16_384  # bytes or characters of input that are worked on at once: some milliseconds
WORKERS = 2


class Offload:
    """A pool of worker threads for one event loop's requests."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="request")

    async def run(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, or raises. size: of its input."""
        if size <= SMALL:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*arguments))


def weight(value: Any, enough: int) -> int:
    """About how many characters a value has as JSON; counting stops at `enough`."""
    total, left = 0, [value]
    while left and total < enough:
        one = left.pop()
        if isinstance(one, str):
            total += len(one) + 2
        elif isinstance(one, dict):
            total += sum(map(len, one)) + 4 * len(one) + 2
            left += one.values()
        elif isinstance(one, (list, tuple)):
            total += len(one) + 2
            left += one
        else:
            total += 4
    return total

"""Off the event loop: work that is proportional to what a client sent runs in a worker thread once
it is large.

What is small runs at once, for a thread costs more than that. The workers are few: each takes its
turn with the interpreter's lock, and the event loop waits for all of them.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
SMALL = 16_384  # bytes or characters of input that are worked on at once: some milliseconds
WORKERS = 2
TURN = 0.0005  # seconds
COLLECT = (50_000, 20, 50)  # 50,000 new containers: about 5 ms; all of them after 50 million


class Offload:
    """A pool of worker threads for one event loop's requests.

    Two settings of the whole process go with it. Threads take turns more often: the event loop
    waits a turn for each of its steps while a worker runs, and an answer takes a dozen of them. And
    the garbage collector looks at new objects in larger numbers, at old ones seldom: while a body
    of 500,000 values was built, each of its six full collections stopped every thread for 0.3 s,
    and found nothing."""

    def __init__(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), TURN))
        gc.set_threshold(*COLLECT)
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

"""News from the engine thread reach the event loop in order, none is lost, and a fast engine wakes
it seldom."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.server import outbox as outbox_module
from abruzzi.server.outbox import TICK, Outbox
from abruzzi.server.sse import joined
from abruzzi.types import ContentDelta, ParserEvent, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart


def test_nothing_is_lost_and_a_fast_sender_is_coalesced() -> None:
    got: list[int] = []
    calls = [0]

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        outbox: Outbox[int] = Outbox(loop, got.append)
        look = outbox._look

        def counted() -> None:
            calls[0] += 1
            look()

        outbox._look = counted  # type: ignore[method-assign]

        def send() -> None:
            for number in range(20_000):
                assert outbox.put([2 * number, 2 * number + 1])
                if number % 5000 == 0:
                    time.sleep(3 * TICK)  # the loop falls asleep, and must be woken again

        thread = threading.Thread(target=send)
        started = time.perf_counter()
        thread.start()
        while len(got) < 40_000:
            await asyncio.sleep(TICK)
            assert time.perf_counter() - started < 20, len(got)
        thread.join()
        assert calls[0] <= 10 + (time.perf_counter() - started) / TICK

    asyncio.run(listen())
    assert got == list(range(40_000))


def test_the_first_news_do_not_wait_and_the_next_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "TICK", 0.2)

    async def listen() -> list[str]:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        outbox: Outbox[str] = Outbox(loop, order.append)
        loop.call_soon(order.append, "before")
        outbox.put(["first"])
        outbox.put(["second"])
        loop.call_soon(order.append, "after")
        await asyncio.sleep(0)
        outbox.put(["third"])
        await asyncio.sleep(0.01)
        order.append("soon")
        await asyncio.sleep(0.4)  # nothing came any more: it fell asleep
        outbox.put(["fourth"])
        await asyncio.sleep(0)
        return order

    assert asyncio.run(listen()) == ["before", "first", "second", "after", "soon", "third", "fourth"]


def test_what_is_urgent_does_not_wait_and_takes_along_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "TICK", 0.2)

    async def listen() -> list[str]:
        order: list[str] = []
        outbox: Outbox[str] = Outbox(asyncio.get_running_loop(), order.append)
        outbox.put(["first"])
        await asyncio.sleep(0)
        outbox.put(["second"])
        await asyncio.sleep(0.01)
        order.append("later")
        outbox.put(["end"], urgent=True)
        await asyncio.sleep(0.01)
        order.append("soon")
        outbox.put(["third"])
        await asyncio.sleep(0.5)
        return order

    assert asyncio.run(listen()) == ["first", "later", "second", "end", "soon", "third"]


def test_a_closed_loop_is_told() -> None:
    async def make() -> Outbox[int]:
        outbox: Outbox[int] = Outbox(asyncio.get_running_loop(), lambda _: None)
        outbox.put([1])
        await asyncio.sleep(0)
        return outbox

    outbox = asyncio.run(make())  # it had news, so it was about to look again
    assert not outbox.put([2]) and not outbox.put([3])


EVENTS = st.one_of(
    st.builds(ReasoningDelta, st.text(min_size=1)),
    st.builds(ContentDelta, st.text(min_size=1)),
    st.builds(ToolCallStart, st.integers(0, 1), st.just("f")),
    st.builds(ToolCallDelta, st.integers(0, 1), st.text(min_size=1)),
    st.builds(ToolCallEnd, st.integers(0, 1)),
)


@given(st.lists(EVENTS))
def test_joined_events_say_the_same_letter_by_letter(events: list[ParserEvent]) -> None:
    def letters(some: tuple[ParserEvent, ...] | list[ParserEvent]) -> list[object]:
        out: list[object] = []
        for event in some:
            if isinstance(event, (ReasoningDelta, ContentDelta)):
                out += [type(event)(c) for c in event.text]
            elif isinstance(event, ToolCallDelta):
                out += [ToolCallDelta(event.position, c) for c in event.text]
            else:
                out.append(event)
        return out

    short = joined(tuple(events))
    assert letters(short) == letters(events)

    def kind(event: ParserEvent) -> object:
        return (type(event), event.position) if isinstance(event, ToolCallDelta) else type(event)

    texts = (ReasoningDelta, ContentDelta, ToolCallDelta)
    assert not any(kind(a) == kind(b) and isinstance(a, texts) for a, b in pairwise(short))

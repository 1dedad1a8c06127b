"""Stop strings: nothing of one is shown whatever the pieces are, in time linear in the text."""

from __future__ import annotations

import time

from hypothesis import example, given
from hypothesis import strategies as st

from abruzzi.engine.stop_strings import StopStrings

texts = st.text("ab", max_size=8)
stops = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple)


def shown_by_the_definition(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], str | None, str]:
    """What is shown piece by piece: all but the longest end that begins a stop string; the slow
    way."""
    shown, pending = [], ""
    for piece in pieces:
        text = pending + piece
        hits = [(text.find(s), n) for n, s in enumerate(stops) if s in text]
        if hits:
            start, which = min(hits)
            return [*shown, text[:start]], stops[which], ""
        keep = max((n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        shown.append(text[: len(text) - keep])
        pending = text[len(text) - keep :]
    return shown, None, pending


@given(st.lists(texts, max_size=8), stops)
@example(["aab", "aab", "aaa"], ("aabaaab", "abaaa"))
def test_what_may_begin_a_stop_string_is_held_back(pieces: list[str], stops: tuple[str, ...]) -> None:
    want, found, pending = shown_by_the_definition(pieces, stops)
    made = StopStrings(stops)
    shown = [made.feed(piece) for piece in pieces]
    assert shown[: len(want)] == want and not any(shown[len(want) :])
    assert made.found == found and made.flush() == pending
    assert made.feed("") == ""


def test_a_long_stop_string_that_almost_comes_costs_no_more_than_its_text() -> None:
    """300,000 characters, each of which could be where it begins; the slow way took minutes."""
    stop = "a" * 300_000 + "b"
    made, begun = StopStrings((stop,)), time.process_time()
    shown = "".join(made.feed("a" * 3000) for _ in range(100)) + made.feed("c" + "a" * 1000)
    assert shown == "a" * 300_000 + "c" and made.flush() == "a" * 1000
    assert time.process_time() - begun < 10

"""Open calls: which call a result answers, compared with a list that is searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from abruzzi.tokenizer.formats.open_calls import OpenCalls

ids = st.sampled_from(["", "a", "b", "c"])


@given(st.lists(st.tuples(st.booleans(), ids | st.none()), max_size=30))
def test_the_latest_with_an_id_is_answered_and_without_an_id_the_oldest(steps: list[tuple[bool, str | None]]) -> None:
    calls, listed = OpenCalls[int](), []
    for number, (made, call_id) in enumerate(steps):
        if made:
            calls.add(call_id or "", number)
            listed.append((call_id or "", number))
            continue
        matching = [entry for entry in listed if entry[0] == call_id][-1:] if call_id else listed[:1]
        for entry in matching:
            listed.remove(entry)
        assert calls.answer(call_id) == (matching[0][1] if matching else None)
        assert calls.ids() == [entry[0] for entry in listed]

"""Packing loses nothing, cuts nothing and makes no target of a segment's first token or of
padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.data.packing import PADDING, Conversation, pack

tokens = st.lists(st.tuples(st.integers(1, 99), st.booleans(), st.booleans()), min_size=1, max_size=20)


def conversation(length: int) -> Conversation:
    return Conversation([1] * length, [True] * length, [False] * length)


@given(st.lists(tokens, max_size=60), st.integers(20, 50), st.integers(1, 5))
def test_every_conversation_comes_out_whole_once(
    given_: list[list[tuple[int, bool, bool]]], length: int, pool: int
) -> None:
    conversations = [Conversation(*map(list, zip(*c))) for c in given_]
    out = []
    for row in pack(conversations, length, pad_id=0, open_rows=pool):
        columns = (row.ids_T, row.sampled_T, row.context_T)
        assert all(x.shape == (length,) for x in (*columns, row.segments_T))
        assert not (row.sampled_T | row.context_T)[row.segments_T == PADDING].any()
        for number in range(row.segments_T.max() + 1):
            (where,) = np.nonzero(row.segments_T == number)
            assert (np.diff(where) == 1).all()
            out.append(tuple(x[where].tolist() for x in columns))
    want = [([*c.ids], [False, *c.sampled[1:]], [False, *c.context[1:]]) for c in conversations]
    assert sorted(out) == sorted(want)


def test_bad_conversations_are_named() -> None:
    with pytest.raises(ValueError, match="21 tokens does not fit a row of 20"):
        list(pack([conversation(21)], 20, 0))
    with pytest.raises(ValueError, match="2 ids but masks of 1 and 2"):
        Conversation([1, 2], [True], [False, False])


def test_rows_are_well_filled() -> None:
    rng = np.random.default_rng(0)
    rows = list(pack([conversation(n) for n in rng.integers(100, 500, 500)], 1024, 0))
    filled = np.mean([(r.segments_T != PADDING).mean() for r in rows])
    assert filled > 0.9

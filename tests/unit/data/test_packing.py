"""Packing loses nothing, cuts nothing and trains on nothing but sampled tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.data.packing import PADDING, pack

conversation = st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=20)


@given(st.lists(conversation, max_size=60), st.integers(20, 50), st.integers(1, 5))
def test_every_conversation_comes_out_whole_once(given_: list[list[tuple[int, bool]]], length: int, pool: int) -> None:
    pairs = [([i for i, _ in c], [s for _, s in c]) for c in given_]
    out = []
    for row in pack(pairs, length, pad_id=0, open_rows=pool):
        assert row.ids_T.shape == row.loss_T.shape == row.segments_T.shape == (length,)
        assert not row.loss_T[row.segments_T == PADDING].any()
        for number in range(row.segments_T.max() + 1):
            (where,) = np.nonzero(row.segments_T == number)
            assert (np.diff(where) == 1).all()
            out.append((row.ids_T[where].tolist(), row.loss_T[where].tolist()))
    want = [(ids, [False, *sampled[1:]]) for ids, sampled in pairs]
    assert sorted(out) == sorted(want)


def test_bad_conversations_are_named() -> None:
    with pytest.raises(ValueError, match="21 tokens does not fit a row of 20"):
        list(pack([([1] * 21, [True] * 21)], 20, 0))
    with pytest.raises(ValueError, match="2 ids but 1"):
        list(pack([([1, 2], [True])], 20, 0))


def test_rows_are_well_filled() -> None:
    rng = np.random.default_rng(0)
    pairs = [([1] * n, [True] * n) for n in rng.integers(100, 500, 500)]
    rows = list(pack(pairs, 1024, 0))
    filled = np.mean([(r.segments_T != PADDING).mean() for r in rows])
    assert filled > 0.9

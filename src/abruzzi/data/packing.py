"""Rows of fixed length from whole conversations: ids, a loss mask and segment numbers.

A conversation is never cut: what does not fit the row waits for the next one. Rows are filled first-fit
over a small pool of open rows, so little padding is left; padding has segment -1 and no loss. Attention
must stay inside a segment (model: `segments_BT`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PADDING = -1


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of length T.

    ids_T int64; loss_T bool: the token at t is a target (it was sampled, and it is not the first of its
    segment); segments_T int32: which conversation, from 0; -1 is padding."""

    ids_T: np.ndarray
    loss_T: np.ndarray
    segments_T: np.ndarray


def pack(
    conversations: Iterable[tuple[Sequence[int], Sequence[bool]]],
    length: int,
    pad_id: int,
    open_rows: int = 8,
) -> Iterator[Row]:
    """Pack (ids, sampled) pairs into rows. Raises ValueError for a conversation longer than a row."""
    rows: list[list[tuple[Sequence[int], Sequence[bool]]]] = []
    room: list[int] = []
    for ids, sampled in conversations:
        if len(ids) != len(sampled):
            raise ValueError(f"{len(ids)} ids but {len(sampled)} mask values; expected one per id")
        if len(ids) > length:
            raise ValueError(f"a conversation of {len(ids)} tokens does not fit a row of {length}; hint: longer rows")
        fitting = next((i for i, free in enumerate(room) if free >= len(ids)), None)
        if fitting is None:
            if len(rows) == open_rows:
                fullest = min(range(len(rows)), key=room.__getitem__)
                yield _row(rows.pop(fullest), length, pad_id)
                room.pop(fullest)
            rows.append([])
            room.append(length)
            fitting = len(rows) - 1
        rows[fitting].append((ids, sampled))
        room[fitting] -= len(ids)
    for left in rows:
        yield _row(left, length, pad_id)


def _row(conversations: list[tuple[Sequence[int], Sequence[bool]]], length: int, pad_id: int) -> Row:
    ids = np.full(length, pad_id, np.int64)
    loss = np.zeros(length, bool)
    segments = np.full(length, PADDING, np.int32)
    at = 0
    for number, (tokens, sampled) in enumerate(conversations):
        end = at + len(tokens)
        ids[at:end], loss[at:end], segments[at:end] = tokens, sampled, number
        loss[at : at + 1] = False  # nothing in the segment predicts its first token
        at = end
    return Row(ids, loss, segments)

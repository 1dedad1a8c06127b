"""Rows of fixed length from whole conversations: ids, two masks and segment numbers.

A conversation is never cut: what does not fit the row waits for the next one. Rows are filled
first-fit over a small pool of open rows, so little padding is left; padding has segment -1 and is
no target. Attention must stay inside a segment (model: `segments_BT`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PADDING = -1


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of length T.

    ids_T int64; sampled_T bool: the token at t is a target because the model would sample it;
    context_T bool: it may be a target as ordinary text (what users and tools said); neither is true
    of the first token of a segment. segments_T int32: which conversation, from 0; -1 is padding."""

    ids_T: np.ndarray
    sampled_T: np.ndarray
    context_T: np.ndarray
    segments_T: np.ndarray

    def document_sizes(self) -> list[int]:
        """Tokens of each conversation in the row; padding is none."""
        return np.bincount(self.segments_T[self.segments_T != PADDING]).tolist()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids and the two masks of `Row`, one entry per token."""

    ids: Sequence[int]
    sampled: Sequence[bool]
    context: Sequence[bool]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.sampled) == len(self.context):
            masks = f"masks of {len(self.sampled)} and {len(self.context)}"
            raise ValueError(f"{len(self.ids)} ids but {masks}; expected one value per id")


def pack(
    conversations: Iterable[Conversation],
    length: int,
    pad_id: int,
    open_rows: int = 8,
) -> Iterator[Row]:
    """Pack conversations into rows. Raises ValueError for a conversation longer than a row."""
    rows: list[list[Conversation]] = []
    room: list[int] = []
    for conversation in conversations:
        size = len(conversation.ids)
        if size > length:
            raise ValueError(f"a conversation of {size} tokens does not fit a row of {length}; hint: longer rows")
        fitting = next((i for i, free in enumerate(room) if free >= size), None)
        if fitting is None:
            if len(rows) == open_rows:
                fullest = min(range(len(rows)), key=room.__getitem__)
                yield _row(rows.pop(fullest), length, pad_id)
                room.pop(fullest)
            rows.append([])
            room.append(length)
            fitting = len(rows) - 1
        rows[fitting].append(conversation)
        room[fitting] -= size
    for left in rows:
        yield _row(left, length, pad_id)


def _row(conversations: list[Conversation], length: int, pad_id: int) -> Row:
    ids = np.full(length, pad_id, np.int64)
    sampled, context = np.zeros(length, bool), np.zeros(length, bool)
    segments = np.full(length, PADDING, np.int32)
    at = 0
    for number, c in enumerate(conversations):
        end = at + len(c.ids)
        ids[at:end], sampled[at:end], context[at:end], segments[at:end] = c.ids, c.sampled, c.context, number
        sampled[at : at + 1] = context[at : at + 1] = False  # nothing in the segment predicts its first token
        at = end
    return Row(ids, sampled, context, segments)

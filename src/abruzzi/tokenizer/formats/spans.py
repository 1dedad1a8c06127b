"""Spans of turns in token ids. Only control tokens open a turn, never text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from abruzzi.tokenizer.bpe import Tokenizer


def assistant_spans(tok: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) of each turn of the assistant in rendered ids, its header included."""
    openers = {before for before, _ in tok.marker_ids.headers.values()}
    starts = [at for at, token_id in enumerate(ids) if token_id in openers]
    for start, end in zip(starts, [*starts[1:], len(ids)]):
        if ids[start] == tok.marker_ids.header("assistant")[0]:
            yield start, end


def first_user(tok: Tokenizer, ids: Sequence[int]) -> int | None:
    """Where the first turn of the user opens; None when there is none."""
    opener = tok.marker_ids.header("user")[0]
    return next((at for at, token_id in enumerate(ids) if token_id == opener), None)


def last_header_end(tok: Tokenizer, ids: Sequence[int]) -> int | None:
    """The place behind the last header of any role; None when there is none."""
    closers = {behind for _, behind in tok.marker_ids.headers.values()}
    return next((at + 1 for at in range(len(ids) - 1, -1, -1) if ids[at] in closers), None)


def assistant_prefix(tok: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
    """What exact prompt ids already say in the assistant's turn: the ids behind the last header.

    Nothing where the last header is another role's, or none is there."""
    start = last_header_end(tok, prompt)
    if start is None:
        return ()
    control = [token_id for token_id in prompt[:start] if token_id in tok.control_ids]
    opened = control[-2:-1] == [tok.marker_ids.header("assistant")[0]]
    return tuple(prompt[start:]) if opened else ()

"""Spans of turns in token ids. Only control tokens open a turn, never text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.tokenizer.formats.format import ABSENT

_LONGEST_ROLE = 16  # tokens of a role that is text


@dataclass(frozen=True, slots=True)
class Turn:
    """start: of the header; body: behind it, None where the header does not end; role: as the format
    names it."""

    start: int
    body: int | None
    role: str


def turns(tok: Tokenizer, ids: Sequence[int]) -> Iterator[Turn]:
    """Every turn in the ids, in order."""
    headers = tok.marker_ids.headers
    openers = {before for before, _ in headers.values()}
    closers = {behind for _, behind in headers.values()} - {ABSENT}
    for start in (at for at, token_id in enumerate(ids) if token_id in openers):
        if not closers:
            yield _of_text(tok, ids, start)
            continue
        ends = (at for at in range(start + 1, len(ids)) if ids[at] in closers or ids[at] in openers)
        end = next(ends, None)
        body = None if end is None or ids[end] not in closers else end + 1
        yield Turn(start, body, next(role for role, (before, _) in headers.items() if before == ids[start]))


def _of_text(tok: Tokenizer, ids: Sequence[int], start: int) -> Turn:
    """Of a format whose headers end in text: the role is the first line."""
    said = ""
    for at in range(start + 1, min(len(ids), start + 1 + _LONGEST_ROLE)):
        if ids[at] in tok.control_ids:
            break
        said += tok.decode([ids[at]])
        if tok.format.headers["system"].close in said:
            return Turn(start, at + 1, said.partition("\n")[0])
    return Turn(start, None, said)


def assistant_spans(tok: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) of each turn of the assistant in rendered ids, its header included."""
    found = [*turns(tok, ids)]
    for turn, end in zip(found, [*(after.start for after in found[1:]), len(ids)]):
        if turn.role == "assistant":
            yield turn.start, end


def first_user(tok: Tokenizer, ids: Sequence[int]) -> int | None:
    """Where the first turn of the user opens; None when there is none."""
    return next((turn.start for turn in turns(tok, ids) if turn.role == "user"), None)


def last_header_end(tok: Tokenizer, ids: Sequence[int]) -> int | None:
    """The place behind the last header of any role; None when there is none."""
    return max((turn.body for turn in turns(tok, ids) if turn.body is not None), default=None)


def assistant_prefix(tok: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
    """What exact prompt ids already say in the assistant's turn: the ids behind the last header.

    Nothing where the last header is another role's, or none is there."""
    last = max((turn for turn in turns(tok, prompt) if turn.body is not None), key=lambda t: t.start, default=None)
    return () if last is None or last.role != "assistant" else tuple(prompt[last.body :])

"""Sampled ids without their thoughts, for a history that is rendered without them."""

from __future__ import annotations

from collections.abc import Sequence

from abruzzi.tokenizer.bpe import Tokenizer
from abruzzi.tokenizer.formats.format import Marker
from abruzzi.tokenizer.formats.parser import ChatParser, State


def ids_without_thought(tok: Tokenizer, ids: Sequence[int], sampled: Sequence[bool]) -> tuple[list[int], list[bool]]:
    """What is left of sampled ids, and of their flags, when every thought is taken out.

    The boundaries are the parser's: an end marker goes with the thought, a call that cut it off
    stays. Where markers are text and one ends inside a token, the rest of that token is the only
    thing that is encoded anew."""
    parser, markers = ChatParser(tok), tok.marker_ids
    kept: list[int] = []
    flags: list[bool] = []
    opened = 0  # where the running thought begins
    for at, (token_id, flag) in enumerate(zip(ids, sampled)):
        before = parser.state
        parser.feed(token_id)
        after = parser.state
        ended = token_id == markers.think_close
        if after is State.THINK:
            if before is not State.THINK:
                opened = at
                if token_id != markers.think_open:  # a spelled marker, and only white space before it
                    kept, flags = [], []
        elif before is not State.THINK:
            kept.append(token_id)
            flags.append(flag)
        elif after is State.TEXT and not ended:
            rest = _behind_marker(tok, ids[opened : at + 1])
            kept += rest
            flags += [flag] * len(rest)
        elif not ended:
            kept.append(token_id)
            flags.append(flag)
    return kept, flags


def _behind_marker(tok: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Ids of the text behind a spelled end of thought."""
    text = tok.decode(ids)
    return tok.encode(text.partition(tok.format.markers[Marker.THINK_CLOSE][0])[2])

"""Text of generated ids where they are no chat: completions, and the stop strings of
`LLM.generate`."""

from __future__ import annotations

import codecs

from abruzzi.engine.stop_strings import StopStrings
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import ContentDelta, Message


class PlainText:
    """Incremental decoder with a ChatParser's methods: every id is text, but the end of the turn.

    Bytes of an unfinished character wait for the next id."""

    in_thinking = False
    reasoning_tokens = 0

    def __init__(self, tok: Tokenizer) -> None:
        self._tok = tok
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> list[ContentDelta]:
        piece = b"" if token_id in self._tok.end_ids else self._tok.token_bytes(token_id)
        text = self._decoder.decode(piece)
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[ContentDelta]:
        text = self._decoder.decode(b"", True)
        return [ContentDelta(text)] if text else []

    def message(self) -> Message:
        return Message("assistant")


class StopSearch:
    """Looks for stop strings in the text of a growing list of ids."""

    def __init__(self, tok: Tokenizer, stops: tuple[str, ...]) -> None:
        self._text, self._stops = PlainText(tok), StopStrings(stops)

    def feed(self, token_id: int) -> bool:
        """Whether the text holds one of them now."""
        if self._stops.stops:
            for event in self._text.feed(token_id):
                self._stops.feed(event.text)
        return self._stops.found is not None

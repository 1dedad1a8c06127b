"""Stop strings over streamed answer text: nothing of a stop string is shown, whatever the pieces
are.

With stop "STOP", the pieces "one ST" and "O, two" come out as "one " and "STO, two".
"""

from __future__ import annotations

from functools import lru_cache


class StopStrings:
    """Feed it text; what may be the beginning of a stop string is held back. Once `found`, no more
    text comes.

    Linear in the text for each stop string, however they repeat (Knuth, Morris, Pratt)."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.found: str | None = None
        self._pending = ""
        self._begun = [0] * len(stops)  # of each, how many of its characters the text ends with

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self.found is not None or not self.stops:
            return "" if self.found is not None else text
        pending, new = self._pending, text
        text = pending + new
        # The earliest hit wins; of two at one place the one that was named first.
        hits = [(at, n) for n, s in enumerate(self.stops) if (at := text.find(s)) >= 0]
        if hits:
            start, which = min(hits)
            self.found, self._pending = self.stops[which], ""
            return text[:start]
        self._begun = [_begun(stop, begun, new) for stop, begun in zip(self.stops, self._begun)]
        keep = max(self._begun)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Text held back that did not become a stop string."""
        pending, self._pending = self._pending, ""
        self._begun = [0] * len(self.stops)
        return pending


def _begun(stop: str, begun: int, text: str) -> int:
    """How many characters of `stop` end a text that ended with `begun` of them and goes on with
    `text`, which does not complete it."""
    at, first = 0, stop[0]
    while at < len(text):
        if not begun:
            at = text.find(first, at)
            if at < 0:
                return 0
            begun = 1
        else:
            borders = _borders(stop)
            while begun and stop[begun] != text[at]:
                begun = borders[begun - 1]
            begun += stop[begun] == text[at]
        at += 1
    return begun


@lru_cache(maxsize=256)
def _borders(stop: str) -> list[int]:
    """For each beginning of a stop string, the length of the longest shorter one that it ends
    with."""
    out, length = [0] * len(stop), 0
    for at in range(1, len(stop)):
        while length and stop[at] != stop[length]:
            length = out[length - 1]
        length += stop[at] == stop[length]
        out[at] = length
    return out

"""Stop strings over streamed answer text: nothing of a stop string is shown, whatever the pieces are.

With stop "STOP", the pieces "one ST" and "O, two" come out as "one " and "STO, two".
"""

from __future__ import annotations


class StopStrings:
    """Feed it text; what may be the beginning of a stop string is held back. Once `found`, no more text comes."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.found: str | None = None
        self._pending = ""

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self.found is not None or not self.stops:
            return "" if self.found is not None else text
        text = self._pending + text
        # The earliest hit wins; of two at one place the one that was named first.
        hits = [(text.find(s), n) for n, s in enumerate(self.stops) if s in text]
        if hits:
            start, which = min(hits)
            self.found, self._pending = self.stops[which], ""
            return text[:start]
        keep = max((n for s in self.stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Text held back that did not become a stop string."""
        pending, self._pending = self._pending, ""
        return pending

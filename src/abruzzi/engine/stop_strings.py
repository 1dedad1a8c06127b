"""Stop strings over streamed answer text: nothing of a stop string is shown, whatever the pieces are."""

from __future__ import annotations


class StopStrings:
    """Feed it text; what may be the beginning of a stop string waits. Once `found`, no more text comes."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.found: str | None = None
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self.found is not None or not self.stops:
            return "" if self.found is not None else text
        text = self._held + text
        # The earliest hit wins; of two at one place the one that was named first.
        hits = [(text.find(s), n) for n, s in enumerate(self.stops) if s in text]
        if hits:
            at, which = min(hits)
            self.found, self._held = self.stops[which], ""
            return text[:at]
        keep = max((n for s in self.stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What waited and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

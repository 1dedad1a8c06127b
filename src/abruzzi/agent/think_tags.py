"""Inline thinking: `<think>...</think>` at the beginning of a streamed content, told apart from the
answer.

Servers without a reasoning parser send a model's thought as part of its content. A tag counts where
nothing but white space and other thoughts stand before it; further back it is text that somebody
wrote about tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from abruzzi.types import ContentDelta, ReasoningDelta

TAGS = {"<think>": "</think>", "<thinking>": "</thinking>", "◁think▷": "◁/think▷"}
# A chat template that opens the thought itself leaves only its end in the content, on a line of its
# own.
_END_ALONE = re.compile(r"(?:\A|\n)(?:</think>|</thinking>|◁/think▷)[ \t]*(?:\n|\Z)")


class ThinkTags:
    """Takes pieces of content, gives deltas. White space at the tags belongs to neither side."""

    def __init__(self) -> None:
        self._held = ""  # may be the beginning of a tag, or white space before one
        self._end: str | None = None  # the tag that closes the open thought
        self._answer = False  # the answer has begun: no tag counts any more
        self._fresh = False  # nothing of this thought came yet
        self._seen = False

    def feed(self, text: str) -> Iterator[ContentDelta | ReasoningDelta]:
        if self._answer:
            yield ContentDelta(text)
            return
        self._held += text
        while self._held and not self._answer:
            before = self._held
            yield from self._in_thought() if self._end else self._before_answer()
            if self._held == before:
                return

    def close(self) -> Iterator[ContentDelta | ReasoningDelta]:
        """What was held back. The content goes on behind it as an answer."""
        text, self._held = self._held, ""
        if text and self._end:
            yield ReasoningDelta(text)
        elif text and not (self._seen and not text.strip()):
            yield ContentDelta(text)
        self._answer = self._answer or self._end is None

    def _before_answer(self) -> Iterator[ContentDelta]:
        bare = self._held.lstrip()
        for tag, end in TAGS.items():
            if bare.startswith(tag):
                self._held, self._end, self._fresh, self._seen = bare[len(tag) :], end, True, True
                return
        if bare and not any(tag.startswith(bare) for tag in TAGS):
            self._answer = True
            text, self._held = bare if self._seen else self._held, ""
            yield ContentDelta(text)

    def _in_thought(self) -> Iterator[ReasoningDelta]:
        assert self._end is not None
        place = self._held.find(self._end)
        if place >= 0:
            text, self._held = self._held[:place].rstrip(), self._held[place + len(self._end) :]
            self._end = None
            text = text.lstrip() if self._fresh else text
        else:
            text = self._held[: len(self._held) - _may_begin(self._held, self._end)].rstrip()
            self._held = self._held[len(text) :]
            if self._fresh:
                text = text.lstrip()
        if text:
            self._fresh = False
            yield ReasoningDelta(text)


def _may_begin(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0)


def split_at_end(content: str) -> tuple[str, str] | None:
    """(thought, answer) of a content that holds the end of a thought, and no beginning; None where
    it does not."""
    found = list(_END_ALONE.finditer(content))
    if len(found) != 1 or any(tag in content for tag in TAGS):
        return None
    return content[: found[0].start()].strip(), content[found[0].end() :].lstrip("\n")

"""Parts of a history that this model cannot read, where refusing them would end the session for
good.

An image in a tool's result stays in the history of every later request. It becomes a short text
that says what was there, is counted (/metrics) and named in a header of the answer. In a user's own
message it stays a 400: there somebody asks about it.
"""

from __future__ import annotations

from typing import Any

from abruzzi.server.fields import Fields

# What the dialects call them; a tool may send others, which are treated alike.
KINDS = (
    *("image", "image_url", "input_image", "document", "file", "input_file"),
    *("audio", "audio_url", "input_audio", "video", "video_url", "resource", "search_result"),
)


def result_part(part: Fields, *text_kinds: str) -> str:
    """A part of a tool's result as text. text_kinds: the types that hold text; the first one may be
    left out."""
    part.ignore_rest()
    kind = part.peek("type")
    if isinstance(kind, str) and kind and kind not in text_kinds:
        return _described(part, kind)
    if part.kind("type", *text_kinds, *KINDS, hint=f"expected {text_kinds[0]}", default=text_kinds[0]) in KINDS:
        return ""  # only where the schema is derived: a part of another kind has returned above
    return part.required_text("text")


def _described(part: Fields, kind: str) -> str:
    source = part.peek("source")  # of a document; of a search result it is a URL
    texts = [source if isinstance(source, dict) else None, part.peek("content"), part.peek("text")]
    inside = next(filter(None, map(_text_inside, texts)), "")
    if inside:
        return inside
    part.drop("type", "tool_result_part", kind)
    what = "".join(c if c.isprintable() else "?" for c in kind[:40])
    media = _media_type(part)
    return f"[{what}{f' ({media})' if media else ''} left out: this model reads text only]"


def _text_inside(value: Any) -> str:
    """The text of a document or of a search result; "" for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, (_text_inside(v.get("text")) for v in value if isinstance(v, dict))))
    if isinstance(value, dict) and value.get("type") in ("text", "content"):
        return _text_inside(value.get("data")) or _text_inside(value.get("content"))
    return ""


def _media_type(part: Fields) -> str:
    source, url = part.peek("source"), part.peek("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    named = source.get("media_type") if isinstance(source, dict) else part.peek("mimeType")
    if named is None and isinstance(url, str) and url.startswith("data:"):
        named = url[5:60].partition(";")[0]
    return named if isinstance(named, str) and named.isascii() and named.isprintable() and len(named) < 60 else ""

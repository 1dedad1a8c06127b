"""POST /tokenize and /detokenize, read, with llama.cpp's and vLLM's fields."""

from __future__ import annotations

from collections.abc import Sequence

from abruzzi.server.dialects.common import model_name
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, required, wrong
from abruzzi.server.service import COUNTED_CHARS, Service

PIECE = 50_000  # ids that are written at once: a few milliseconds
TEXT = "prompt (or content, or messages)"


def read_text(service: Service, body: Fields) -> list[int]:
    """The ids of the text that is given. Raises ApiError that names what is wrong."""
    model_name(service, body)
    field, other = ("content", "prompt") if body.given("content") else ("prompt", "content")
    text = body.required_text(field, missing=TEXT)
    if body.raw(other, {"enum": []}) is not None:
        raise required(TEXT)
    allow_special = body.boolean("parse_special") or False
    for name in ("add_special_tokens", "add_special"):
        body.only(name, False, hint="text is encoded as it is; use messages for a chat's prompt")
    if len(text) > COUNTED_CHARS:
        raise wrong(field, f"text of at most {COUNTED_CHARS:,} characters", f"{len(text):,} of them")
    try:
        return service.tok.encode(text, allow_special=allow_special)
    except ValueError as error:  # a lone surrogate is not valid Unicode
        raise ApiError(400, str(error), field, "invalid_value") from None


def read_ids(service: Service, body: Fields) -> str:
    """The text of the ids that are given. Raises ApiError that names what is wrong."""
    model_name(service, body)
    ids = body.token_ids("tokens", service.llm.vocab_size, need=True)
    try:
        return service.tok.decode(ids)
    except ValueError as error:  # a hole in the vocabulary
        raise ApiError(400, str(error), "tokens", "invalid_value") from None


def ids_json(ids: Sequence[int]) -> bytes:
    """A list of ids as JSON, in pieces, between which other threads run."""
    pieces = (",".join(map(str, ids[at : at + PIECE])) for at in range(0, len(ids), PIECE))
    return f"[{','.join(pieces)}]".encode()

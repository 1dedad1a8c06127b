"""POST /tokenize and /detokenize, read, with llama.cpp's and vLLM's fields."""

from __future__ import annotations

from abruzzi.server.dialects.common import model_name
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, required
from abruzzi.server.service import Service

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
    try:
        return service.tok.encode(text, allow_special=allow_special)
    except ValueError as error:  # a lone surrogate is not valid Unicode
        raise ApiError(400, str(error), field, "invalid_value") from None


def read_ids(service: Service, body: Fields) -> str:
    """The text of the ids that are given. Raises ApiError that names what is wrong."""
    model_name(service, body)
    ids = body.token_ids("tokens", service.tok.vocab_size, need=True)
    try:
        return service.tok.decode(ids)
    except ValueError as error:  # a hole in the vocabulary
        raise ApiError(400, str(error), "tokens", "invalid_value") from None

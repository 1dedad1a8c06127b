"""An OpenAI-compatible endpoint's URL, key and failures, each failure one line with a hint."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import httpx2

from abruzzi.agent.chunk import complaint_in
from abruzzi.network import through
from abruzzi.types import UserError


class EndpointError(UserError):
    """The endpoint is down, slow or does not speak the protocol. The text is one line with a
    hint."""


def api_url(base_url: str) -> str:
    """An endpoint's URL, with /v1. Raises ValueError for what is no http URL."""
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base URL {base_url!r} must start with http:// or https://")
    url = base_url.rstrip("/")
    try:
        if not httpx2.URL(url).host:
            raise ValueError("it names no host")
    except (httpx2.InvalidURL, ValueError) as error:
        raise ValueError(
            f"base URL {base_url!r} is no URL ({error}); hint: expected one like http://127.0.0.1:8420"
        ) from error
    return url if url.endswith("/v1") else url + "/v1"


def bearer(api_key: str | None) -> dict[str, str]:
    """The header of a key. Raises ValueError, which does not show the key, for one that no header
    can hold."""
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("the API key has characters that a header cannot hold; hint: was it copied whole, once?")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def unreachable(where: str, error: Exception) -> str:
    """An exchange that failed on the way."""
    kind, hint = "cannot be reached", "is the server running, is the URL right?"
    if isinstance(error, httpx2.TimeoutException):
        kind = "did not answer in time"
    elif isinstance(error, (httpx2.RemoteProtocolError, httpx2.ReadError)):
        kind, hint = "broke off its answer", "did the server stop? its log may say why"
    way = through(where)
    if way:
        hint = f"is it reached through that proxy? NO_PROXY={urlsplit(where).hostname} asks without it; {hint}"
    return f"{where} {kind}{way} ({type(error).__name__}: {one_line(str(error))}); hint: {hint}"


def refused(where: str, status: int, text: str) -> str:
    """An answer of another status than 200."""
    hint = {401: "check --api-key", 403: "check --api-key", 404: "check the URL and --served-model", 429: "try later"}
    said = complaint(text) or text.strip()
    advice = hint.get(status, "look at the server log")
    return f"{where} answered {status}{through(where)}: {one_line(said)}; hint: {advice}"


def one_line(said: object) -> str:
    """What a server said, without the quotes of `types.brief`, on one line of at most 160
    characters."""
    line = " ".join((said if isinstance(said, str) else repr(said)).split())
    return line if len(line) <= 160 else line[:157] + "..."


def complaint(text: str) -> str | None:
    """What a JSON text says went wrong; None where it is none or says nothing of the kind."""
    try:
        return complaint_in(json.loads(text))
    except (ValueError, RecursionError):
        return None

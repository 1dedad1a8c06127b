"""What a client must be told of a server: asked of the server itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abruzzi.network import client_for
from abruzzi.types import UserError, brief

SECONDS = 10.0


class ServerError(UserError):
    """The server is not there, or does not say what a client needs. One line with a hint."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. url: without /v1; model: the name that requests use; context: tokens of a
    prompt and its answer; key: what clients must send, None = nothing."""

    url: str
    model: str
    context: int
    key: str | None

    @property
    def api(self) -> str:
        """The base URL of OpenAI's dialects."""
        return f"{self.url}/v1"

    @property
    def answer(self) -> int:
        """Tokens that a client may leave to an answer: a quarter of the context."""
        return max(1, self.context // 4)


def ask(url: str, key: str | None, model: str | None = None) -> Server:
    """What a server offers. url: with or without /v1; model: one of those it offers, None = the
    first.

    Raises ServerError when it cannot be reached, wants another key, or offers no such model."""
    base = url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ServerError(f"--url {url!r} must start with http:// or https://")
    offered = _models(base, key)
    names = [m["id"] for m in offered]
    if model is not None and model not in names:
        raise ServerError(f"{base} does not offer model {model!r}; expected one of {', '.join(names)}")
    chosen = offered[0 if model is None else names.index(model)]
    context = chosen.get("max_model_len") or chosen.get("context_length")
    if not isinstance(context, int) or isinstance(context, bool) or context < 1:
        raise ServerError(f"{base} does not say how long the context of {chosen['id']} is (max_model_len)")
    return Server(base, chosen["id"], context, key)


def _models(base: str, key: str | None) -> list[dict[str, Any]]:
    where = f"{base}/v1/models"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with client_for(where, timeout=SECONDS) as http:
            answer = http.get(where, headers=headers)
    except UserError:
        raise
    except Exception as error:
        raise ServerError(
            f"no server answers at {base} ({type(error).__name__}); hint: start one (abruzzi serve), or say where it "
            "is with --url"
        ) from error
    if answer.status_code in (401, 403):
        raise ServerError(f"{base} wants {'another' if key else 'a'} key; hint: --api-key, or ABRUZZI_API_KEY")
    if answer.status_code != 200:
        raise ServerError(f"{where} answered {answer.status_code}; hint: is it a server with OpenAI's API?")
    try:
        offered = answer.json()["data"]
        if not offered or not all(isinstance(m["id"], str) and m["id"] for m in offered):
            raise ValueError("it lists no model")
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{where} does not list models: {brief(answer.text)}") from error
    return offered

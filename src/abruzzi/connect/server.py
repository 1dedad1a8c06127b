"""What a client must be told of a server: asked of the server itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abruzzi.agent.endpoint import EndpointError, api_url, bearer
from abruzzi.connect.connection import Secret
from abruzzi.network import client_for
from abruzzi.types import UserError, brief

SECONDS = 10.0
NO_KEY = "none"  # clients refuse to start without a key; our server takes any where it wants none


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
    def credential(self) -> Secret:
        """What clients are to send as their key."""
        return Secret(self.key or NO_KEY)

    @property
    def answer(self) -> int:
        """Tokens that a client may leave to an answer: a quarter of the context."""
        return max(1, self.context // 4)


def ask(url: str, key: str | None, model: str | None = None) -> Server:
    """What a server offers. url: with or without /v1; model: one of those it offers, None = the
    first.

    Raises ValueError for what is no URL or no key, EndpointError when the server cannot be reached,
    wants another key, or offers no such model."""
    base = api_url(url).removesuffix("/v1")
    offered = _models(base, key)
    names = [m["id"] for m in offered]
    if model is not None and model not in names:
        raise EndpointError(f"{base} does not offer model {model!r}; expected one of {', '.join(names)}")
    chosen = offered[0 if model is None else names.index(model)]
    context = chosen.get("max_model_len") or chosen.get("context_length")
    if not isinstance(context, int) or isinstance(context, bool) or context < 1:
        raise EndpointError(f"{base} does not say how long the context of {chosen['id']} is (max_model_len)")
    return Server(base, chosen["id"], context, key)


def _models(base: str, key: str | None) -> list[dict[str, Any]]:
    where = f"{base}/v1/models"
    headers = bearer(key)
    try:
        with client_for(where, timeout=SECONDS) as http:
            answer = http.get(where, headers=headers)
    except UserError:
        raise
    except Exception as error:
        raise EndpointError(
            f"no server answers at {base} ({type(error).__name__}); hint: start one (abruzzi serve), or say where it "
            "is with --url"
        ) from error
    if answer.status_code in (401, 403):
        raise EndpointError(f"{base} wants {'another' if key else 'a'} key; hint: --api-key, or ABRUZZI_API_KEY")
    if answer.status_code != 200:
        raise EndpointError(f"{where} answered {answer.status_code}; hint: is it a server with OpenAI's API?")
    try:
        offered = answer.json()["data"]
        if not offered or not all(isinstance(m["id"], str) and m["id"] for m in offered):
            raise ValueError("it lists no model")
    except (ValueError, KeyError, TypeError) as error:
        raise EndpointError(f"{where} does not list models: {brief(answer.text)}") from error
    return offered

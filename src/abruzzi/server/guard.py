"""Access control in front of every route: Host, Origin, content type, API key.

A browser on this machine is hostile ground: any page may send requests to localhost. So the Host
header must be ours (DNS rebinding), an Origin must be our own page, a POST must be JSON (a page
cannot send that without asking first, and nobody here answers the question), and there are no CORS
headers. A key, where one is set, is compared in constant time. Binding elsewhere than loopback
without a key is refused at start.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abruzzi.server.errors import ApiError, error_body
from abruzzi.server.sse import to_json

OPEN_PATHS = frozenset({"/health"})  # answered without a key, with less detail
LOOPBACK_NAMES = ("localhost",)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound there."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_key_off_loopback(host: str, api_key: str | None) -> None:
    """Raises ValueError for a server that strangers could use."""
    if api_key is not None and len(api_key) < 8:
        raise ValueError(
            "--api-key has fewer than 8 characters; hint: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if not is_loopback(host) and api_key is None:
        raise ValueError(
            f"--host {host} lets other machines in, so it needs --api-key (or ABRUZZI_API_KEY); "
            "hint: leave --host out to serve this machine only"
        )


class Guard:
    """ASGI middleware that refuses requests. host: where the server is bound.

    hosts: further names under which it is reached. open_paths: served without the key, as
    OPEN_PATHS are."""

    def __init__(
        self,
        app: ASGIApp,
        host: str = "127.0.0.1",
        api_key: str | None = None,
        hosts: Iterable[str] = (),
        open_paths: Iterable[str] = (),
    ) -> None:
        self._app, self._key = app, api_key.encode() if api_key is not None else None
        self._names = frozenset(h.lower() for h in (*LOOPBACK_NAMES, host, *hosts))
        self._open = OPEN_PATHS | frozenset(open_paths)
        self._loopback_only = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise AssertionError(f"no {scope['type']} here")
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
        except ApiError as error:
            body = to_json(error_body(scope["path"], error))
            headers_out = {**error.headers(), "X-Content-Type-Options": "nosniff"}
            response = Response(body, error.status, headers_out, "application/json")
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["authorized"] = self._authorized(headers)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        await self._app(scope, receive, send_safely)

    def _check(self, scope: Scope, headers: Headers) -> None:
        self._check_host(headers)
        self._check_origin(headers)
        if scope["path"] not in self._open and not self._authorized(headers):
            raise ApiError(
                401,
                "this server needs its API key; hint: Authorization: Bearer KEY, or x-api-key: KEY",
                None,
                "invalid_api_key",
            )
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(
                    415, f"content-type {kind!r:.60} is not application/json", None, "unsupported_media_type"
                )

    def _check_host(self, headers: Headers) -> None:
        values = headers.getlist("host")
        name = _host_name(values[0]) if len(values) == 1 else None
        if name is None or not self._may_be_called(name):
            raise ApiError(
                403,
                f"Host {', '.join(values)!r:.80} is not a name of this server; hint: --allowed-host NAME",
                None,
                "wrong_host",
            )

    def _may_be_called(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        # Rebinding needs a name: an address in the URL is what its page's origin would be as well.
        return address.is_loopback or not self._loopback_only

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        own = {f"{scheme}://{headers.get('host', '').lower()}" for scheme in ("http", "https")}
        if origin is not None and origin.lower() not in own:
            raise ApiError(403, f"Origin {origin!r:.80} may not use this server", None, "wrong_origin")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise ApiError(403, "other sites may not use this server", None, "wrong_origin")

    def _authorized(self, headers: Headers) -> bool:
        if self._key is None:
            return True
        return hmac.compare_digest(presented_key(headers).encode("latin-1", "replace"), self._key)


def presented_key(headers: Headers) -> str:
    """The key that a client sent, "" for none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _host_name(host: str) -> str | None:
    """The name in a Host header, lower case, without the port; None when it is malformed."""
    try:
        split = urlsplit(f"//{host}")
        _ = split.port
    except ValueError:
        return None
    if not split.hostname or split.username is not None or split.path or split.query or split.fragment:
        return None
    return split.hostname.lower()

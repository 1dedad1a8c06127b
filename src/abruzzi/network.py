"""Proxies: which one the environment names for a URL, and an HTTP client that says so when it
fails.

`ALL_PROXY`, `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` (or in lower case) mean what they mean to
curl, with one exception: a loopback address is on this machine, so no proxy is ever asked for it.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx2

from abruzzi.types import UserError


class ProxyError(UserError):
    """The environment names a proxy that cannot be used. The text names the variable."""


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine: localhost, 127.0.0.0/8, ::1, or 0.0.0.0 and ::."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def proxy_of(url: str) -> tuple[str, str] | None:
    """(variable, proxy without its password) that the environment names for this URL; None =
    direct."""
    if is_loopback(url):
        return None
    parts = urlsplit(url)
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    bypass = urllib.request.proxy_bypass_environment  # pyright: ignore[reportAttributeAccessIssue]
    if parts.netloc and bypass(parts.netloc.rpartition("@")[2], {"no": exempt}):
        return None
    for kind in (parts.scheme, "all"):
        for name in (f"{kind}_proxy", f"{kind}_PROXY".upper()):
            if value := os.environ.get(name):
                return name, _without_password(value)
    return None


def client_for(url: str, **options: Any) -> httpx2.Client:
    """An httpx2.Client for this URL and others of its host: direct for loopback, else by the
    environment.

    options: of httpx2.Client. Raises ProxyError for a proxy that cannot be used."""
    import httpx2

    if is_loopback(url):
        # Not trust_env=False, which would forget SSL_CERT_FILE as well: with a transport, no proxy
        # is looked up.
        limits = {"limits": options.pop("limits")} if "limits" in options else {}
        return httpx2.Client(transport=httpx2.HTTPTransport(**limits), **options)
    try:
        return httpx2.Client(**options)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        # The library reads every proxy variable, also one that is for other schemes than this
        # URL's.
        named = _unusable() or proxy_of(url)
        if named is None:
            raise
        raise ProxyError(proxy_complaint(named, error)) from error


def proxy_complaint(named: tuple[str, str], error: Exception) -> str:
    """One line about a proxy (variable, value) that the HTTP library refuses."""
    name, value = named
    if isinstance(error, ImportError):
        need = "is a SOCKS proxy, which needs a package that is not installed"
        return f"{name}={value} {need}; hint: pip install 'httpx2[socks]', or unset {name}"
    return (
        f"{name}={value} is no proxy that can be used ({' '.join(str(error).split())}); hint: unset or correct {name}"
    )


def through(url: str) -> str:
    """` through the proxy HTTP_PROXY=...` where the environment names one for this URL, else
    nothing."""
    named = proxy_of(url)
    return "" if named is None else f" through the proxy {named[0]}={named[1]}"


def _unusable() -> tuple[str, str] | None:
    """The first proxy variable that is neither http nor https."""
    for kind in ("all", "https", "http"):
        for name in (f"{kind}_proxy", f"{kind}_PROXY".upper()):
            value = os.environ.get(name) or ""
            if "://" in value and not value.startswith(("http://", "https://")):
                return name, _without_password(value)
    return None


def _without_password(proxy: str) -> str:
    scheme, mark, rest = proxy.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else proxy.rpartition("@")[2]

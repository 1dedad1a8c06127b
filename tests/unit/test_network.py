"""Proxies of the environment: none for this machine, and every failure names the variable."""

from __future__ import annotations

import httpx2
import pytest

from abruzzi.agent.client import EndpointError, HttpChatModel
from abruzzi.network import ProxyError, client_for, is_loopback, proxy_of
from abruzzi.types import Message
from abruzzi.verify.wire import Wire

NAMES = ("all_proxy", "http_proxy", "https_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        *((f"http://{h}:8420/v1", True) for h in ("127.0.0.1", "localhost", "[::1]", "127.9.9.9", "a.localhost")),
        *((f"http://{h}:8420/v1", True) for h in ("0.0.0.0", "[::ffff:127.0.0.1]", "LOCALHOST", "localhost.")),
        *((f"https://{h}/v1", False) for h in ("example.com", "10.0.0.1", "127.0.0.1.example.com", "localhost.com")),
    ],
)
def test_loopback_is_known_in_every_spelling(url: str, is_here: bool) -> None:
    assert is_loopback(url) is is_here


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:9", "nonsense://x", "socks4://x:1"])
@pytest.mark.parametrize("name", [n for n in (*NAMES, *map(str.upper, NAMES)) if n.lower() != "no_proxy"])
def test_loopback_asks_no_proxy_at_all(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str) -> None:
    monkeypatch.setenv(name, proxy)
    for url in ("http://127.0.0.1:1", "https://localhost:1"):
        with pytest.raises(EndpointError, match="cannot be reached") as caught:
            list(HttpChatModel(url, "m").chat([Message("user", "q")]))
        assert "proxy" not in str(caught.value).lower()
        exchange = Wire(url).get("/models")
        assert exchange.status is None and "ConnectError" in (exchange.problem or "")


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy", "HTTP_PROXY"])
def test_a_socks_proxy_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv(name, "socks5://me:secret@127.0.0.1:9")
    for make in (HttpChatModel, lambda url, _: Wire(url)):
        with pytest.raises(ProxyError, match=rf"{name}=socks5://127.0.0.1:9 .*httpx2\[socks\].*unset {name}") as caught:
            make("http://example.test:80", "m")
        assert "secret" not in str(caught.value)


def test_a_proxy_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://127.0.0.1")
    with pytest.raises(ProxyError, match="HTTPS_PROXY=nonsense"):
        client_for("https://example.test")


def test_what_fails_behind_a_proxy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    with pytest.raises(EndpointError, match=r"through the proxy HTTP_PROXY=http://127.0.0.1:9 .*NO_PROXY=") as caught:
        list(HttpChatModel("http://example.test", "m").chat([Message("user", "q")]))
    assert "secret" not in str(caught.value)


def test_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert proxy_of("https://api.example.test/v1") == ("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.test")
    assert proxy_of("https://api.example.test/v1") is None


def test_a_client_for_loopback_still_has_its_options() -> None:
    with client_for("http://127.0.0.1:1", timeout=3.0, limits=httpx2.Limits(max_keepalive_connections=0)) as http:
        assert http.timeout.read == 3.0


@pytest.mark.parametrize("url", ["http://", "http://[::1", "ftp://x", "http://:80"])
def test_a_url_that_is_none_is_refused_with_itself(url: str) -> None:
    for make in (HttpChatModel, lambda url, _: Wire(url)):
        with pytest.raises(ValueError, match="base URL"):
            make(url, "m")


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "“quoted”"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        HttpChatModel("http://127.0.0.1:1", "m", key)
    assert key not in str(caught.value)

"""A connection that never says what it wants, or takes nothing of its answer, is closed; one that
waits for its answer or reads it slowly is not; there are no other protocols."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from abruzzi.server import connection
from abruzzi.server.app import make_app
from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.memory.seal import Seal
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.service import Service, Settings
from tests.unit.server.scripted_engine import saying

PATIENCE = 0.5
GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, socket.socket]]:
    """The scripted model, and a connection to its server, with small buffers on the way."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", PATIENCE)
    monkeypatch.setattr(connection, "STALL_SECONDS", PATIENCE)
    llm: Any = saying("<think>a</think>b[end]")
    engine = EngineThread(llm)
    service = Service(engine, ReasoningStore(), Seal(b"k" * 32), Settings(names=("tiny",), ping_seconds=0.1))
    engine.start()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        config: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none"}
        server = uvicorn.Server(uvicorn.Config(make_app(service), http=connection.Connection, **config))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        client.connect(listener.getsockname())
        llm.service = service
        yield llm, client
        server.should_exit = True
        thread.join(timeout=10)
    engine.stop()


def closed_after(client: socket.socket, bytes_: bytes = b"") -> float:
    """Seconds until the server closes, while a byte of a head is sent now and then."""
    started = time.perf_counter()
    client.settimeout(0.05)
    while True:
        try:
            if bytes_:
                client.sendall(bytes_[:1])
                bytes_ = bytes_[1:]
            if client.recv(4096) == b"":
                return time.perf_counter() - started
        except TimeoutError:
            assert time.perf_counter() - started < 10
        except (ConnectionResetError, BrokenPipeError):
            return time.perf_counter() - started


def test_a_silent_connection_is_closed(served: tuple[Any, socket.socket]) -> None:
    assert PATIENCE * 0.8 < closed_after(served[1]) < PATIENCE + 3


def test_one_that_dribbles_its_head_is_closed(served: tuple[Any, socket.socket]) -> None:
    assert PATIENCE * 0.8 < closed_after(served[1], b"GET /version HTTP/1.1\r\nX: " + b"x" * 1000) < PATIENCE + 3


def test_so_is_one_that_was_answered_before(served: tuple[Any, socket.socket]) -> None:
    client = served[1]
    client.sendall(GET)
    assert b" 200 " in client.recv(4096)
    client.sendall(b"G")
    assert closed_after(client) < 4.5  # its own deadline, not the 5 s of an idle connection


def ask(client: socket.socket, **fields: Any) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)


LONG: dict[str, Any] = {"logprobs": True, "top_logprobs": 3, "max_tokens": 3000}  # some MB


@pytest.mark.parametrize("stream", [True, False])
def test_one_that_takes_nothing_of_its_answer_is_closed(served: tuple[Any, socket.socket], stream: bool) -> None:
    llm, client = served
    llm._script = lambda prompt, number: llm.tokenizer.encode("a") * 3000
    ask(client, stream=stream, **LONG)
    started = time.perf_counter()
    while not llm.prompts or llm.live or llm.service.running or llm.service.engine.open:
        time.sleep(0.01)
        assert time.perf_counter() - started < 30
    time.sleep(4 * PATIENCE)  # a whole answer waits in the connection only
    got = b""
    try:
        while piece := client.recv(65536):
            got += piece
    except ConnectionResetError:
        pass
    assert len(got) < 400_000 and b"[DONE]" not in got  # only what the buffers on the way held


def test_one_that_reads_slowly_gets_it_all(served: tuple[Any, socket.socket]) -> None:
    llm, client = served
    llm._script = lambda prompt, number: llm.tokenizer.encode("a") * 3000
    ask(client, stream=True, **LONG)
    started, got, pause = time.perf_counter(), b"", 4 * PATIENCE
    while b"[DONE]" not in got[-100:]:
        piece = client.recv(65536)
        assert piece, got[-300:]
        got += piece
        if time.perf_counter() - started < pause:
            time.sleep(PATIENCE / 10)
    assert time.perf_counter() - started > pause and len(got) > 400_000


def test_one_that_waits_for_its_answer_is_not(served: tuple[Any, socket.socket]) -> None:
    llm, client = served
    llm.gate.clear()
    ask(client, stream=True)
    time.sleep(3 * PATIENCE)
    llm.gate.set()
    got = b""
    while b"[DONE]" not in got:
        piece = client.recv(4096)
        assert piece, got
        got += piece
    for _ in range(2):  # and the next ones on the same connection
        client.sendall(GET)
        while b" 200 " not in got[-600:]:
            got += client.recv(4096)
        got = b""


def test_a_websocket_is_nothing_that_this_server_speaks(served: tuple[Any, socket.socket]) -> None:
    client = served[1]
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    client.sendall(b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"Sec-WebSocket-Version: 13\r\n\r\n")
    assert client.recv(4096).startswith(b"HTTP/1.1 404")

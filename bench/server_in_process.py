"""For the server's benches: a server of this process on a real socket, and a client process that
does next to nothing.

The client is not the thing that is measured, so it parses nothing: it writes prepared bytes, and
reads until the end of the answer. Run as a program it is that client: one JSON command a line in,
one JSON answer a line out.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Serving:
    """service: server.service.Service, to look inside."""

    service: Any
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(llm: Any, max_sequences: int = 512) -> Iterator[Serving]:
    """What `abruzzi serve` does, over an LLM object, the store in memory, until the block is
    left."""
    import uvicorn

    from abruzzi import kernels
    from abruzzi.cli.serve import _listen
    from abruzzi.server.app import make_app
    from abruzzi.server.connection import Connection
    from abruzzi.server.engine_thread import EngineThread
    from abruzzi.server.memory.seal import Seal
    from abruzzi.server.memory.store import ReasoningStore
    from abruzzi.server.service import Service, Settings

    engine = EngineThread(llm, max_sequences)
    service = Service(engine, ReasoningStore(), Seal(b"k" * 32), Settings(names=(llm.name,), isa=kernels.isa()))
    with _listen("127.0.0.1", 0) as listener:
        quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off"}
        server = uvicorn.Server(uvicorn.Config(make_app(service), http=Connection, ws="none", **quiet))
        engine.start()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="event loop")
        thread.start()
        try:
            yield Serving(service, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(timeout=15)
            engine.stop()


class Client:
    """A process that sends requests one after the other on one kept connection."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, path: str, body: dict[str, Any]) -> tuple[float, str]:
        """Seconds from the first byte sent to the last one read, and the answer's body."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([path, body]) + "\n")
        self._process.stdin.flush()
        seconds, text = json.loads(self._process.stdout.readline())
        return seconds, text

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(port: int) -> int:
    connection = socket.create_connection(("127.0.0.1", port), timeout=600)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for line in sys.stdin:
        path, body = json.loads(line)
        data = json.dumps(body).encode()
        request = HEAD.format(path, len(data)).encode() + data
        started = time.perf_counter()
        connection.sendall(request)
        head, answer = read_answer(connection)
        seconds = time.perf_counter() - started
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{head.decode()}\n{answer.decode()}")
        print(json.dumps([seconds, answer.decode("utf-8", "replace")]), flush=True)
    return 0


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one response; a chunked body without its framing."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, rest = data.partition(b"\r\n\r\n")
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        pieces = [rest]
        while not (pieces[-1] if len(pieces[-1]) > 6 else b"".join(pieces[-3:])).endswith(b"\r\n0\r\n\r\n"):
            pieces.append(_more(connection))
        return head, _unchunked(b"".join(pieces))
    length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(rest) < length:
        rest += _more(connection)
    return head, rest


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection in the middle of an answer")
    return data


def _unchunked(data: bytes) -> bytes:
    out = []
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        out.append(data[:count])
        data = data[count + 2 :]
    return b"".join(out)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))

"""`abruzzi serve` as a process, and a client that leaves: its blocks are free within 100 ms,
streaming or not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import uvicorn

from abruzzi.cli import serve
from abruzzi.engine.llm import LLM
from abruzzi.server.app import make_app
from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.memory.seal import Seal
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.service import Service, Settings
from tests import tiny

ABRUZZI = [sys.executable, "-c", "from abruzzi.cli.main import main; main()"]
HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
USER: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("serve") / "tiny", context=4096)


@pytest.fixture(scope="module")
def process(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    home = tmp_path_factory.mktemp("home")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ABRUZZI_HOME": str(home), "ABRUZZI_API_KEY": "sesame-sesame"}
    command = [*ABRUZZI, "serve", "--model", str(folder), "--port", "0", "--grace", "0.5"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert running.stdout is not None
    line = running.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert match, (line, running.stderr.read() if running.stderr else "")
    yield running, match[0]
    running.kill()
    running.wait()


def test_a_process_that_answers_and_stops_when_told(process: tuple[subprocess.Popen[str], str]) -> None:
    running, url = process
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="sesame-sesame", max_retries=0)
    (model,) = client.models.list().data
    assert model.id == "tiny"
    ask: Any = {
        "model": "tiny",
        "messages": USER,
        "max_tokens": 24,
        "seed": 7,
        "extra_body": {"return_token_ids": True},
    }
    whole: Any = client.chat.completions.create(**ask).choices[0]
    text, ids = "", []
    for chunk in client.chat.completions.create(**ask, stream=True):
        choice: Any = chunk.choices[0]
        text += choice.delta.content or ""
        ids += getattr(choice, "token_ids", None) or []
    assert text == whole.message.content and ids == whole.token_ids
    health = httpx2.get(f"{url}/health", headers={"x-api-key": "sesame-sesame"}).json()
    assert health["isa"] in ("scalar", "avx2", "avx512_vnni") and health["context"] == 4096
    # What runs at a shutdown is finished or told, and then the process ends.
    seen: list[str] = []

    def long_request() -> None:
        body = {"messages": USER, "stream": True, "n": 8, "max_tokens": 4000, "temperature": 0.01}
        with httpx2.stream(
            "POST", f"{url}/v1/chat/completions", json=body, headers={"x-api-key": "sesame-sesame"}
        ) as s:
            for line in s.iter_lines():
                seen.append(line)  # noqa: PERF402 (the main thread watches it grow)

    reader = threading.Thread(target=long_request)
    reader.start()
    while not seen and reader.is_alive():
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=20) == 0
    reader.join(timeout=20)
    last = [line for line in seen if line.startswith("data: ")]
    assert last[-1] == "data: [DONE]"
    assert "finish_reason" in last[-2] or json.loads(last[-2][6:])["error"]["code"] == "shutting_down"


def test_wrong_options_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "ABRUZZI_API_KEY"} | {"ABRUZZI_HOME": str(tmp_path)}

    def refused(*options: str) -> str:
        command = [*ABRUZZI, "serve", "--model", str(folder), *options]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 1 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stderr

    assert "needs --api-key" in refused("--host", "0.0.0.0")
    assert "reasoning_field='x'" in refused("--port", "0", "--reasoning-field", "x")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="hint: --port 0"):
        serve._listen("127.0.0.1", taken.getsockname()[1])
    assert list(tmp_path.iterdir()) == []
    shown = subprocess.run([*ABRUZZI, "serve", "--help"], capture_output=True, text=True, timeout=60).stdout
    assert "Example: abruzzi serve" in shown


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[tuple[Service, int]]:
    """A real engine behind a real socket, in this process, so that its pool can be looked at."""
    engine = EngineThread(LLM.load(folder), max_sequences=64)
    settings = Settings(names=("tiny",), ping_seconds=0.2, body_seconds=0.5)
    service = Service(engine, ReasoningStore(), Seal(b"k" * 32), settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="warning", lifespan="off"))
    engine.start()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield service, listener.getsockname()[1]
    server.should_exit = True
    thread.join(timeout=10)
    engine.stop()
    listener.close()


def send(port: int, path: str, body: Any) -> socket.socket:
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(HEAD.format(path, len(data)).encode() + data)
    return client


def held(service: Service) -> int:
    return service.engine.occupancy().blocks_held


def until(condition: Any, seconds: float) -> float:
    """Seconds until it holds. Raises AssertionError after `seconds`."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < seconds
        time.sleep(0.001)
    return time.perf_counter() - started


LEAVING = [
    ("/v1/chat/completions", {"messages": USER, "stream": True, "n": 4}),
    ("/v1/chat/completions", {"messages": USER, "n": 4}),
    ("/v1/completions", {"prompt": ["a b c"] * 4, "max_tokens": 3000}),
    ("/v1/messages", {"messages": USER, "max_tokens": 3000, "stream": True}),
    ("/v1/responses", {"input": "Hi"}),
]


@pytest.mark.parametrize(("path", "body"), LEAVING)
def test_a_client_that_leaves_frees_its_blocks(live: tuple[Service, int], path: str, body: Any) -> None:
    service, port = live
    took = []
    for _ in range(40):
        wanted = service.metrics.generations + 1
        client = send(port, path, {**body, "temperature": 1.0})
        until(lambda wanted=wanted: service.metrics.generations >= wanted, 10)
        until(lambda: held(service) > 0 or service.engine.open == 0, 10)
        client.close()
        if service.engine.open == 0:
            continue  # random weights had ended it by themselves
        took.append(until(lambda: held(service) == 0 and service.engine.open == 0, 5))
        if len(took) == 3:
            break
    assert min(took) < 0.1, took


def test_a_stream_left_in_the_middle_counts_as_an_abort(live: tuple[Service, int]) -> None:
    service, port = live
    before = service.metrics.aborts
    client = send(port, "/v1/chat/completions", {"messages": USER, "stream": True, "n": 8, "max_tokens": 3500})
    got = b""
    while got.count(b"data: ") < 12:
        got += client.recv(4096)
    client.close()
    until(lambda: held(service) == 0 and not service.running, 5)
    assert service.metrics.aborts > before


def test_pings_and_slow_bodies(live: tuple[Service, int]) -> None:
    service, port = live
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(HEAD.format("/tokenize", 99).encode() + b"{")
    assert b" 408 " in client.recv(4096)
    client.close()
    step, service.llm.step = service.llm.step, lambda: time.sleep(0.01) or []  # type: ignore[method-assign]
    client = send(port, "/v1/chat/completions", {"messages": USER, "stream": True, "max_tokens": 3})
    got = b""
    while b": ping" not in got:
        got += client.recv(4096)
    service.llm.step = step  # type: ignore[method-assign]
    while b"[DONE]" not in got:
        got += client.recv(4096)
    client.close()


def test_many_streams_at_once_lose_and_mix_nothing(live: tuple[Service, int]) -> None:
    """The same requests alone and in a crowd give the same ids."""
    _, port = live
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    def ask(number: int) -> list[int]:
        message = {"role": "user", "content": f"Question {number}"}
        body = {
            "messages": [message],
            "seed": number,
            "max_tokens": 16,
            "return_token_ids": True,
            "stream": number % 2 == 0,
        }
        text = httpx2.post(url, json=body, timeout=60).text
        if number % 2:
            return json.loads(text)["choices"][0]["token_ids"]
        data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        return [i for chunk in data for c in chunk["choices"] for i in c.get("token_ids", [])]

    crowd: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda n=n: crowd.update({n: ask(n)})) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert crowd == {n: ask(n) for n in range(24)}

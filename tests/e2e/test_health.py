"""/health answers while any body is handled: work that is proportional to a client's input blocks
nobody.

The server is a process of its own, and the probes come from another one, so that making a body and
reading its answer does not count.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests import tiny

pytestmark = pytest.mark.alone
ABRUZZI = [sys.executable, "-c", "from abruzzi.cli.main import main; main()"]
USER: Any = {"role": "user", "content": "Hi"}
CALL: Any = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
SECONDS = 0.2  # the 99th percentile of /health

# A probe every 10 ms until its input ends, and 200 at least; prints their seconds, each from when
# it was due: one that waits for a frozen server makes those behind it late, as it would other
# clients.
PROBER = """
import http.client, itertools, json, sys, threading, time
stop, spent = threading.Event(), []
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
print("ready", flush=True)
start = time.perf_counter()
for number in itertools.count():
    if number >= 200 and stop.is_set():
        break
    due = start + 0.01 * number
    time.sleep(max(0, due - time.perf_counter()))
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    spent.append(time.perf_counter() - due)
print(json.dumps(spent))
"""


def text(size: int) -> tuple[str, Any]:
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * size}], "max_tokens": 1}


def words(size: int) -> tuple[str, Any]:
    """Not ASCII, in JSON's escapes, in a system prompt and a thought."""
    turn = {"role": "assistant", "content": "é\n" * (size // 32), "thinking": "ü\t" * (size // 32)}
    return "/v1/chat/completions", {"messages": [USER, turn, USER], "max_tokens": 1}


def messages(size: int) -> tuple[str, Any]:
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 20}] * (size // 60), "max_tokens": 1}


def turns(size: int) -> tuple[str, Any]:
    block = [{"role": "assistant", "content": "y"}, {"role": "user", "content": [{"type": "text", "text": "x" * 100}]}]
    return "/v1/messages", {"model": "tiny", "messages": [USER, *block * (size // 200)], "max_tokens": 1}


def tools(size: int) -> tuple[str, Any]:
    schema = {"type": "object", "properties": {f"p{i}": {"description": "x" * 20} for i in range(size // 52 // 500)}}
    listed = [{"type": "function", "function": {"name": f"f{i}", "parameters": schema}} for i in range(500)]
    return "/v1/chat/completions", {"messages": [USER], "tools": listed, "max_tokens": 1}


def schema(size: int) -> tuple[str, Any]:
    form = {"name": "s", "schema": {"enum": [f"value {i}" for i in range(size // 20)]}}
    return "/v1/chat/completions", {
        "messages": [USER],
        "max_tokens": 1,
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def deep(size: int) -> tuple[str, bytes]:
    return "/v1/chat/completions", b'{"messages":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"


def nested(size: int) -> tuple[str, bytes]:
    """Not deeper than a parser goes, many times."""
    one = b'{"aaaaaaaaaaaaaaaaaa":' * 300 + b"1" + b"}" * 300
    return "/v1/chat/completions", b'{"messages":[' + b",".join([one] * (size // len(one) - 1)) + b"]}"


def small_numbers(size: int) -> tuple[str, bytes]:
    return "/v1/chat/completions", b'{"messages":[' + b"1," * (size // 2 - 10) + b"1]}"


def numbers_within_the_limit(size: int) -> tuple[str, bytes]:
    """As many as are built, with as many digits as make up the size."""
    number = b"1." + b"1" * (size // 480_000 - 3) + b","
    return "/v1/completions", b'{"prompt":[' + number * 480_000 + b"1]}"


def objects_within_the_limit(size: int) -> tuple[str, bytes]:
    entries = b",".join(b'"k%d":{"a":1}' % i for i in range(size // 20 if size < 5_000_000 else 240_000))
    return "/v1/chat/completions", b'{"messages":[{"role":"user","content":"Hi"}],"metadata":{' + entries + b"}}"


def results(size: int) -> tuple[str, Any]:
    """8,000 calls, whose results come in reverse order."""
    count = 8000
    calls = [{"id": f"c{i}", **CALL} for i in range(count)]
    found = [
        {"role": "tool", "tool_call_id": f"c{count - 1 - i}", "content": "1" * (size // count - 190)}
        for i in range(count)
    ]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    return "/v1/chat/completions", {"messages": [USER, asked, *found], "max_tokens": 1}


def arguments(size: int) -> tuple[str, Any]:
    call = {"type": "function", "id": "c", "function": {"name": "f", "arguments": "[" + "[]," * (size // 3) + "0]"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "1"}
    return "/v1/chat/completions", {"messages": [USER, asked, result], "max_tokens": 1}


def stops(size: int) -> tuple[str, Any]:
    return "/v1/chat/completions", {"messages": [USER], "stop": ["It" + "a" * (size // 16)] * 16}


def tokenize(size: int) -> tuple[str, Any]:
    return "/tokenize", {"prompt": "hello wor " * (size // 10)}


def detokenize(size: int) -> tuple[str, bytes]:
    return "/detokenize", b'{"tokens":[' + b"100," * min(size // 4, 490_000) + b"100]}"


def count_tokens(size: int) -> tuple[str, Any]:
    return "/v1/messages/count_tokens", {
        "model": "tiny",
        "messages": [{"role": "user", "content": "ab " * (size // 3)}],
    }


def prompts(size: int) -> tuple[str, Any]:
    return "/v1/completions", {"prompt": ["a" * (size // 64)] * 64, "max_tokens": 1}


def inputs(size: int) -> tuple[str, Any]:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 100}]}
    return "/v1/responses", {"model": "tiny", "input": [item] * (size // 200), "max_output_tokens": 16}


Body = Callable[[int], tuple[str, Any]]
BODIES: list[Body] = [
    text, words, messages, turns, tools, schema, deep, nested, small_numbers, numbers_within_the_limit,
    objects_within_the_limit, results, arguments, stops, tokenize, detokenize, count_tokens, prompts, inputs,
]  # fmt: skip


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("health")
    folder = tiny.write(home / "tiny", context=4096)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ABRUZZI_HOME": str(home / "home")}
    command = [*ABRUZZI, "serve", "--model", str(folder), "--port", "0", "--grace", "0.5"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    assert running.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:(\d+)", running.stdout.readline())
    assert match
    yield int(match[1])
    running.kill()
    running.wait()


def probed(port: int, work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds of the probes that ran beside `work`, ascending, and what it returned."""
    prober = subprocess.Popen(
        [sys.executable, "-c", PROBER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert prober.stdout is not None
    assert prober.stdout.readline() == "ready\n"
    done = work()
    out, _ = prober.communicate(timeout=120)
    return sorted(json.loads(out)), done


def p99(seconds: list[float]) -> float:
    return seconds[-1 - len(seconds) // 100]


def slowest(port: int, body: Body, size: int) -> float:
    """The 99th percentile of probes while a body is handled."""
    path, value = body(size)
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    url, headers = f"http://127.0.0.1:{port}{path}", {"content-type": "application/json"}
    seconds, response = probed(port, lambda: httpx2.post(url, content=data, headers=headers, timeout=120))
    assert len(seconds) >= 200 and response.status_code in (200, 400), response.text[:300]
    return p99(seconds)


# Other processes may take this machine away for a moment; a fault is there every time.
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_health_answers_while_a_body_of_8_mb_is_handled(port: int, body: Body) -> None:
    assert any(slowest(port, body, 8_000_000) < SECONDS for _ in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_health_answers_while_a_body_of_32_mb_is_handled(port: int, body: Body) -> None:
    assert any(slowest(port, body, 32_000_000) < SECONDS for _ in range(3))

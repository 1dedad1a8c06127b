"""Thousands of short requests to a real `abruzzi serve`: no 5xx, nothing lost, every block
returned, memory flat.

    python bench/soak.py [--requests 10000] [--clients 16] [--model nano] [--out FILE]

All dialects, streamed and whole, second turns whose thought was dropped, clients that leave (before
the answer, in the middle of it), requests that are malformed in many ways, and one in a hundred
that is meant to hurt (malicious.py), in a random order from a seed. Every answer is checked: its
status, that it is whole, that the dropped thought was restored, and that a seeded answer is what it
was before the crowd came. /health is asked all the time. Memory is the resident set of the server's
process, sampled; its slope is fitted over the second half of the run. Exit code 1 when a check
failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from machine import describe, emit, output_option
from malicious import KINDS as MALICIOUS
from malicious import malicious

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
ENDS = {CHAT: "data: [DONE]", COMPLETIONS: "data: [DONE]", MESSAGES: "message_stop", RESPONSES: "response.completed"}
SAMPLES = 200
MAX_SLOPE_KIB = 512.0  # per 1000 requests, over the second half
WINDOWS = 10  # of the second half; each is judged by its least sample: the others hold bodies in flight
SHORT, MAX_GROWTH_MIB = 5000, 16.0  # a shorter run only touches its cache for the first time: so much may come
EXPECTED_COMPLAINTS = ("WARNING:  Invalid HTTP request received.",)
NEIGHBOURS = 12
TOOL = {"type": "function", "function": {"name": "calculator", "parameters": {"type": "object", "properties": {}}}}


class Wrong(Exception):
    """An answer that is not what it must be."""


@dataclass(slots=True)
class Answer:
    status: int
    head: str
    body: str
    seconds: float


@dataclass(slots=True)
class Soak:
    """One run. port: of the server. What happened is counted by kind and by status."""

    port: int
    draw: random.Random
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)  # what each neighbour said before the crowd came
    health: list[float] = field(default_factory=list)  # seconds
    hurt: Counter[str] = field(default_factory=Counter)  # answers to what was meant to hurt

    async def run(self, requests: int, clients: int, sample: Callable[[int], None]) -> None:
        """`requests` of them, from `clients` at a time. sample: called with how many are done."""
        done = 0
        every = max(1, requests // SAMPLES)

        async def client() -> None:
            nonlocal done
            while done < requests:
                done += 1
                number = done
                if number % every == 0:
                    sample(number)
                kind = self.draw.choices([k for k, _ in KINDS], [weight for _, weight in KINDS])[0]
                self.kinds[kind.__name__] += 1
                try:
                    await asyncio.wait_for(kind(self, number), 120)
                except (Wrong, OSError, TimeoutError, LookupError, ValueError) as error:
                    self.wrong.append(f"{number} {kind.__name__}: {type(error).__name__} {error}")

        async def probe() -> None:
            while True:
                try:
                    answer = await self.send(get("/health"))
                    self.health.append(self.seconds.pop())
                    if answer.status != 200:
                        raise Wrong(f"status {answer.status}")
                except (Wrong, OSError) as error:
                    self.wrong.append(f"/health: {type(error).__name__} {error}")
                await asyncio.sleep(0.1)

        self.alone = [await say(self, seed) for seed in range(NEIGHBOURS)]
        for number in range(len(MALICIOUS)):  # buffers of many MB are touched for the first time
            await hurts(self, number)
        prober = asyncio.create_task(probe())
        await asyncio.gather(*(client() for _ in range(clients)))
        prober.cancel()

    async def send(self, data: bytes, leave_after: int | None = None) -> Answer:
        """Send bytes, read until the server closes, or leave after so many bytes of the answer."""
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            got = b""
            while leave_after is None or len(got) < leave_after:
                piece = await reader.read(65536)
                if not piece:
                    break
                got += piece
        finally:
            writer.close()
        head, _, body = got.partition(b"\r\n\r\n")
        seconds = time.perf_counter() - started
        status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
        self.statuses["left" if leave_after is not None else str(status)] += 1
        if status >= 500:
            raise Wrong(f"{status}: {body[:300]!r}")
        if leave_after is None:
            self.seconds.append(seconds)
        return Answer(status, head.decode("latin-1").lower(), body.decode("utf-8", "replace"), seconds)

    async def ask(self, path: str, body: Any, want: int = 200, leave_after: int | None = None) -> Answer:
        answer = await self.send(request(path, json.dumps(body).encode()), leave_after)
        if leave_after is None and answer.status != want:
            raise Wrong(f"{path} gave {answer.status}, expected {want}: {answer.body[:300]}")
        return answer


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def request(
    path: str,
    body: bytes,
    kind: str = "application/json",
    length: int | None = None,
    more: Mapping[str, str] | None = None,
) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items())
    return head.encode() + f"Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def question(number: int) -> list[dict[str, Any]]:
    """Different for every request, so that the cache holds no answer to it."""
    text = f"Mia has {number} marbles and buys {number % 89 + 3} more. How many has she?"
    return [{"role": "user", "content": text}]


def body_of(path: str, number: int, tokens: int, **fields: Any) -> dict[str, Any]:
    """A request in the dialect of the path."""
    if path == COMPLETIONS:
        return {"prompt": f"{number} marbles and", "max_tokens": tokens, **fields}
    if path == RESPONSES:
        return {"input": f"What is {number} plus 4?", "max_output_tokens": tokens, **fields}
    return {"messages": question(number), "max_tokens": tokens, **fields}


def dialect(draw: random.Random) -> str:
    return draw.choice((CHAT, CHAT, COMPLETIONS, MESSAGES, RESPONSES))


# what a client does


async def streamed(soak: Soak, number: int) -> None:
    path = dialect(soak.draw)
    more = {"n": soak.draw.choice((1, 1, 3)), "seed": number} if path in (CHAT, COMPLETIONS) else {}
    answer = await soak.ask(path, body_of(path, number, soak.draw.randint(1, 40), stream=True, **more))
    if not re.search(rf"{re.escape(ENDS[path])}|response.incomplete", answer.body[-4000:]):
        raise Wrong(f"{path}: the stream has no end: ...{answer.body[-200:]!r}")


async def whole(soak: Soak, number: int) -> None:
    path = dialect(soak.draw)
    json_of(await soak.ask(path, body_of(path, number, soak.draw.randint(1, 40))))


async def with_tools(soak: Soak, number: int) -> None:
    body = body_of(CHAT, number, 60, tools=[TOOL], temperature=0, stream=soak.draw.random() < 0.5)
    await soak.ask(CHAT, body)


async def constrained(soak: Soak, number: int) -> None:
    """A form that the answer must have: a call, or JSON of a schema."""
    if soak.draw.random() < 0.5:
        fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    else:
        schema = {"type": "object", "properties": {f"n{number % 50}": {"type": "integer"}}}
        schema |= {"required": [*schema["properties"]], "additionalProperties": False}
        fields = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
    choice = json_of(await soak.ask(CHAT, body_of(CHAT, number, 80, **fields)))["choices"][0]
    message = choice["message"]
    if choice["finish_reason"] == "length":
        return
    calls = message.get("tool_calls") or []
    said = [c["function"]["arguments"] for c in calls] if "tools" in fields else [message["content"]]
    if not said or not all(isinstance(json.loads(text), dict) for text in said):
        raise Wrong(f"not of the form that was asked for: {choice}")


async def second_turn(soak: Soak, number: int) -> None:
    """The thought of the first turn is dropped; the server knows it."""
    first = json_of(await soak.ask(CHAT, body_of(CHAT, number, 24)))["choices"][0]
    message = {"role": "assistant", "content": first["message"]["content"]}
    history = [*question(number), message, {"role": "user", "content": "Sure?"}]
    if first["message"].get("tool_calls") or not message["content"]:
        return
    answer = await soak.ask(CHAT, {"messages": history, "max_tokens": 8})
    if "x-abruzzi-reasoning: " not in answer.head or "restored=1" not in answer.head:
        raise Wrong(f"the dropped thought was not restored: {answer.head}")


async def small(soak: Soak, number: int) -> None:
    path, body = soak.draw.choice(
        (
            ("/tokenize", {"prompt": f"marbles {number}"}),
            ("/tokenize", {"messages": question(number)}),
            ("/detokenize", {"tokens": [number % 500, 7, 9]}),
            (f"{MESSAGES}/count_tokens", {"messages": question(number)}),
        )
    )
    json_of(await soak.ask(path, body))


async def looks(soak: Soak, number: int) -> None:
    path = soak.draw.choice(("/health", "/metrics", "/v1/models", "/version", "/"))
    answer = await soak.send(get(path))
    if answer.status != 200:
        raise Wrong(f"{path} gave {answer.status}")


async def leaves(soak: Soak, number: int) -> None:
    """Goes away: at once, after the head, or somewhere in the middle."""
    path = dialect(soak.draw)
    body = body_of(path, number, 400, stream=soak.draw.random() < 0.7, temperature=1.0)
    await soak.ask(path, body, leave_after=soak.draw.choice((0, 1, 300, 900, 3000)))


async def malformed(soak: Soak, number: int) -> None:
    """Must be refused with an error that says why."""
    good = body_of(CHAT, number, 4)
    data, want = soak.draw.choice(
        (
            (request(CHAT, b"{"), 400),
            (request(CHAT, b"[" * 3000), 400),
            (request(CHAT, b'{"messages": "\xff"}'), 400),
            (request(CHAT, json.dumps({**good, "temprature": 1}).encode()), 400),
            (request(CHAT, json.dumps({**good, "temperature": "hot"}).encode()), 400),
            (request(CHAT, json.dumps({**good, "n": 99}).encode()), 400),
            (request(CHAT, json.dumps({**good, "model": "gpt-9"}).encode()), 404),
            (request(CHAT, json.dumps(good).encode(), kind="text/plain"), 415),
            (request(CHAT, json.dumps({"messages": [{"role": "user", "content": "word " * 9000}]}).encode()), 400),
            (request(MESSAGES, json.dumps({"messages": question(number)}).encode()), 400),
            (request(COMPLETIONS, json.dumps({"prompt": [10**9]}).encode()), 400),
            (request(f"/v1/nothing/{number}", b"{}"), 404),
            (request(CHAT, b"{}", length=10**11), 413),
            (b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
            (b"\x16\x03\x01\x02\x00 not http\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000, 400),
        )
    )
    try:
        answer = await soak.send(data)
    except (ConnectionResetError, BrokenPipeError):
        return  # closed on what it did not want to read to the end
    if answer.status not in (want, 0):
        raise Wrong(f"{data[:150]!r} gave {answer.status}, expected {want}: {answer.body[:200]}")


async def breaks_off(soak: Soak, number: int) -> None:
    """Promises a body and leaves in the middle of it."""
    _, writer = await asyncio.open_connection("127.0.0.1", soak.port)
    writer.write(request(dialect(soak.draw), b'{"messages": [', length=5000))
    await writer.drain()
    soak.statuses["broken off"] += 1
    writer.close()


async def say(soak: Soak, seed: int) -> str:
    body = {"messages": [{"role": "user", "content": f"Is {seed} even?"}], "temperature": 1.0, "seed": seed}
    return json.dumps(json_of(await soak.ask(CHAT, {**body, "max_tokens": 40}))["choices"][0]["message"])


async def neighbour(soak: Soak, number: int) -> None:
    """Says with its seed what it said when it was alone."""
    seed = number % NEIGHBOURS
    said = await say(soak, seed)
    if said != soak.alone[seed]:
        raise Wrong(f"seed {seed} says {said[:200]}, alone {soak.alone[seed][:200]}")


async def hurts(soak: Soak, number: int) -> None:
    """Answered or refused, never a failure."""
    path, body, more = malicious(sum(soak.hurt.values()))
    try:
        answer = await soak.send(request(path, body, more=more))
    except (ConnectionResetError, BrokenPipeError):
        soak.hurt["closed"] += 1  # on what the server did not want to read to the end
        return
    soak.hurt[str(answer.status)] += 1
    if answer.status not in (200, 400, 413):
        raise Wrong(f"{path} gave {answer.status}: {answer.body[:200]}")


KINDS: list[tuple[Callable[[Soak, int], Awaitable[None]], float]] = [
    (streamed, 30),
    (whole, 18),
    (with_tools, 6),
    (constrained, 6),
    (second_turn, 6),
    (small, 8),
    (looks, 5),
    (leaves, 15),
    (malformed, 10),
    (breaks_off, 2),
    (neighbour, 6),
    (hurts, 1.13),  # 1 % of all
]


def json_of(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        raise Wrong(f"the answer is no JSON: {answer.body[:200]!r}") from None


# the server


@dataclass(slots=True)
class Server:
    """`abruzzi serve`, as a process."""

    process: subprocess.Popen[str]
    port: int

    def rss_kib(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])

    def handles(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))


def start(model: str, home: str, threads: int | None = None) -> Server:
    """Serve `model` on any free port; what it complains about goes to home/stderr."""
    env = {**os.environ, "ABRUZZI_HOME": home, **({"ABRUZZI_THREADS": str(threads)} if threads else {})}
    command = [str(Path(sys.executable).with_name("abruzzi")), "serve", "--model", model, "--port", "0", "--grace", "1"]
    with (Path(home) / "stderr").open("w") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=env)
    assert process.stdout is not None
    match = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
    if match is None:
        process.kill()
        sys.exit("the server did not start")
    return Server(process, int(match[1]))


async def returned(port: int, seconds: float = 10.0) -> dict[str, float]:
    """What /metrics says once everything has ended, or after `seconds`."""
    probe = Soak(port, random.Random(0))
    deadline = time.monotonic() + seconds
    while True:
        text = (await probe.send(get("/metrics"))).body
        found = dict(re.findall(r"^abruzzi_(\w+) ([\d.e+]+)$", text, re.MULTILINE))
        held = {name: float(found[name]) for name in ("cache_blocks_held", "sequences_open", "sequences_running")}
        if not any(held.values()) or time.monotonic() > deadline:
            names = ("engine_failures_total", "store_failures_total", "aborts_total", "generations_total")
            return held | {name: float(found[name]) for name in names}
        await asyncio.sleep(0.05)


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None, help="of the server's engine")
    given = parser.parse_args(arguments)
    samples: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as home:
        server = start(given.model, home, given.threads)
        try:
            soak = Soak(server.port, random.Random(given.seed))
            asyncio.run(whole(soak, 0))  # opens what is opened once
            handles, threads = server.handles(), server.threads()
            started = time.perf_counter()
            asyncio.run(soak.run(given.requests, given.clients, lambda n: samples.append((n, server.rss_kib()))))
            seconds = time.perf_counter() - started
            left = asyncio.run(returned(server.port))
            time.sleep(0.5)
            opened = server.handles() - handles
            grown_threads = server.threads() - threads
        finally:
            server.process.terminate()
            server.process.wait(timeout=20)
        complaints = Counter((Path(home) / "stderr").read_text().splitlines())
    memory = judge_memory(samples)
    failed = {
        "wrong answers": soak.wrong[:20],
        "not returned": [k for k in ("cache_blocks_held", "sequences_open", "sequences_running") if left[k]],
        "failures": [k for k in ("engine_failures_total", "store_failures_total") if left[k]],
        "memory": [] if memory["flat"] else [memory["slope_kib_per_1000"]],
        "complaints": [line for line in complaints if line not in EXPECTED_COMPLAINTS][:20],
        "open files": [] if opened <= 2 else [opened],
    }
    record = {
        "bench": "soak",
        **describe(threads=given.threads or 0),
        "settings": {k: getattr(given, k) for k in ("model", "requests", "clients", "seed", "threads")},
        "seconds": seconds,
        "requests_by_kind": dict(soak.kinds),
        "answers_by_status": dict(soak.statuses),
        "latency_s": {
            "median": statistics.median(soak.seconds),
            "p99": float(np.quantile(soak.seconds, 0.99)),
            "max": max(soak.seconds),
        },
        "health_s": {
            "probes": len(soak.health),
            "median": statistics.median(soak.health),
            "p99": float(np.quantile(soak.health, 0.99)),
            "max": max(soak.health),
        },
        "answers_to_malicious": dict(soak.hurt),
        "at_the_end": {**left, "more_open_files": opened, "more_threads": grown_threads},
        "complaints": dict(complaints.most_common(5)),
        "memory": memory,
        "failed": {name: what for name, what in failed.items() if what},
        "rss_kib": samples,
    }
    emit(record, given.out)
    return 1 if record["failed"] else 0


def judge_memory(samples: list[tuple[int, int]]) -> dict[str, Any]:
    """Of (requests done, resident KiB): peak, and the slope of the floor over the second half, in
    KiB per 1000 requests: what leaks is there in a window's least sample too."""
    half = samples[len(samples) // 2 :]
    floor = [min(window.tolist(), key=lambda s: s[1]) for window in np.array_split(half, WINDOWS) if len(window)]
    numbers, kib = np.array(floor, float).T
    slope = float(np.polyfit(numbers, kib, 1)[0]) * 1000
    third = max(1, len(floor) // 3)
    growth = float(np.median(kib[-third:]) - np.median(kib[:third])) / 1024
    return {
        "start_mib": samples[0][1] / 1024,
        "middle_mib": half[0][1] / 1024,
        "end_mib": half[-1][1] / 1024,
        "peak_mib": max(k for _, k in samples) / 1024,
        "floor_mib": [k / 1024 for k in kib.tolist()],
        "slope_kib_per_1000": slope,
        "growth_second_half_mib": growth,
        "flat": bool(growth <= MAX_GROWTH_MIB if half[-1][0] < SHORT else slope <= MAX_SLOPE_KIB),
    }


if __name__ == "__main__":
    raise SystemExit(main())

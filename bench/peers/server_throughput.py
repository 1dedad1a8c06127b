"""`abruzzi serve` beside llama.cpp's `llama-server -np 32`, in turns in one run: tok/s of 1, 8 and
32 clients.

    python bench/peers/server_throughput.py --llama-bin DIR --gguf mini.gguf [--model mini] [--out FILE]

README.md beside this says how to build llama.cpp and how the GGUF is made (target `llama-server`).
Both servers are up for the whole run; in a turn one of them gets `clients` clients, each of which
streams one completion after the other. The same prompts of random ids on both sides, different for
every request, so that no cache of prefixes helps anybody; the same number of tokens, which is
checked against what each server counts. Random weights on both sides. --model: a named shape
(random weights in memory), `nano` or a directory (then a GGUF of it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # machine.py and its neighbours

from llama_cpp import make_gguf

from machine import cores, describe, emit, output_option
from server_streams import unchunked
from soak import request
from soak import start as start_abruzzi

SHAPES = ("mini", "moonlight")
SLOTS = 32
START_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--llama-bin", type=Path, default=os.environ.get("LLAMA_BIN"), help="has llama-server")
    parser.add_argument("--gguf", type=Path, help="the same shape; made when not there")
    parser.add_argument("--maker", type=Path, help="make_random_gguf.py, for a GGUF that is not there")
    parser.add_argument("--maker-python", default=sys.executable, help="a Python that has the package gguf")
    parser.add_argument("--model", default="mini", help="mini, moonlight, nano, or a directory")
    parser.add_argument("--weights", default="all-4-bit", help="of a named shape: native, int8-dense, all-4-bit")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128, help="ids")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--requests", type=int, default=2, help="per client and turn")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: no side's sampler costs anything")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        return serve_shape(given)
    if given.llama_bin is None or given.gguf is None:
        parser.error("--llama-bin (or LLAMA_BIN) and --gguf are needed")
    context = given.prompt + given.tokens + 8
    if given.model in SHAPES:
        make_gguf(given.gguf, given.model, given.maker, given.maker_python)
    with abruzzi_server(given) as ours, llama_server(given, context) as theirs:
        rows = compare(given, {"abruzzi": ours, "llama-server": theirs})
    record = {
        "bench": "peers_server_throughput",
        **describe(threads=given.threads),
        "settings": {
            "model": given.model,
            "weights": given.weights if given.model in SHAPES else None,
            **{k: getattr(given, k) for k in ("prompt", "tokens", "temperature", "requests", "rounds")},
            "llama_server": f"-np {SLOTS}, {version(given.llama_bin)}",
            "gguf_bytes": given.gguf.stat().st_size,
        },
        "rows": rows,
    }
    emit(record, given.out)
    for row in rows:
        speeds = "   ".join(f"{name} {row[name]['tok_s']:8.1f} tok/s" for name in ("abruzzi", "llama-server"))
        print(f"{row['clients']:3d} clients   {speeds}   ratio {row['ratio']:.2f}", file=sys.stderr)
    return 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn: tokens per second of all clients together, and seconds to the first token of
    each request."""

    tok_s: float
    ttft: list[float]


def compare(given: argparse.Namespace, ports: dict[str, int]) -> list[dict[str, Any]]:
    """One row per number of clients; the sides take turns within a round."""
    draw = random.Random(7)
    found: dict[tuple[int, str], list[Turn]] = {}
    for number in range(given.rounds + 1):
        for clients in given.clients:
            prompts = [
                [draw.randrange(300, 1000) for _ in range(given.prompt)] for _ in range(clients * given.requests)
            ]
            for name, port in ports.items():
                turn = asyncio.run(one_turn(port, name, prompts, clients, given))
                if number:  # the first round warms up
                    found.setdefault((clients, name), []).append(turn)
    rows = []
    for clients in given.clients:
        row: dict[str, Any] = {"clients": clients}
        for name in ports:
            turns = found[clients, name]
            row[name] = {
                "tok_s": statistics.median(t.tok_s for t in turns),
                "ttft_s_median": statistics.median(s for t in turns for s in t.ttft),
                "tok_s_samples": [t.tok_s for t in turns],
            }
        pairs = zip(found[clients, "abruzzi"], found[clients, "llama-server"])
        ratios = [a.tok_s / b.tok_s for a, b in pairs]
        row["ratio"] = row["abruzzi"]["tok_s"] / row["llama-server"]["tok_s"]
        rows.append({**row, "ratio_of_rounds": [min(ratios), max(ratios)]})
    return rows


async def one_turn(port: int, name: str, prompts: list[list[int]], clients: int, given: argparse.Namespace) -> Turn:
    """`clients` at a time work through the prompts."""
    waiting = list(prompts)
    ttft: list[float] = []

    async def client() -> None:
        while waiting:
            ttft.append(await one_request(port, name, waiting.pop(), given.tokens, given.temperature))

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Turn(len(prompts) * given.tokens / (time.perf_counter() - started), ttft)


async def one_request(port: int, name: str, prompt: list[int], tokens: int, temperature: float) -> float:
    """Stream one completion; the seconds to its first token. Raises SystemExit when it is not as
    long as asked."""
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": temperature}
    body |= {"seed": sum(prompt), "stream": True, "stream_options": {"include_usage": True}}
    if name == "llama-server":
        # Its other samplers off: plain temperature sampling, as on our side. No end token ends an
        # answer.
        body |= {"ignore_eos": True, "cache_prompt": False, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    started, first = time.perf_counter(), 0.0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()
    try:
        writer.write(request("/v1/completions", json.dumps(body).encode()))
        while piece := await reader.read(65536):
            got += piece
            if not first and b"data: " in got:
                first = time.perf_counter() - started
    finally:
        writer.close()
    head, _, rest = bytes(got).partition(b"\r\n\r\n")
    text = (unchunked(rest) if b"chunked" in head.lower() else rest).decode("utf-8", "replace")
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    counted = [e["usage"]["completion_tokens"] for e in events if e.get("usage")]
    if not head.startswith(b"HTTP/1.1 200") or counted[-1:] != [tokens]:
        raise SystemExit(f"{name}: {head[:50]!r} counted {counted} tokens, expected {tokens}: {text[-500:]}")
    return first


# the two servers


@contextmanager
def abruzzi_server(given: argparse.Namespace) -> Iterator[int]:
    """Its port."""
    if given.model not in SHAPES:
        with tempfile.TemporaryDirectory() as home:
            server = start_abruzzi(given.model, home, given.threads)
            try:
                yield server.port
            finally:
                server.process.terminate()
                server.process.wait(timeout=30)
        return
    options = [f"--{k}={getattr(given, k)}" for k in ("model", "weights", "threads", "prompt", "tokens")]
    command = [sys.executable, __file__, "--serve", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    try:
        match = re.search(r"port (\d+)", process.stdout.readline())
        if match is None:
            raise SystemExit("our server did not start")
        yield int(match[1])
    finally:
        process.stdin.close()  # it ends when nobody listens to it any more
        process.wait(timeout=30)


@contextmanager
def llama_server(given: argparse.Namespace, context: int) -> Iterator[int]:
    """Its port. 32 slots with room for a request each."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sizes = ["-np", str(SLOTS), "-c", str(SLOTS * -(-context // 32) * 32), "-t", str(given.threads)]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    command = [str(given.llama_bin / "llama-server"), "-m", str(given.gguf), *sizes, *where]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not healthy(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"llama-server did not start:\n{log.read()[-3000:].decode()}")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=30)


def healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


def version(folder: Path) -> str:
    """What llama-server says it is."""
    done = subprocess.run([str(folder / "llama-server"), "--version"], capture_output=True, text=True)
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith(("version", "built"))]
    return "; ".join(lines)


def serve_shape(given: argparse.Namespace) -> int:
    """Our server over random weights of a named shape, until stdin ends."""
    from abruzzi import tokenizer
    from abruzzi.engine.llm import LLM
    from abruzzi.engine.weights.random_model import named_shape, random_model
    from abruzzi.tokenizer.train import train_words
    from server_in_process import serving

    config = named_shape(given.model)
    made = random_model(config, given.weights, threads=given.threads)
    # Every id is some word, so that whatever random weights say has a text.
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = (a + b + c + d for a in letters for b in letters for c in letters for d in letters)
    text = " ".join(word for word, _ in zip(words, range(config.vocab_size)))
    tok = tokenizer.from_json(train_words([text], config.vocab_size))
    tok.end_ids = frozenset()  # random weights say such a token by chance; the peer is told to ignore them too
    room = 2 * SLOTS * (given.prompt + given.tokens + 32)
    llm = LLM(config, made.runner, tok, given.model, cache_tokens=room)
    with serving(llm) as server:
        print(f"port {server.port}", flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

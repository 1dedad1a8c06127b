"""What HTTP costs over the bare engine at one stream: milliseconds a request, microseconds a token.

    python bench/server_overhead.py [--model nano] [--tokens 200] [--rounds 15] [--threads 1] [--out FILE]

The engine alone (ids in, ids out) and the server (over a socket, the client a process of its own)
take turns in one run: the same engine, prompt and number of tokens; as nano's answers are short,
the seed is searched that gives the longest. Per request: answers of one token, HTTP minus engine.
Per token: what each further token costs over HTTP, minus what it costs the engine. Medians over
rounds.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import abruzzi
from abruzzi.engine.llm import LLM
from abruzzi.types import SamplingParams
from machine import describe, emit, output_option
from server_in_process import Client, Serving, serving

WANTED_REQUEST_MS = 1.0
WANTED_TOKEN_US = 60.0
CHAT = "/v1/chat/completions"
QUESTION = "Tell me what you know about the sea, mountains and rivers, 17, 23, 4 and 5."
SEEDS_TRIED = 100


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=200, help="of the long answers, about")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    given = parser.parse_args(arguments)
    path = abruzzi.nano_path() if given.model == "nano" else Path(given.model)
    llm = LLM.load(path, threads=given.threads)
    with serving(llm) as server, Client(server.port) as client:
        result = measure(llm, server, client, given.tokens, given.rounds)
    record = {
        "bench": "server_overhead",
        **describe(threads=given.threads),
        "settings": {"model": llm.name, "tokens_wanted": given.tokens, "rounds": given.rounds, "streams": 1},
        **result,
        "wanted": {"request_ms": WANTED_REQUEST_MS, "token_us": WANTED_TOKEN_US},
    }
    emit(record, given.out)
    return 0


def measure(llm: LLM, server: Serving, client: Client, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of every kind of call, and what follows from them."""
    long, tokens = a_long_answer(client, llm.name, tokens)
    prompt = json.loads(client.ask("/tokenize", {"messages": long["messages"]})[1])["tokens"]
    calls = {
        "engine 1": lambda: bare(llm, prompt, 1),
        "stream 1": lambda: client.ask(CHAT, {**long, "stream": True, "max_tokens": 1})[0],
        "whole 1": lambda: client.ask(CHAT, {**long, "max_tokens": 1})[0],
        "engine n": lambda: bare(llm, prompt, tokens),
        "stream n": lambda: client.ask(CHAT, {**long, "stream": True})[0],
        "whole n": lambda: client.ask(CHAT, long)[0],
    }
    took: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            for _ in range(8 if name.endswith("1") else 1):
                before = time.process_time()
                seconds = call()
                if number:  # the first round warms up
                    took[name].append(seconds)
                    cpu[name].append(time.process_time() - before)
    assert server.service.engine.open == 0 and server.service.engine.occupancy().blocks_held == 0
    wall = {name: statistics.median(s) for name, s in took.items()}
    busy = {name: statistics.median(s) for name, s in cpu.items()}
    engine_token = (wall["engine n"] - wall["engine 1"]) / (tokens - 1)
    return {
        "tokens": tokens,
        "engine_token_us": engine_token * 1e6,
        "engine_tok_s": 1 / engine_token,
        **{f"{kind}_overhead": overhead(wall, kind, tokens) for kind in ("stream", "whole")},
        # What this process computes, client not counted: it does not feel what else runs on the
        # machine, and it is more than the wall time that HTTP costs where the event loop works
        # beside the engine.
        **{f"{kind}_overhead_cpu": overhead(busy, kind, tokens) for kind in ("stream", "whole")},
        "median_s": wall,
        "median_cpu_s": busy,
        "samples_s": took,
    }


def overhead(middle: dict[str, float], kind: str, tokens: int) -> dict[str, float]:
    """HTTP minus engine, of medians in seconds."""
    tail, engine_tail = middle[f"{kind} n"] - middle[f"{kind} 1"], middle["engine n"] - middle["engine 1"]
    return {
        "request_ms": (middle[f"{kind} 1"] - middle["engine 1"]) * 1e3,
        "token_us": (tail - engine_tail) / (tokens - 1) * 1e6,
    }


def bare(llm: LLM, prompt: list[int], tokens: int) -> float:
    """Seconds for so many tokens of the engine alone; no end token ends it early."""
    started = time.perf_counter()
    sequence = llm.submit(prompt, SamplingParams(temperature=1.0, seed=1, max_tokens=tokens))
    sequence.ends = frozenset()
    while sequence.finish_reason is None:
        llm.step()
    return time.perf_counter() - started


def a_long_answer(client: Client, name: str, wanted: int) -> tuple[dict[str, Any], int]:
    """A request that the model answers at length, and the number of its tokens: the first seed that
    reaches `wanted`, else the longest of all that were tried."""
    best: tuple[dict[str, Any], int] = ({}, 0)
    for seed in range(SEEDS_TRIED):
        body = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 1.0, "seed": seed}
        count = json.loads(client.ask(CHAT, body)[1])["usage"]["completion_tokens"]
        if count > best[1]:
            best = (body, count)
        if count >= wanted:
            break
    return best


if __name__ == "__main__":
    raise SystemExit(main())

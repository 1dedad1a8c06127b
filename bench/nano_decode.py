"""How fast nano answers on one core: decode tok/s beside transformers, and process start to first
token.

    python bench/nano_decode.py [--model DIR] [--tokens 200] [--out FILE]

Decode: greedy continuation of one prompt with a fixed number of tokens, both sides bound to the
same core, turns taken, medians; the peer is transformers' DeepseekV3 with its KV cache in bfloat16
and in float32, whichever is faster counts. First token: whole processes of `abruzzi run`, from fork
to the first byte of the thought on a terminal (a pty), also with the page cache dropped where that
is allowed.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import abruzzi
from abruzzi import tokenizer
from abruzzi.tasks import examples
from machine import describe, emit, output_option

WANTED_TOK_S = 150.0
WANTED_START_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    if not hasattr(os, "sched_getaffinity"):
        parser.error(
            "one core each is asked of this system's scheduler, which knows no affinity; hint: run it on Linux"
        )
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    path = abruzzi.nano_path() if given.model == "nano" else Path(given.model)
    question = examples()[0].prompt
    starts = [first_token(given.model, question) for _ in range(given.repeats)]
    cold = [first_token(given.model, question) for _ in range(3) if drop_page_cache()]
    decoded = decode_rates(path, question, given.tokens, given.repeats)
    ours = statistics.median(decoded.pop("abruzzi"))
    peers = {name: statistics.median(rates) for name, rates in decoded.items()}
    result = {
        "bench": "nano_decode",
        **describe(threads=1),
        "settings": {"tokens": given.tokens, "repeats": given.repeats, "batch": 1, "temperature": 0},
        "decode_tok_s": ours,
        "wanted_decode_tok_s": WANTED_TOK_S,
        "peer_tok_s": peers,
        "ratio_to_best_peer": ours / max(peers.values()) if peers else None,
        "start_to_first_token_s": {"median": statistics.median(starts), "samples": starts},
        "start_to_first_token_cold_s": {"median": statistics.median(cold), "samples": cold} if cold else None,
        "wanted_start_s": WANTED_START_S,
    }
    emit(result, given.out)
    return 0


def decode_rates(path: Path, question: str, tokens: int, repeats: int) -> dict[str, list[float]]:
    """tok/s of each side, in turns, so that noise of the machine meets all alike."""
    llm = abruzzi.load(path)
    ids = tokenizer.render(llm.tokenizer, [{"role": "user", "content": question}]).ids
    sides: dict[str, Callable[[], float]] = {"abruzzi": lambda: own_rate(llm, ids, tokens)}
    try:
        sides |= transformers_sides(path, ids, tokens)
    except ImportError:
        print("transformers or torch is not installed: no peer", file=sys.stderr)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, side in sides.items():
            rate = side()
            if number:  # the first round warms up
                rates[name].append(rate)
    return rates


def own_rate(llm: Any, ids: list[int], tokens: int) -> float:
    """Decode only: every token costs the same loop that `generate` runs, end tokens ignored."""
    sequence = llm.submit(ids, abruzzi_params(tokens))
    sequence.ends = frozenset()
    stream = llm._tokens(sequence)
    next(stream)
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return count / (time.perf_counter() - start)


def abruzzi_params(tokens: int) -> Any:
    from abruzzi.types import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=tokens)


def transformers_sides(path: Path, ids: list[int], tokens: int) -> dict[str, Callable[[], float]]:
    import torch
    import transformers

    from abruzzi import model as k2
    from abruzzi.checkpoint import save_checkpoint

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    sides: dict[str, Callable[[], float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        ours = k2.load(path)
        weights = {n: t.float().numpy() for n, t in ours.state_dict().items()}
        save_checkpoint(plain, replace(ours.config, quantization_config=None), weights, int4=False)
        for dtype in (torch.bfloat16, torch.float32):
            model = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=dtype).eval()
            sides[f"transformers {str(dtype).removeprefix('torch.')}"] = lambda model=model: their_rate(
                model, ids, tokens
            )
    return sides


def their_rate(model: Any, ids: list[int], tokens: int) -> float:
    import torch

    with torch.inference_mode():
        out = model(torch.tensor([ids]), use_cache=True)
        cache, token = out.past_key_values, out.logits[:, -1].argmax(-1)
        start = time.perf_counter()
        for _ in range(tokens - 1):
            out = model(token[:, None], past_key_values=cache, use_cache=True)
            cache, token = out.past_key_values, out.logits[:, -1].argmax(-1)
        return (tokens - 1) / (time.perf_counter() - start)


def first_token(model: str, question: str) -> float:
    """Seconds from starting `abruzzi run` to the first byte of what it thinks, on a terminal."""
    master, slave = pty.openpty()
    command = [str(Path(sys.executable).with_name("abruzzi")), "run", "--model", model, "--max-tokens", "8", question]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, close_fds=True)
    os.close(slave)
    os.read(master, 1)
    seconds = time.perf_counter() - start
    while process.poll() is None:
        try:
            os.read(master, 4096)
        except OSError:
            break
    process.wait()
    os.close(master)
    return seconds


def drop_page_cache() -> bool:
    """Forget what is cached of every file, so that the next start reads from disk. True where
    allowed."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())

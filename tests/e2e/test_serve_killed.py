"""kill -9 while a server streams and writes: the next one over the same folder puts back the
thoughts of before."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2

ABRUZZI = [sys.executable, "-c", "from abruzzi.cli.main import main; main()"]
CHAT = "/v1/chat/completions"


def start(home: Path) -> tuple[subprocess.Popen[str], str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ABRUZZI_THREADS": "1", "ABRUZZI_HOME": str(home)}
    command = [*ABRUZZI, "serve", "--model", "nano", "--port", "0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert running.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", running.stdout.readline())
    assert match
    return running, match[0]


def question(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Mia has {number} marbles and buys 30 more. How many has she?"}]


def second_turn(url: str, number: int, answer: str) -> tuple[str, list[int]]:
    """What became of the thought that this client does not send back, and the prompt that was made
    of it."""
    history = [*question(number), {"role": "assistant", "content": answer}, {"role": "user", "content": "Sure?"}]
    body = {"messages": history, "max_tokens": 1, "return_token_ids": True}
    got = httpx2.post(url + CHAT, json=body, timeout=60)
    return got.headers["x-abruzzi-reasoning"], got.json()["prompt_token_ids"]


def test_a_killed_server_loses_no_thought(tmp_path: Path) -> None:
    running, url = start(tmp_path)
    answers = {}
    for number in range(12, 20):
        body = {"messages": question(number), "max_tokens": 60, "seed": number}
        answers[number] = httpx2.post(url + CHAT, json=body, timeout=60).json()["choices"][0]["message"]
    assert all(a["reasoning_content"] and a["content"] for a in answers.values())
    before = {number: second_turn(url, number, a["content"]) for number, a in answers.items()}

    seen = threading.Event()

    def crowd(number: int) -> None:  # their turns are being sampled and written when it is killed
        try:
            while True:
                body = {"messages": question(number), "stream": True, "max_tokens": 40}
                with httpx2.stream("POST", url + CHAT, json=body, timeout=60) as stream:
                    for _ in stream.iter_lines():
                        seen.set()
        except httpx2.HTTPError:
            return

    threads = [threading.Thread(target=crowd, args=(100 + n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    assert seen.wait(30)
    running.send_signal(signal.SIGKILL)
    running.wait()
    for thread in threads:
        thread.join(30)

    running, url = start(tmp_path)
    try:
        after = {number: second_turn(url, number, a["content"]) for number, a in answers.items()}
        unknown, ids = second_turn(url, 999, "She has 1029 marbles.")
        metrics = httpx2.get(url + "/metrics").text
    finally:
        running.terminate()
        running.wait(20)
    assert all("restored=1" in state for state, _ in after.values()), after
    assert after == before  # to the last id of the prompt
    assert "restored=0" in unknown and "absent=1" in unknown and ids
    assert re.search(r"^abruzzi_store_failures_total 0$", metrics, re.MULTILINE)

"""Ctrl-C ends with 130 wherever it lands: 25 interrupts each of run, chat, pull and train, at
random moments.

SIGINT goes out at a moment drawn between the first import of the command line and its end, as long
as an undisturbed run takes, while another process keeps the machine busy. An interrupt that comes
after the program's end changes nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny

# A byte on the pipe says that our code has begun: before it, Python itself is starting.
CODE = """
import os, sys
from abruzzi.cli import interrupts
os.write(int(sys.argv.pop(1)), b"x")
from abruzzi.cli.main import main
main()
"""
TIMES = 25
COMMANDS = {
    "run": ["run", "Calculate 69 - 21 + 39."],
    "chat": ["chat"],
    "pull": ["pull", "org/tiny"],
    "train": ["train", "sft", "--data", "mine.jsonl", "--from", "m", "--set", "steps=2", "--set", "row_length=128"],
}


def obey_ctrl_c() -> None:
    """In a child: whoever runs the tests may ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """The command, at the moment at which our first import is over."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    ours, its = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(its), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[its],
        preexec_fn=obey_ctrl_c,
        cwd=folder,
        env={
            **os.environ,
            "HF_HOME": str(folder / "hf"),
            "ABRUZZI_HOME": str(folder),
            "HF_ENDPOINT": "http://127.0.0.1:9",
        },
        text=True,
    )
    os.close(its)
    assert process.stdin is not None
    process.stdin.write("Calculate 69 - 21 + 39.\n" * 9 if arguments[0] == "chat" else "")
    process.stdin.flush()
    os.read(ours, 1)
    os.close(ours)
    return process


def undisturbed(arguments: list[str], folder: Path, ends: int) -> float:
    """Seconds that the command takes after its first import, when it ends as it should."""
    process = start(arguments, folder)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert process.returncode == ends, err
    return time.monotonic() - began


def interrupted(arguments: list[str], after: float, folder: Path) -> tuple[int, str]:
    """(exit code as a shell tells it, stderr) of the command, interrupted so many seconds after its
    first import."""
    process = start(arguments, folder)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    code = process.returncode
    return (128 - code if code < 0 else code), err


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_at_any_moment_ends_with_130(name: str, tmp_path: Path) -> None:
    tiny.write(tmp_path / "m")
    turns = [{"role": "user", "content": "Calculate 1 + 2."}, {"role": "assistant", "content": "It is 3."}]
    (tmp_path / "mine.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 20)
    over = {"run": 0, "chat": 0, "pull": 1, "train": 0}[name]
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    rng = random.Random(name)
    try:
        whole = undisturbed(COMMANDS[name], tmp_path, over)
        print(f"{name} takes {whole:.1f} s")
        ends = []
        for _ in range(TIMES):
            after = rng.uniform(0, whole)
            code, err = interrupted(COMMANDS[name], after, tmp_path)
            ends.append((code, round(after, 3), err[-300:]))
    finally:
        busy.kill()
        busy.wait()
    # A command that was over before its signal ends as it would have.
    odd = [end for end in ends if end[0] != 130 and not (end[0] == over and "Traceback" not in end[2])]
    odd += [end for end in ends if "Traceback" in end[2] or "Exception ignored" in end[2]]
    assert not odd
    assert sum(end[0] == 130 for end in ends) > TIMES // 3


def test_an_interrupt_that_a_callback_drops_is_raised_again() -> None:
    code = """
import signal, sys, time, weakref
from abruzzi.cli import interrupts
class Thing: pass
thing = Thing()
keep = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
try:
    del thing
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130 if interrupts.seen() else 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=obey_ctrl_c, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr) == (130, "")

"""What every bench record says of the machine and the code: commit, CPU, instruction set,
threads."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def describe(threads: int) -> dict[str, Any]:
    """The header of a record."""
    from abruzzi.kernels import isa

    return {
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "isa": isa(),
        "threads": threads,
        "python": platform.python_version(),
    }


def cores() -> int:
    """How many this process may use; macOS knows no affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    call()
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return samples


def output_option(description: str | None) -> argparse.ArgumentParser:
    """A parser with --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="also write the JSON here")
    return parser


def emit(result: dict[str, Any], out: Path | None) -> None:
    """Print a record, and write it where asked."""
    text = json.dumps(result, indent=1)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return (done.stdout.strip() or "unknown") + ("+changes" if changed.stdout.strip() else "")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

"""A short soak and a small crowd, by the benches' own scripts: they exit with 1 when a check of
theirs fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def run(script: str, out: Path, *options: str) -> dict:
    command = [sys.executable, str(BENCH / script), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert out.is_file(), done.stderr[-2000:]
    record = json.loads(out.read_text())
    assert done.returncode == 0, record["failed"]
    return record


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    # Half of them touch the whole of the cache for the first time; the other half must not grow any
    # more.
    record = run("soak.py", tmp_path / "soak.json", "--requests", "1000", "--threads", "1")
    assert record["at_the_end"]["cache_blocks_held"] == 0 and record["at_the_end"]["aborts_total"] > 0
    assert sum(record["requests_by_kind"].values()) == 1000 and len(record["requests_by_kind"]) == 12


@pytest.mark.slow
def test_a_small_crowd_of_streams_loses_and_mixes_nothing(tmp_path: Path) -> None:
    record = run("server_streams.py", tmp_path / "streams.json", "--streams", "96", "--tokens", "32")
    assert record["compared"] == 96 and record["ids_compared"] > 500 and record["ttft_s"]["p99"] > 0

"""A short soak and a small crowd, by the benches' own scripts: they exit with 1 when a check of
theirs fails."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("soak", BENCH / "soak.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules["soak"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCH))
    return module


@pytest.mark.parametrize(
    ("leak", "spikes", "flat"),
    [(0, 0, True), (0, 60_000, True), (1024, 0, False), (1024, 60_000, False), (600, 60_000, False)],
)
def test_memory_is_judged_by_what_stays_and_not_by_what_is_in_flight(
    soak: ModuleType, leak: int, spikes: int, flat: bool
) -> None:
    draw = random.Random(leak + spikes)
    samples = [(n, 300_000 + leak * n // 1000 + draw.choice((0, 0, spikes))) for n in range(50, 10_001, 50)]
    judged = soak.judge_memory(samples)
    assert judged["flat"] is flat and judged["slope_kib_per_1000"] == pytest.approx(leak, abs=20)
    assert judged["peak_mib"] == max(kib for _, kib in samples) / 1024


@pytest.mark.parametrize(("grown_mib", "flat"), [(0, True), (8, True), (40, False)])
def test_a_short_run_is_judged_by_how_much_it_grew(soak: ModuleType, grown_mib: int, flat: bool) -> None:
    samples = [(n, 100_000 + (grown_mib * 1024 if n > 750 else 0)) for n in range(5, 1001, 5)]
    assert soak.judge_memory(samples)["flat"] is flat

"""kill -9 in the middle of a write, a log that was cut anywhere, a full disk: the store opens,
older turns are there to the last id, half-written ones are absent, and nothing that it gives back
is wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abruzzi.server.memory.seal import SampledTurn
from abruzzi.server.memory.store import ReasoningStore

SCOPE = b"s" * 16
WRITER = """
import sys
from pathlib import Path
from tests.unit.server.test_store_killed import SCOPE, call_ids, turn
from abruzzi.server.memory.store import ReasoningStore
store = ReasoningStore(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10**6):
    store.put(SCOPE, turn(number), call_ids(number))
    print(number, flush=True)
"""


def turn(number: int) -> SampledTurn:
    """A turn that nothing else could be; some fill many pages of the file."""
    draw = random.Random(number)
    count = draw.choice((3, 200, 9000))
    ids = tuple(draw.randrange(160_000) for _ in range(count))
    return SampledTurn(draw.randbytes(16), draw.randbytes(16), ids, tuple(i % 3 > 0 for i in ids), number % 5 > 0)


def call_ids(number: int) -> list[str]:
    return [f"call_{number}_{k}" for k in range(number % 4)]


def known(store: ReasoningStore, number: int) -> bool:
    """Whether the turn is there, the whole of it, under every name; AssertionError for half of one
    or a wrong one."""
    want = turn(number)
    found = [store.by_said(SCOPE, want.prefix, want.content)]
    found += [store.by_call(SCOPE, call_id) for call_id in call_ids(number)]
    assert all(f == found[0] for f in found) and found[0] in (None, want), (number, found)
    return found[0] is not None


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.01, 0.05])
def test_a_killed_writer_leaves_whole_turns(tmp_path: Path, pause: float) -> None:
    file = tmp_path / "turns.sqlite"
    written = -1
    for _ in range(2):  # killed, restarted, killed again over what the first one left
        command = [sys.executable, "-c", WRITER, str(file), str(written + 1)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        before = written
        while written < before + 20:
            written = int(running.stdout.readline())
        time.sleep(pause)
        running.send_signal(signal.SIGKILL)
        running.wait()
        written = max([written, *map(int, running.stdout.read().split("\n")[:-1])])
        running.stdout.close()
        store = ReasoningStore(file)
        missing = [n for n in range(written + 1) if not known(store, n)]
        assert missing == [] and store.failures == 0  # what was reported as written is there
        here = store.count()
        assert here in (written + 1, written + 2)  # at most one more, which nobody was told of
        assert known(store, written + 1) == (here == written + 2)
        store.put(SCOPE, turn(10**7), call_ids(10**7))
        assert known(store, 10**7)
        store.close()
        written = here - 1
        file_rows = sqlite3.connect(file)
        file_rows.execute("DELETE FROM turns WHERE prefix = ?", (turn(10**7).prefix,))
        file_rows.commit()
        file_rows.close()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """What lies on disk when a writer of 40 turns dies: the file and its log, never tidied up."""
    folder = tmp_path_factory.mktemp("killed")
    store = ReasoningStore(folder / "turns.sqlite")
    for number in range(40):
        store.put(SCOPE, turn(number), call_ids(number))
    copy = folder / "copy"
    copy.mkdir()
    for name in ("turns.sqlite", "turns.sqlite-wal"):
        shutil.copy(folder / name, copy / name)
    store.close()
    return copy, os.path.getsize(copy / "turns.sqlite-wal")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_log_that_is_cut_or_damaged_anywhere_gives_a_beginning_of_the_turns(
    killed: tuple[Path, int], tmp_path: Path, data: st.DataObject
) -> None:
    source, size = killed
    for name in ("turns.sqlite", "turns.sqlite-wal"):
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "turns.sqlite-shm").unlink(missing_ok=True)
    at = data.draw(st.integers(0, size - 1), "byte of the log")
    with (tmp_path / "turns.sqlite-wal").open("r+b") as log:
        if data.draw(st.booleans(), "cut"):
            log.truncate(at)
        else:
            log.seek(at)
            byte = log.read(1)[0]
            log.seek(at)
            log.write(bytes([byte ^ data.draw(st.integers(1, 255), "flipped")]))
    store = ReasoningStore(tmp_path / "turns.sqlite")
    here = [known(store, number) for number in range(40)]
    assert here == sorted(here, reverse=True)  # once one is absent, all later ones are
    assert store.count() == sum(here) and store.failures == 0
    store.close()


def test_a_full_disk_costs_a_memory_and_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ReasoningStore(tmp_path / "turns.sqlite")
    store.put(SCOPE, turn(1), call_ids(1))
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = next(n for n in range(2, 99) if len(turn(n).ids) == 9000 and call_ids(n))
    store.put(SCOPE, turn(big), call_ids(big))
    assert not known(store, big) and known(store, 1)
    assert store.failures == 1 and "disk is full" in caplog.text
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.put(SCOPE, turn(big), call_ids(big))
    assert known(store, big) and known(store, 1) and store.failures == 1


def test_another_writer_that_holds_the_file_costs_a_memory_and_no_answer(tmp_path: Path) -> None:
    store = ReasoningStore(tmp_path / "turns.sqlite")
    store._db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(tmp_path / "turns.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.put(SCOPE, turn(1), call_ids(1))
    other.execute("ROLLBACK")
    other.close()
    assert not known(store, 1) and store.failures == 1
    store.put(SCOPE, turn(2), call_ids(2))
    assert known(store, 2) and store.failures == 1

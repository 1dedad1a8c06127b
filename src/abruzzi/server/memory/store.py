"""Turn store: sampled turns by their calls' ids and by their content, in one bounded SQLite file.

With it, a thought that a client dropped is put back exactly. A restart or kill -9 leaves the file
whole. The oldest turns are evicted; one that was leaves its name behind for a while (a tombstone):
then the answer is "expired", not "absent". What the disk refuses (full, broken) costs a memory,
never an answer: it is logged and counted, and the turn is absent.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from abruzzi.server.memory.seal import SampledTurn

LOG = logging.getLogger("abruzzi.server")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS turns (
  id INTEGER PRIMARY KEY, scope BLOB NOT NULL, prefix BLOB NOT NULL, content BLOB NOT NULL,
  whole INTEGER NOT NULL, ids BLOB, sampled BLOB, made REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_said ON turns (scope, prefix, content);
CREATE TABLE IF NOT EXISTS calls (
  scope BLOB NOT NULL, call_id TEXT NOT NULL, turn INTEGER NOT NULL, PRIMARY KEY (scope, call_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_turn ON calls (turn);
"""
NAMES_KEPT = 8  # names of so many times max_turns are remembered


@dataclass(frozen=True, slots=True)
class Expired:
    """A tombstone: the turn was evicted. prefix and content as in SampledTurn."""

    prefix: bytes
    content: bytes


class ReasoningStore:
    """file None: in memory. max_turns: the oldest beyond it are forgotten; so is what is older than
    max_age seconds. clock: seconds since the epoch. failures: how often the disk refused. Thread
    safe."""

    def __init__(
        self,
        file: Path | None = None,
        max_turns: int = 20_000,
        max_age: float = 30 * 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_turns, self._max_age, self._clock = max_turns, max_age, clock
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Conversations are for their owner's eyes.
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            # The event loop's thread writes, and the workers that restore histories read.
            self._db = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False, timeout=5)
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{file} is no store of turns ({error}); hint: delete it, thoughts in it are lost"
            ) from None
        self._lock = threading.Lock()  # of the connection
        self._since_eviction = 0
        self.failures = 0

    def put(self, scope: bytes, turn: SampledTurn, call_ids: Sequence[str] = ()) -> None:
        """Remember a turn under its calls' ids and under what it said."""
        row = (scope, turn.prefix, turn.content, turn.whole, array("I", turn.ids).tobytes(), bytes(turn.sampled))
        try:
            with self._lock, self._db:  # commits, or rolls back
                self._db.execute("BEGIN")
                self._insert(row, call_ids)
        except sqlite3.Error as error:
            self._failed(error)

    def by_call(self, scope: bytes, call_id: str) -> SampledTurn | Expired | None:
        """The turn that made this call, for the client that it was made for."""
        rows = self._rows(
            "SELECT prefix, content, ids, sampled, whole, made FROM turns JOIN calls ON calls.turn = turns.id "
            "WHERE calls.scope = ? AND call_id = ?",
            (scope, call_id),
        )
        return self._turn(rows[0]) if rows else None

    def by_said(self, scope: bytes, prefix: bytes, content: bytes) -> SampledTurn | Expired | None:
        """The turn that said this after that. None as well when two that thought differently said
        the same."""
        rows = self._rows(
            "SELECT DISTINCT prefix, content, ids, sampled, whole, max(made) FROM turns "
            "WHERE scope = ? AND prefix = ? AND content = ? GROUP BY ids LIMIT 3",
            (scope, prefix, content),
        )
        turns = [self._turn(row) for row in rows]
        known = [t for t in turns if isinstance(t, SampledTurn)]
        if len(known) > 1:
            return None
        return known[0] if known else turns[0] if turns else None

    def count(self) -> int:
        """Turns whose ids are kept."""
        rows = self._rows("SELECT count(*) FROM turns WHERE ids IS NOT NULL", ())
        return rows[0][0] if rows else 0

    def close(self) -> None:
        self._db.close()

    def _insert(self, row: tuple, call_ids: Sequence[str]) -> None:
        done = self._db.execute(
            "INSERT INTO turns (scope, prefix, content, whole, ids, sampled, made) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, self._clock()),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO calls (scope, call_id, turn) VALUES (?, ?, ?)",
            [(row[0], call_id, done.lastrowid) for call_id in call_ids],
        )
        self._since_eviction += 1
        if self._since_eviction >= max(1, min(256, self._max_turns // 8)):
            self._evict()

    def _rows(self, query: str, values: tuple) -> list[tuple]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._failed(error)
            return []

    def _failed(self, error: sqlite3.Error) -> None:
        self.failures += 1
        LOG.error("the store of sampled turns failed, so a thought will be absent: %s", error)

    def _turn(self, row: tuple) -> SampledTurn | Expired:
        prefix, content, ids_blob, sampled, whole, made = row
        if ids_blob is None or made < self._clock() - self._max_age:
            return Expired(prefix, content)
        ids = array("I")
        ids.frombytes(ids_blob)
        return SampledTurn(prefix, content, tuple(ids), tuple(map(bool, sampled)), bool(whole))

    def _evict(self) -> None:
        self._since_eviction = 0
        newest = self._db.execute("SELECT max(id) FROM turns").fetchone()[0]
        self._db.execute(
            "UPDATE turns SET ids = NULL, sampled = NULL WHERE ids IS NOT NULL AND (id <= ? OR made < ?)",
            (newest - self._max_turns, self._clock() - self._max_age),
        )
        last = newest - NAMES_KEPT * self._max_turns
        self._db.execute("DELETE FROM calls WHERE turn <= ?", (last,))
        self._db.execute("DELETE FROM turns WHERE id <= ?", (last,))

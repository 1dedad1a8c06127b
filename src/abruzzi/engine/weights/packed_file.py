"""A file of packed weights: written once, then mapped. (Which, where and when: kept.py.)

Blobs, each at a multiple of 64 bytes; an index (JSON); at the end where the index begins, how long
it is, its SHA-256, and a magic number. A file comes to its name by a rename, once all of it is on
the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from abruzzi.kernels import ops

MAGIC = b"abruzzi packed 2"
FOOTER = struct.Struct("<QQ32s16s")  # index begins, index bytes, its SHA-256, magic
ALIGNED = 64
PIECE = 1 << 20  # bytes under one checksum
SPAN = 64 * PIECE  # bytes that a thread sums

# Some of what a model is made of: arrays, packed matrices, None, and lists of these.
Part = Mapping[str, Any]


class Damaged(Exception):
    """Not what was written, or not all of it."""


def read(path: Path) -> Iterator[Part]:
    """The parts in a file, mapped. All checks come before the first part. Raises Damaged."""
    try:
        with path.open("rb") as file:
            index = _index(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise Damaged(str(error)) from error
    view = memoryview(mapped)
    data = np.frombuffer(view, np.uint8, index["bytes"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = _hash_of(pool.map(_sums, (data[at : at + SPAN] for at in range(0, len(data), SPAN))))
    if found != index["sums"]:
        raise Damaged("its checksums do not fit")
    return ({name: _inflate(value, view) for name, value in part.items()} for part in index["parts"])


def about(path: Path) -> dict[str, str]:
    """What the writer said of it. Raises Damaged and OSError."""
    with path.open("rb") as file:
        return _index(file)["about"]


class Writer:
    """One file in the making, locked: nobody else writes it. Raises BlockingIOError when another
    process does."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path, self._part = path, path.with_suffix(".part")
        self._index: dict[str, Any] = {"about": dict(about), "parts": []}
        self._file = self._part.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, whoever held the lock may have finished and renamed the
            # file.
            if not self._part.exists() or not os.path.samestat(os.fstat(self._file.fileno()), self._part.stat()):
                raise BlockingIOError(f"{path} was finished by another process")
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(0)
        self._at = 0

    def add(self, part: Part) -> None:
        """Append a part. Raises OSError, for instance when the disk is full."""
        self._index["parts"].append({name: self._flat(value) for name, value in part.items()})

    def commit(self) -> None:
        """Everything is there: on the disk, then under its name."""
        self._file.flush()
        self._index |= {"bytes": self._at, "sums": _hash_of(map(_sums, self._spans()))}
        text = json.dumps(self._index).encode()
        self._file.write(text + FOOTER.pack(self._at, len(text), hashlib.sha256(text).digest(), MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.rename(self.path)
        self._file.close()

    def abandon(self) -> None:
        """Not to be: no trace of it. After `commit` this does nothing."""
        if not self._file.closed:
            self._part.unlink(missing_ok=True)
            with suppress(OSError):  # what could not be written before cannot be flushed now
                self._file.close()

    def _spans(self) -> Iterator[np.ndarray]:
        """What was written, read again (mapped, all of it would count as memory of this
        process)."""
        self._file.seek(0)
        for at in range(0, self._at, SPAN):
            yield np.frombuffer(self._file.read(min(SPAN, self._at - at)), np.uint8)

    def _flat(self, value: Any) -> Any:
        """What the index says of a value; its bytes go into the file."""
        if value is None:
            return None
        if isinstance(value, list):
            return [self._flat(v) for v in value]
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
            return {"array": array.dtype.name, "shape": array.shape, "at": self._blob(array.reshape(-1).view(np.uint8))}
        data: np.ndarray = value.data
        return {"packed": value.kind, "shape": value.shape, "at": self._blob(data), "bytes": data.nbytes}

    def _blob(self, data: np.ndarray) -> int:
        at = self._at
        self._file.write(data.data)
        self._file.write(bytes(-data.nbytes % ALIGNED))
        self._at += data.nbytes + -data.nbytes % ALIGNED
        return at


def _index(file: BinaryIO) -> dict[str, Any]:
    """Raises Damaged."""
    size = os.fstat(file.fileno()).st_size
    if size < FOOTER.size:
        raise Damaged(f"{size} bytes are too few")
    file.seek(size - FOOTER.size)
    at, length, digest, magic = FOOTER.unpack(file.read(FOOTER.size))
    if magic != MAGIC:
        raise Damaged("it does not end as such files do")
    if at + length + FOOTER.size != size:
        raise Damaged(f"{size} bytes, expected {at + length + FOOTER.size}")
    file.seek(at)
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise Damaged("its index does not fit its checksum")
    return json.loads(text)


def _inflate(value: Any, view: memoryview) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_inflate(v, view) for v in value]
    at, shape = value["at"], tuple(value["shape"])
    if "packed" in value:
        rows, columns = shape
        return ops.packed_from_buffer(value["packed"], rows, columns, np.frombuffer(view, np.uint8, value["bytes"], at))
    dtype = np.dtype(getattr(ml_dtypes, value["array"], value["array"]))
    return np.frombuffer(view, dtype, math.prod(shape), at).reshape(shape)


def _sums(span: np.ndarray) -> bytes:
    """The sum of every megabyte as 64-bit numbers: a flipped bit, a page of zeros and pieces in the
    wrong order are found, at the speed of memory. (A cryptographic hash of 9 GB would take as long
    as packing them.)"""
    words = span.view(np.uint64)
    whole = len(words) // (PIECE // 8) * (PIECE // 8)
    sums = words[:whole].reshape(-1, PIECE // 8).sum(axis=1, dtype=np.uint64)
    return sums.tobytes() + words[whole:].sum(dtype=np.uint64).tobytes()


def _hash_of(sums: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sums)).hexdigest()

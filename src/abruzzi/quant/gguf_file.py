"""GGUF files, version 3: metadata and tensors of one file, mapped and checked before anything is read.

    magic "GGUF", u32 version, u64 tensors, u64 keys
    keys     text, u32 type, value                     (text: u64 length, UTF-8)
    tensors  text, u32 axes, u64 sizes (the fastest first), u32 block type, u64 offset
    data     from the next multiple of general.alignment (32)

Every count and length is held against the bytes that are there, so a damaged or hostile header is a
ValueError in one line, never a read out of bounds. Source: the specification in ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi.quant.ggml import TYPES, BlockType, dequantize

MAGIC = b"GGUF"
SUFFIX = ".gguf"
VERSIONS = (2, 3)  # of 64-bit counts
MAX_AXES = 4
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_REFETCH = "hint: the file is truncated or damaged, fetch it again"
_TEXT, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DTYPES = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor. shape: as torch has it, the fastest axis last. data: uint8, a view of the file."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    data: np.ndarray

    def array(self) -> np.ndarray:
        """float32. Raises ValueError for a block type that is not read."""
        try:
            return dequantize(self.kind, self.data, self.shape)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


class GgufFile:
    """One file. metadata: its keys; arrays of numbers as NumPy arrays, of text as lists. entries: its
    tensors by name. Raises FileNotFoundError, or ValueError in one line for whatever does not fit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise ValueError(f"{path} has {size} bytes and no GGUF header; {_REFETCH}")
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._mapped)
        try:
            self.metadata, self.entries = _read(self._view)
        except ValueError as error:
            self.close()
            raise ValueError(f"{path}: {error}") from None

    def let_go(self) -> None:
        """Take what was read out of memory, as far as nothing else needs it; views stay valid."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Forget the views; the mapping goes with the last array on it."""
        self.entries: dict[str, Entry] = {}


def begins(path: Path, magic: bytes) -> bool:
    """Whether the file's first bytes are these."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def open_shards(path: Path) -> list[GgufFile]:
    """The file, or all shards of which it is one (NAME-00001-of-00003.gguf), in order.

    Raises FileNotFoundError for a shard that is not there, ValueError for shards that do not fit."""
    named = _SHARD.fullmatch(path.name)
    if named is None:
        files = [GgufFile(path)]
    else:
        count = int(named[3])
        if not 1 <= int(named[2]) <= count:
            raise ValueError(f"{path}: there is no shard {int(named[2])} of {count}")
        paths = [path.with_name(f"{named[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
        if missing := [p.name for p in paths if not p.is_file()]:
            raise FileNotFoundError(f"{path}: {', '.join(missing[:3])} not beside it; hint: fetch all {count} shards")
        files = [GgufFile(p) for p in paths]
    said = files[0].metadata.get("split.count", 1)
    if said not in (0, len(files)):
        raise ValueError(f"{path} says that it is one of {said} files; hint: give the first, NAME-00001-of-0000N.gguf")
    seen: set[str] = set()
    for file in files:
        if twice := seen & file.entries.keys():
            raise ValueError(f"{file.path}: {min(twice)} is in another shard too; hint: shards of two models mixed?")
        seen |= file.entries.keys()
    return files


def _read(view: memoryview) -> tuple[dict[str, Any], dict[str, Entry]]:
    read = _Reader(view)
    if bytes(view[:4]) != MAGIC:
        raise ValueError(f"it begins with {bytes(view[:4])!r}, not with {MAGIC!r}; hint: no GGUF file")
    read.at = 4
    version = read.number("I")
    if version not in VERSIONS:
        swapped = struct.unpack(">I", struct.pack("<I", version))[0] in VERSIONS
        raise ValueError(
            f"GGUF version {version} is not read; expected 2 or 3"
            + ("; hint: it is big-endian, convert it for this machine" if swapped else "")
        )
    tensors, keys = read.count("tensors", 24), read.count("keys", 12)
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = read.text()
        if key in metadata:
            raise ValueError(f"the key {key!r} is there twice; {_REFETCH}")
        metadata[key] = read.value(read.number("I"))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"general.alignment={alignment!r}; expected a power of 2")
    found = [_entry(read) for _ in range(tensors)]
    begin = -(-read.at // alignment) * alignment
    entries: dict[str, Entry] = {}
    for name, shape, kind, offset in found:
        size = kind.size(shape)
        if name in entries:
            raise ValueError(f"the tensor {name!r} is there twice; {_REFETCH}")
        if offset % alignment or begin + offset + size > len(view):
            raise ValueError(
                f"the tensor {name!r} ends at byte {begin + offset + size:,} of {len(view):,}, or is not aligned; "
                f"{_REFETCH}"
            )
        data = np.frombuffer(view, np.uint8, size, begin + offset) if size else np.empty(0, np.uint8)
        entries[name] = Entry(name, shape, kind, data)
    return metadata, entries


def _entry(read: _Reader) -> tuple[str, tuple[int, ...], BlockType, int]:
    name, axes = read.text(), read.number("I")
    if not name.isprintable():
        raise ValueError(f"a tensor is called {name!r:.80}; {_REFETCH}")
    if not 1 <= axes <= MAX_AXES:
        raise ValueError(f"the tensor {name!r:.80} has {axes} axes; expected 1 to {MAX_AXES}; {_REFETCH}")
    sizes = [read.number("Q") for _ in range(axes)]
    number, offset = read.number("I"), read.number("Q")
    if number not in TYPES:
        raise ValueError(f"the tensor {name!r:.80} has block type {number}, which is not known; hint: a newer GGUF?")
    if min(sizes) < 1 or math.prod(sizes) > 1 << 48:
        raise ValueError(f"the tensor {name!r:.80} has sizes {sizes}; {_REFETCH}")
    kind, shape = TYPES[number], tuple(reversed(sizes))
    try:
        kind.size(shape)
    except ValueError as error:
        raise ValueError(f"the tensor {name!r:.80}: {error}; {_REFETCH}") from None
    return name, shape, kind, offset


class _Reader:
    """Values one behind the other. Raises ValueError where the file ends first."""

    def __init__(self, view: memoryview) -> None:
        self._view, self.at = view, 0

    def number(self, form: str) -> Any:
        size = struct.calcsize(form)
        return struct.unpack("<" + form, self._take(size))[0]

    def count(self, what: str, least: int) -> int:
        """A number of things that take at least so many bytes each."""
        number = self.number("Q")
        if number * least > len(self._view) - self.at:
            raise ValueError(
                f"it claims {number:,} {what}, more than its {len(self._view):,} bytes can hold; {_REFETCH}"
            )
        return number

    def text(self) -> str:
        return bytes(self._take(self.count("characters", 1))).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY and depth < 4:
            inner = self.number("I")
            if inner in _DTYPES:
                dtype = np.dtype(_DTYPES[inner])
                count = self.count("numbers", dtype.itemsize)
                return np.frombuffer(self._take(count * dtype.itemsize), dtype)
            return [self.value(inner, depth + 1) for _ in range(self.count("values", 1))]
        if kind not in _SCALARS:
            raise ValueError(f"a key has type {kind}, which is not known; {_REFETCH}")
        return self.number(_SCALARS[kind])

    def _take(self, size: int) -> memoryview:
        if size > len(self._view) - self.at:
            raise ValueError(f"it ends in its header, at byte {len(self._view):,}; {_REFETCH}")
        self.at += size
        return self._view[self.at - size : self.at]


def required(metadata: Mapping[str, Any], key: str, read: Callable[[Any], Any] = lambda value: value) -> Any:
    """A key's value. Raises ValueError for one that is absent or has another type."""
    if key not in metadata:
        raise ValueError(f"the key {key!r} is missing; {_REFETCH}")
    try:
        return read(metadata[key])
    except (TypeError, ValueError):
        raise ValueError(f"{key}={metadata[key]!r:.60} has the wrong type") from None

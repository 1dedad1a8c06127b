"""One safetensors file: read by mmap with its header checked to the last byte, or written tensor by
tensor.

The format is eight bytes of header length, a JSON header, then the data without a gap. Everything
that the header claims is checked against the file's size before any view is made, so that no
header, however broken or hostile, leads to a read out of bounds. Data pages are touched only when a
tensor is used. Not here: which tensors there should be (layout.py). A file that another process
shortens while it is mapped is beyond help: the kernel ends whoever touches the lost pages, which is
why write.py never writes into a file in place.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from abruzzi.types import brief

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),  # FP8 checkpoints: mapped, so that they can be refused by name
}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_METADATA = "__metadata__"
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
# What lies in the place of a file that was not fetched: its first bytes, and what to say of it.
_STAND_INS = (
    (_GIT_LFS, "is a git-lfs pointer: the file itself was not fetched; hint: `git lfs pull` in its directory"),
    (b"<", "is a web page, not safetensors; hint: an error page or a login was saved in its place, fetch it again"),
    (b"PK\x03\x04", "is a zip archive (a pickle of torch?), not safetensors; hint: convert it to safetensors"),
    (b"GGUF", "is a GGUF file, not safetensors; hint: fetch the checkpoint in Hugging Face layout"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: dtype by its safetensors name, shape, bytes begin..end behind the
    header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def stands_in(path: Path) -> str | None:
    """What a file is that lies in another one's place (a git-lfs pointer, a web page), with a hint;
    None = no such."""
    with path.open("rb") as file:
        head = file.read(64)
    # Eight bytes of header length, of which the format allows 100 MB, then a JSON object.
    if len(head) > 8 and int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES:
        return None
    said = next((said for first, said in _STAND_INS if head.startswith(first)), None)
    return None if said is None else f"{path} {said}"


class SafetensorsFile:
    """A mapped file. Raises ValueError that names the file for whatever is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if complaint := stands_in(path):
            raise ValueError(complaint)
        if size < 8:
            raise ValueError(f"{path} has {size} bytes and no safetensors header; hint: truncated? fetch it again")
        with path.open("rb") as file:
            self._mapped: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: np.ndarray | None = np.frombuffer(self._mapped, np.uint8)
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError(
                f"{path} claims a header of {length} bytes in a file of {size}; hint: truncated or not safetensors"
            )
        self._start = 8 + length
        try:
            self.entries = _read_header(self._bytes[8 : self._start].tobytes(), size - self._start)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; hint: the file is truncated or corrupt, fetch it again") from None

    def view(self, name: str) -> np.ndarray:
        """The stored tensor, read-only, without a copy (but one when the file does not align it).

        Raises ValueError after `close`."""
        if self._bytes is None:
            raise ValueError(f"{self.path} is closed; hint: read arrays before the checkpoint is closed")
        entry = self.entries[name]
        raw = self._bytes[self._start + entry.begin : self._start + entry.end]
        array = raw.view(DTYPES[entry.dtype]).reshape(entry.shape)
        return array if array.flags.aligned else array.copy()

    def let_go(self) -> None:
        """Take the pages that were read out of this process's memory; whoever needs them again gets
        them again."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Forget the mapping; views that are still in use keep it alive."""
        self._bytes = self._mapped = None


def write_safetensors(
    path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write a new file and flush it to disk; one array at a time is in memory.

    entries: name -> (dtype, shape), for all of `arrays`, which may come in any order. Raises
    ValueError for an array that does not fit its entry, comes twice or does not come;
    FileExistsError for an old file."""
    laid = _lay_out(entries)
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}  # transformers refuses files without this mark
    for name, entry in laid.items():
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.begin, entry.end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    start = 8 + len(text)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in arrays:
            if name not in laid:
                raise ValueError(f"{name} is not planned for {path.name}, or comes twice")
            entry = laid.pop(name)
            if array.shape != entry.shape or array.dtype != DTYPES[entry.dtype]:
                raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {entry.dtype} {entry.shape}")
            file.seek(start + entry.begin)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if laid:
            raise ValueError(f"{next(iter(laid))} is planned for {path.name} but does not come")
        file.flush()
        os.fsync(file.fileno())


def _lay_out(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Entry]:
    """Widest items first, so that every tensor is aligned; otherwise in the order that is given."""
    laid: dict[str, Entry] = {}
    at = 0
    for name, (dtype, shape) in sorted(entries.items(), key=lambda item: -DTYPES[item[1][0]].itemsize):
        end = at + math.prod(shape) * DTYPES[dtype].itemsize
        laid[name] = Entry(dtype, shape, at, end)
        at = end
    return laid


def _read_header(header: bytes, data_bytes: int) -> dict[str, Entry]:
    try:
        given = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except _TwiceError as error:
        raise ValueError(f"its header names {error} twice") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({type(error).__name__})") from None
    if not isinstance(given, dict):
        raise ValueError("its header is no JSON object")
    metadata = given.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"its {_METADATA} does not map text to text")
    entries = {name: _read_entry(name, fields, data_bytes) for name, fields in given.items()}
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            what = "overlaps the tensor before it" if entry.begin < at else "leaves a hole before it"
            raise ValueError(f"tensor {name} {what}")
        at = entry.end
    if at != data_bytes:
        raise ValueError(f"it has {data_bytes} bytes of data but its tensors take {at}")
    return entries


def _read_entry(name: str, fields: Any, data_bytes: int) -> Entry:
    if not name.isprintable():  # would garble a message, or a terminal
        raise ValueError(f"tensor name {brief(name)} is not printable")
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name} is described by {brief(fields)}; expected dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name} has dtype {brief(dtype)}; expected one of {', '.join(DTYPES)}")
    # NumPy cannot make an empty array whose other sides multiply to more than memory.
    if not _naturals(shape) or len(shape) > 8 or math.prod(n for n in shape if n) >= 1 << 48:
        raise ValueError(f"tensor {name} has shape {brief(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name} has data_offsets {brief(offsets)}")
    begin, end = offsets
    want = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != want:
        raise ValueError(f"tensor {name} takes bytes {begin}..{end}, but its shape needs {want}")
    if end > data_bytes:
        raise ValueError(f"tensor {name} ends at byte {end} of {data_bytes}")
    return Entry(dtype, tuple(shape), begin, end)


class _TwiceError(ValueError):
    """A JSON object names a key twice: readers would disagree on which one counts."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _TwiceError(brief(key))
        out[key] = value
    return out


def _naturals(value: Any) -> bool:
    """Whether it is a list of integers that fit a 64-bit size."""
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)

"""One safetensors file, mapped: its header checked to the last byte, its tensors as views.

The format is eight bytes of header length, a JSON header, then the data. Everything that the header
claims is checked against the file's size before any view is made, so that no header, however broken or
hostile, leads to a read out of bounds. Data pages are touched only when a tensor is used.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

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
    "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype("u1"),  # named in FP8 checkpoints; only ever refused, never computed on
}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: dtype by its safetensors name, shape, first byte behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """A mapped file. Raises ValueError that names the file for whatever is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if size < 8:
            raise ValueError(f"{path} has {size} bytes and no safetensors header; hint: truncated? fetch it again")
        self._bytes = np.memmap(path, np.uint8, mode="r")
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path} claims a header of {length} bytes in a file of {size}; hint: truncated or not safetensors"
            )
        self._start = 8 + length
        self.entries = _entries(path, self._bytes[8 : self._start].tobytes(), size - self._start)

    def view(self, name: str) -> np.ndarray:
        """The stored tensor without a copy, read-only."""
        entry = self.entries[name]
        raw = self._bytes[self._start + entry.begin : self._start + entry.end]
        return raw.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def close(self) -> None:
        """Forget the mapping; views that are still in use keep it alive."""
        del self._bytes


def _entries(path: Path, header: bytes, data_bytes: int) -> dict[str, Entry]:
    try:
        given = json.loads(header, object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} has a header that is not JSON ({type(error).__name__}); hint: corrupt file") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path} has a header that is no JSON object; hint: corrupt file")
    given.pop("__metadata__", None)
    entries = {name: _entry(path, name, fields, data_bytes) for name, fields in given.items()}
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            what = "overlaps what is before it" if entry.begin < at else "leaves a hole before it"
            raise ValueError(f"{path}: tensor {name} {what}; hint: corrupt file")
        at = entry.end
    if at != data_bytes:
        raise ValueError(f"{path} has {data_bytes} bytes of data but its tensors take {at}; hint: corrupt file")
    return entries


def _entry(path: Path, name: str, fields: Any, data_bytes: int) -> Entry:
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: tensor {name!r} has no description; hint: corrupt file")
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{path}: tensor {name!r} has dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    if shape is None or not _naturals(shape) or len(shape) > 8:
        raise ValueError(f"{path}: tensor {name!r} has shape {_brief(shape)}; hint: corrupt file")
    if offsets is None or not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name!r} has data_offsets {_brief(offsets)}; hint: corrupt file")
    begin, end = offsets
    want = math.prod(shape) * DTYPES[dtype].itemsize
    if not begin <= end or end - begin != want:
        raise ValueError(f"{path}: tensor {name!r} takes bytes {begin}..{end}, but its shape needs {want}")
    if end > data_bytes:
        raise ValueError(
            f"{path}: tensor {name!r} ends at byte {end} of {data_bytes}; hint: the file is truncated, fetch it again"
        )
    return Entry(dtype, tuple(shape), begin, end)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError(f"{path} names a key twice in its header; hint: corrupt file")
    return out


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Packed weights on disk, so that a large model is repacked once and not at every start.

    $ABRUZZI_HOME/packed/<key>.packed    (ABRUZZI_HOME: ~/.abruzzi if not set)

The key is a hash of what the checkpoint's files hold, of the mode of weights, and of what the
compiled packers make of a known matrix: another checkpoint under the same name, another mode or
another layout is another key. A file comes to its name by a rename once all of it is on the disk;
what a killed process leaves is a `.part`, which the next one takes over. Of two processes that load
the same model at once the second finds the part locked and goes without. On load the file is
mapped, and each megabyte held against its checksum; one that fails is made anew, with a message.

ABRUZZI_PACKED=off switches it off; a number is the size, in MB, from which checkpoints are kept
(1024). `abruzzi ls` shows the files, `abruzzi rm` removes them.

The format of a file is packed_file.py's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from abruzzi.engine.weights.packed_file import MAGIC, Damaged, Part, Writer, about, read
from abruzzi.home import home_folder
from abruzzi.kernels import ops

SWITCH = "ABRUZZI_PACKED"
SMALLEST = 1024  # MB: smaller models are repacked in the time that looking takes
DISK_MARGIN = 1 << 30  # stays free
REMEMBERED = 4096  # hashes of files

_log = logging.getLogger("abruzzi")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. source: the directory of the checkpoint it was made of."""

    path: Path
    source: Path
    weights: str
    bytes: int


def folder() -> Path:
    """Where the files lie."""
    return home_folder() / "packed"


def entries() -> list[Entry]:
    """Every whole file, by source. Unreadable ones are not among them (the next load replaces
    them)."""
    found = []
    for path in folder().glob("*.packed"):
        with suppress(Damaged, OSError):
            said = about(path)
            found.append(Entry(path, Path(said["source"]), said["weights"], path.stat().st_size))
    return sorted(found, key=lambda e: (str(e.source), e.weights))


def remove(source: Path) -> int:
    """Delete what was made of the checkpoint in this directory, or below it; the bytes that this
    freed. A process that has a file mapped keeps it until it ends."""
    freed = sweep()
    for path in folder().glob("*.packed"):
        with suppress(OSError):
            size = path.stat().st_size
            if _made_of(path, source.resolve()):
                path.unlink()
                freed += size
    return freed


def _made_of(path: Path, source: Path) -> bool:
    """Whether the file was packed from this checkpoint. A damaged one counts as every checkpoint's:
    `rm` of any deletes it."""
    try:
        return Path(about(path)["source"]).is_relative_to(source)
    except Damaged:
        return True


def load_or_pack(
    checkpoint: Path, files: Sequence[Path], weights: str, make: Callable[[], Iterator[Part]]
) -> Iterator[Part]:
    """The parts of a model: from the file where there is one, else from `make`, writing them down
    on the way.

    checkpoint: its directory; files: those of its weights, which are read in full for their hash
    the first time they are seen. What goes wrong with the cache never stops a load: it is logged,
    and `make` does the work."""
    limit = _smallest()
    if limit is None or sum(f.stat().st_size for f in files) < limit:
        return make()
    try:
        folder().mkdir(parents=True, exist_ok=True)
        seen = [_stamp(f) for f in files]
        key = _key(checkpoint, files, weights)
    except OSError as error:
        _log.warning("packed weights are not kept: %s", error)
        return make()
    path = folder() / f"{key}.packed"
    if path.exists():
        try:
            return read(path)
        except Damaged as error:
            _log.warning("the packed weights in %s are damaged (%s): making them anew", path, error)
            path.unlink(missing_ok=True)
    said = {"source": str(checkpoint.resolve()), "weights": weights}
    return _keep(path, said, files, make(), unchanged=lambda: [_stamp(f) for f in files] == seen)


def _keep(
    path: Path, said: Mapping[str, str], files: Sequence[Path], parts: Iterator[Part], unchanged: Callable[[], bool]
) -> Iterator[Part]:
    """Hand the parts on and write them down; without the writing as soon as that fails."""
    writer = _writer(path, said, sum(f.stat().st_size for f in files))
    try:
        for part in parts:
            if writer is not None:
                try:
                    writer.add(part)
                except OSError as error:
                    _log.warning("packed weights are not kept: %s", error)
                    writer.abandon()
                    writer = None
            yield part
        if writer is not None and unchanged():
            try:
                writer.commit()
                _drop_older(path, said)
            except OSError as error:
                _log.warning("packed weights are not kept: %s", error)
    finally:
        if writer is not None:
            writer.abandon()


def _writer(path: Path, said: Mapping[str, str], size: int) -> Writer | None:
    """None, with a message, when the disk lacks room; without one when another process writes it
    already."""
    try:
        sweep()
        free = shutil.disk_usage(path.parent).free
        if free < size + DISK_MARGIN:
            _log.warning(
                "packed weights are not kept: they need %.1f GB and leave 1 GB, but %s has %.1f GB free; "
                "hint: `abruzzi rm`, ABRUZZI_HOME on another disk, or %s=off",
                *(size / 1e9, path.parent, free / 1e9, SWITCH),
            )
            return None
        return Writer(path, said)
    except BlockingIOError:
        return None
    except OSError as error:
        _log.warning("packed weights are not kept: %s", error)
        return None


def _drop_older(path: Path, said: Mapping[str, str]) -> None:
    """What the same directory, mode and layout gave before its files, or the packers, changed."""
    for other in folder().glob("*.packed"):
        if other != path:
            with suppress(Damaged, OSError):
                if about(other) == said:
                    other.unlink()


def sweep() -> int:
    """Remove what killed processes left; the bytes that this freed."""
    freed = 0
    for part in folder().glob("*.part"):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            freed += part.stat().st_size
            part.unlink()
    return freed


def _smallest() -> int | None:
    """Bytes from which on checkpoints are kept; None = never. Raises ValueError for a wrong
    ABRUZZI_PACKED."""
    given = os.environ.get(SWITCH) or str(SMALLEST)
    if given == "off":
        return None
    if not given.isdecimal():
        raise ValueError(f"{SWITCH}={given!r}; expected off, or a number of MB from which on packed weights are kept")
    return int(given) << 20


def _key(checkpoint: Path, files: Sequence[Path], weights: str) -> str:
    config = hashlib.sha256((checkpoint / "config.json").read_bytes()).hexdigest()
    hashes = sorted(zip([f.name for f in files], _hashes(files)))
    text = json.dumps([MAGIC.decode(), weights, _packers(), config, hashes])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _packers() -> str:
    """A hash of what the compiled packers make of a known matrix: another layout, another hash."""
    rng = np.random.default_rng(0)
    digest = hashlib.sha256()
    floats = rng.normal(size=(17, 64)).astype(np.float32)
    words = rng.integers(-(1 << 31), 1 << 31, (17, 8), np.int32)
    scale = rng.uniform(0.5, 1.5, (17, 2)).astype(ml_dtypes.bfloat16)
    brief = floats.astype(ml_dtypes.bfloat16)
    made = [ops.pack(floats), ops.pack(brief), ops.pack_int4(words, scale)]
    for packed in [*made, *(ops.quantize(w, kind) for w in (floats, brief) for kind in ("int4", "int8"))]:
        digest.update(f"{packed.kind} {packed.shape} ".encode())
        digest.update(packed.data.data)
    return digest.hexdigest()


def _hashes(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each file. Remembered by inode, size and times (among them that of the last change
    of the inode, which nobody can set), so that only the first start reads everything; the hub's
    cache names its files by it."""
    memory = folder() / "hashes.json"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))

    def of(file: Path) -> tuple[str, str]:
        stamp = _stamp(file)
        blob = file.resolve()
        if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
            return stamp, blob.name
        if stamp not in known:
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            return (stamp if _stamp(file) == stamp else ""), found
        return stamp, known[stamp]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(of, files))
    if any(stamp not in known for stamp, _ in found):
        newest = dict([*known.items(), *((s, h) for s, h in found if s)][-REMEMBERED:])
        part = memory.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(newest), encoding="utf-8")
        part.replace(memory)
    return [h for _, h in found]


def _stamp(file: Path) -> str:
    s = file.stat()
    return f"{s.st_dev}:{s.st_ino}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}"

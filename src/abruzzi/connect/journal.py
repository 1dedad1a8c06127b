"""Writing a client's settings into its files, and taking exactly them back.

A journal (one JSON file a client under $ABRUZZI_HOME/connect, 0600) remembers of each setting what
was there before and what we wrote, and of each file its bytes on both sides. A file that nobody has
touched since gets its old bytes back; in one that was edited, each setting that still has our value
gets its old value, and what was changed since is left and said. Files are replaced as a whole
(write beside, fsync, rename), through a symbolic link, and keep their mode; new ones are 0600, for
they may hold a key.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abruzzi.connect.connection import ENTRY, Connection, File, Key, Secret
from abruzzi.connect.document import ABSENT, Document, DocumentError, parse, plain
from abruzzi.types import UserError


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one setting. before, after: as JSON has them; None = it was (is) not there.
    secret: they are credentials. done: False where it was left alone, with why."""

    path: Path
    key: Key
    before: Any
    after: Any
    secret: bool = False
    done: bool = True
    why: str = ""


def write(made: Connection, home: Path) -> list[Change]:
    """Put a connection's settings into the client's files; those that are there already are not
    written again. home: where the journal lies.

    Raises UserError, with nothing written, for a file that cannot be read or written."""
    journal = _load(made.client, home)
    plans = [_plan(file, journal) for file in made.files]
    changes: list[Change] = []
    for file, old, new, its_changes, entry in plans:
        journal["files"][str(file.path)] = entry
        changes += its_changes
        if new != old:
            # The journal first: what it says too much, undo finds unchanged.
            _save(made.client, home, journal)
            _replace(file.path, new)
    return changes


def undo(client: str, home: Path) -> list[Change]:
    """Take back what `write` did for a client. Raises UserError where nothing is remembered, or a
    file cannot be read."""
    journal = _load(client, home)
    if not journal["files"]:
        raise UserError(f"nothing was written for {client}; hint: abruzzi connect {client} --write does")
    plans = [_plan_back(Path(path), entry) for path, entry in journal["files"].items()]
    changes: list[Change] = []
    for path, new, its_changes in plans:
        changes += its_changes
        if new is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, new)
    _place(client, home).unlink()
    return changes


def _plan(file: File, journal: dict[str, Any]) -> tuple[File, bytes | None, bytes, list[Change], dict[str, Any]]:
    """(file, its bytes, what they are to be, what changes, its entry in the journal)."""
    old = _bytes(file.path)
    document = _read(file.path, old, file.format)
    known = journal["files"].get(str(file.path))
    entry = known or {
        "format": file.format,
        "original": None if old is None else base64.b64encode(old).decode(),
        "settings": [],
    }
    remembered = {tuple(s["key"]): s for s in entry["settings"]}
    changes = []
    for key, value in file.settings.items():
        before = document.get(key)
        listed = key[-1] == ENTRY
        if before == value or (listed and before is not ABSENT and value in before):
            continue
        if listed and key in remembered:
            document.remove(key, remembered[key]["after"])
        _try(file.path, document, key, plain(value))
        absent, secret = before is ABSENT or listed, isinstance(value, Secret)
        changes.append(Change(file.path, key, None if absent else before, value, secret))
        if key in remembered:
            remembered[key]["after"] = value
        else:
            was = {} if absent else {"before": before}
            entry["settings"].append({"key": list(key), **was, "after": value, "secret": secret})
    new = _encoded(document, old) if changes else (old or b"")
    # One that its owner edited between two writes never gets its first bytes back: they lack that.
    edited = known is not None and (known["written"] is None or old != base64.b64decode(known["written"]))
    entry["written"] = None if edited else base64.b64encode(new).decode()
    return file, old, new, changes, entry


def _plan_back(path: Path, entry: dict[str, Any]) -> tuple[Path, bytes | None, list[Change]]:
    """(file, what it is to be: None = gone, what changes)."""
    now = _bytes(path)
    original = None if entry["original"] is None else base64.b64decode(entry["original"])
    untouched = entry["written"] is not None and now == base64.b64decode(entry["written"])
    changes = []
    document = _read(path, now, entry["format"])
    for setting in reversed(entry["settings"]):
        key, ours, secret = tuple(setting["key"]), setting["after"], setting["secret"]
        there = document.get(key)
        listed = key[-1] == ENTRY
        mine = there is not ABSENT and (ours in there if listed else there == ours)
        if not mine:
            why = "it is gone already" if there is ABSENT or listed else "it was changed since"
            changes.append(Change(path, key, ours, None if there is ABSENT else there, secret, False, why))
            continue
        if "before" in setting:
            _try(path, document, key, setting["before"])
        else:
            document.remove(key, ours)
        changes.append(Change(path, key, ours, setting.get("before"), secret))
    if untouched:
        return path, original, changes
    new = _encoded(document, now)
    return path, (None if not new.strip() and original is None else new), changes


def _try(path: Path, document: Document, key: Key, value: Any) -> None:
    try:
        document.set(key, value)
    except DocumentError as error:
        raise UserError(f"{path}: {error}; nothing was written") from error


def _read(path: Path, data: bytes | None, format: Any) -> Document:
    try:
        # Byte order marks are kept as a character of the first line by nobody who reads these.
        return parse((data or b"").decode("utf-8-sig").replace("\r\n", "\n"), format)
    except (DocumentError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}; nothing was written") from error


def _encoded(document: Document, old: bytes | None) -> bytes:
    """The document with the line ends that its file had."""
    text = document.text()
    return (text.replace("\n", "\r\n") if old is not None and b"\r\n" in old else text).encode()


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); nothing was written") from error


def _replace(path: Path, data: bytes) -> None:
    """Atomically; a symbolic link goes on pointing where it points."""
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "it is read-only")
        handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error


def _place(client: str, home: Path) -> Path:
    return home / "connect" / f"{client}.json"


def _load(client: str, home: Path) -> dict[str, Any]:
    place = _place(client, home)
    try:
        journal = json.loads(place.read_text())
        if not isinstance(journal["files"], dict):
            raise ValueError("files is no object")
    except FileNotFoundError:
        return {"client": client, "files": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}); hint: it remembers what to undo; move it away") from error
    return journal


def _save(client: str, home: Path, journal: dict[str, Any]) -> None:
    _replace(_place(client, home), json.dumps(journal, indent=1).encode())


def files_of(changes: Sequence[Change]) -> list[Path]:
    """The files of some changes, each once, in order."""
    return list(dict.fromkeys(change.path for change in changes))

"""The tool `files`: list, search and read text files under one root; nothing outside it can be
reached.

Every path is walked component by component from an open directory, and no component may be a
symbolic link: neither `..` nor a link, nor a link that is swapped in between check and use, leads
out. (Links that stay inside are refused as well: telling the two apart safely is not worth it for
reading notes.) Files are opened without blocking, so a named pipe cannot hang a run. All output is
capped, and says so.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abruzzi.tools.tool import ToolError, ToolOk, error
from abruzzi.types import ToolSpec

MAX_ENTRIES = 100
MAX_LINES = 200
MAX_CHARS = 8_000
MAX_LINE = 400  # characters of one line that are shown
MAX_FILE_BYTES = 1_000_000
MAX_HITS = 30
MAX_SEARCHED = 2_000  # files
MAX_SECONDS = 3.0
MAX_DEPTH = 20


class Files:
    """The tool `files`. root: a directory; raises ValueError when it is none."""

    spec = ToolSpec(
        "files",
        "Look at text files in the folder: list a folder, search all files for words, read a file.",
        {
            "type": "object",
            "properties": {
                "action": {"type": "string", "enum": ["list", "search", "read"]},
                "path": {"type": "string"},
                "query": {"type": "string"},
                "offset": {"type": "integer", "minimum": 1},
            },
            "required": ["action"],
            "additionalProperties": False,
        },
    )

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a directory; hint: give the folder that may be read")

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
        """The action's text, or an error that names the path as it was given."""
        action, path = arguments["action"], arguments.get("path", ".")
        try:
            if action == "list":
                return self._list(path)
            if action == "read":
                return self._read(path, arguments.get("offset", 1))
            query = arguments.get("query", "")
            if not query.strip():
                return error("search needs a query: the words to look for")
            return self._search(path, query)
        except _Refused as problem:
            return error(str(problem))
        except OSError as problem:
            return error(f"{path[:100]!r}: {problem.strerror or 'cannot be opened'}")

    def _list(self, path: str) -> ToolOk:
        with self._opened(path, directory=True) as folder:
            names = sorted(os.listdir(folder))
            lines = []
            for name in names[:MAX_ENTRIES]:
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                mark = "/" if stat.S_ISDIR(mode) else "" if stat.S_ISREG(mode) else " (not a file that can be read)"
                lines.append(_printable(name) + mark)
        more = len(names) - MAX_ENTRIES
        if more > 0:
            lines.append(f"(and {more} more)")
        return ToolOk("\n".join(lines) or "(empty)", f"{len(names)} entries")

    def _read(self, path: str, offset: int) -> ToolOk | ToolError:
        with self._opened(path, directory=False) as handle:
            text, note = _text_of(handle, path)
        lines = text.splitlines()
        if offset > max(1, len(lines)):
            return error(f"{path[:100]!r} has {len(lines)} lines; offset {offset} is behind its end")
        shown, used = [], 0
        for line in lines[offset - 1 : offset - 1 + MAX_LINES]:
            line = line if len(line) <= MAX_LINE else line[:MAX_LINE] + " (line cut)"
            if used + len(line) > MAX_CHARS:
                break
            shown.append(line)
            used += len(line) + 1
        left = len(lines) - (offset - 1 + len(shown))
        if left > 0:
            shown.append(f"({left} more lines; read on with offset {offset + len(shown)})")
        if note:
            shown.append(note)
        return ToolOk("\n".join(shown) or "(empty)", f"{min(len(lines), len(shown))} of {len(lines)} lines")

    def _search(self, path: str, query: str) -> ToolOk:
        wanted = query.casefold()
        deadline = time.monotonic() + MAX_SECONDS
        hits: list[str] = []
        notes: list[str] = []
        searched = 0
        for name, text in self._texts(path):
            searched += 1
            for number, line in enumerate(text.splitlines(), 1):
                if wanted in line.casefold():
                    short = line.strip()
                    hits.append(f"{name}:{number}: {short if len(short) <= MAX_LINE else short[:MAX_LINE] + ' ...'}")
            if len(hits) > MAX_HITS or searched >= MAX_SEARCHED or time.monotonic() > deadline:
                notes.append(
                    f"(the search stopped after {searched} files; search in a narrower path or for rarer words)"
                )
                break
        if len(hits) > MAX_HITS:
            notes.insert(0, f"(only the first {MAX_HITS} hits are shown)")
        body = [*hits[:MAX_HITS], *notes] if hits else [f"no line contains {query[:100]!r}", *notes]
        return ToolOk("\n".join(body), f"{min(len(hits), MAX_HITS)} hits in {searched} files")

    def _texts(self, path: str) -> Iterator[tuple[str, str]]:
        """(relative path, text) of every readable text file below `path`, in order of names."""
        waiting = [(path.strip("/") or ".", 0)]
        while waiting:
            current, depth = waiting.pop(0)
            try:
                with self._opened(current, directory=None) as handle:
                    if not stat.S_ISDIR(os.fstat(handle).st_mode):
                        yield _printable(os.path.normpath(current)), _text_of(handle, current)[0]
                        continue
                    below = [f"{current}/{name}" for name in sorted(os.listdir(handle))]
            except (_Refused, OSError):
                if current == (path.strip("/") or "."):
                    raise
                continue  # a binary file, a link, something that vanished: not text to search
            if depth < MAX_DEPTH:
                waiting += [(b, depth + 1) for b in below]

    @contextmanager
    def _opened(self, path: str, directory: bool | None) -> Iterator[int]:
        """A descriptor of `path` below the root. directory: True / False = it must (not) be one."""
        if "\0" in path:
            raise _Refused("a path cannot contain a NUL character")
        if path.startswith("/"):
            raise _Refused(f"{path[:100]!r} is absolute; give a path inside the folder")
        parts = [p for p in path.split("/") if p not in ("", ".")]
        if ".." in parts:
            raise _Refused(f"{path[:100]!r} leads out of the folder; '..' is not allowed")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                try:
                    deeper = os.open(part, flags, dir_fd=handle)
                except OSError as problem:
                    raise _Refused(self._why(problem, path, handle)) from None
                os.close(handle)
                handle = deeper
            mode = os.fstat(handle).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise _Refused(f"{path[:100]!r} is not a regular file")
            if directory is True and not stat.S_ISDIR(mode):
                raise _Refused(f"{path[:100]!r} is a file; use action read")
            if directory is False and stat.S_ISDIR(mode):
                raise _Refused(f"{path[:100]!r} is a folder; use action list")
            yield handle
        finally:
            os.close(handle)

    def _why(self, problem: OSError, path: str, handle: int) -> str:
        import errno

        if problem.errno == errno.ENOENT:
            there = ", ".join(_printable(n) for n in sorted(os.listdir(handle))[:10]) or "nothing"
            return f"there is no {path[:100]!r}. There is: {there}"
        if problem.errno == errno.ELOOP:
            return f"{path[:100]!r} is a link; links are not followed"
        if problem.errno == errno.ENOTDIR:
            return f"{path[:100]!r}: a part of the path is not a folder, or is a link"
        if problem.errno == errno.ENXIO:
            return f"{path[:100]!r} is not a regular file"
        return f"{path[:100]!r}: {problem.strerror}"


class _Refused(Exception):
    """A path or a file that is not for this tool; the text is for the model."""


def _text_of(handle: int, path: str) -> tuple[str, str]:
    """Text, and a note about what is not exact in it."""
    with os.fdopen(os.dup(handle), "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if b"\0" in data[:8192]:
        raise _Refused(f"{path[:100]!r} is a binary file")
    notes = []
    if len(data) > MAX_FILE_BYTES:
        data = data[:MAX_FILE_BYTES]
        notes.append(f"(only the first {MAX_FILE_BYTES} bytes are read)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        notes.append("(bytes that are not UTF-8 are shown as \N{REPLACEMENT CHARACTER})")
    return text, " ".join(notes)


def _printable(name: str) -> str:
    """A file name without what is not text: undecodable bytes and control characters."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)

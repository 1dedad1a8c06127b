"""Environments of tasks, what their tools work on: no tools, nothing but a calculator, one table,
or a folder of text files.

Each is a value that can be compared and pickled; `open()` builds the tools afresh, so no task can
see what another did. `as_text()` writes the same data down for a question that is asked without
tools.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abruzzi.tools.calculator import Calculator
from abruzzi.tools.files import Files
from abruzzi.tools.table import Table
from abruzzi.tools.tool import Tool


@dataclass(frozen=True)
class NoTools:
    """Nothing to call: the task is for thinking alone."""

    @contextmanager
    def open(self) -> Iterator[Sequence[Tool]]:
        yield ()


@dataclass(frozen=True)
class Arithmetic:
    """A calculator and nothing else."""

    @contextmanager
    def open(self) -> Iterator[Sequence[Tool]]:
        yield (Calculator(),)


@dataclass(frozen=True)
class OneTable:
    """A table and a calculator. rows: one tuple per row, in the order of the columns."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]

    @contextmanager
    def open(self) -> Iterator[Sequence[Tool]]:
        yield (Table.from_rows(self.name, self.columns, self.rows), Calculator())

    def as_text(self) -> str:
        """CSV: a header line and one line per row. No value needs quoting."""
        return "\n".join(",".join(map(str, row)) for row in (self.columns, *self.rows))


@dataclass(frozen=True)
class Folder:
    """Text files and a calculator. files: (path with forward slashes, text)."""

    files: tuple[tuple[str, str], ...]

    @contextmanager
    def open(self) -> Iterator[Sequence[Tool]]:
        with tempfile.TemporaryDirectory(prefix="abruzzi-task-") as name:
            root = Path(name)
            for path, text in self.files:
                target = root / path
                target.parent.mkdir(exist_ok=True)
                target.write_text(text, encoding="utf-8")
            yield (Files(root), Calculator())

    def as_text(self) -> str:
        """Every file under a line with its path."""
        return "\n\n".join(f"[{path}]\n{text.rstrip()}" for path, text in self.files)

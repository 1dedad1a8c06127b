"""The registry of built-in tools: which there are, what each needs, and which a server may offer to
a browser.

`abruzzi run`, `abruzzi chat` and the page of `abruzzi serve` all read BUILT_IN, so that they cannot
offer different tools. A new tool is a file beside this one and a line in BUILT_IN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from abruzzi.tools.calculator import Calculator
from abruzzi.tools.files import Files
from abruzzi.tools.table import Table, decoded
from abruzzi.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Given:
    """What a person named on the command line. table: a CSV file. files: a folder that may be
    read."""

    table: Path | None = None
    files: Path | None = None


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One tool that ships with abruzzi.

    make:        the tool, or None where it needs something that was not given. Raises ValueError or OSError with
                 what is wrong with what was given.
    safe_to_serve: whoever reaches the server may call it. Only for tools that read nothing of this machine, keep
                 nothing between calls and need milliseconds; a person's file or folder is for that person alone."""

    name: str
    make: Callable[[Given], Tool | None]
    safe_to_serve: bool = False


# In the order in which a model is told of them: the calculator comes last, as in nano's training.
BUILT_IN: tuple[BuiltIn, ...] = (
    BuiltIn("table", lambda given: _table(given.table) if given.table else None),
    BuiltIn("files", lambda given: Files(given.files) if given.files else None),
    BuiltIn("calculator", lambda given: Calculator(), safe_to_serve=True),
)


def tools_for(given: Given, built_in: Sequence[BuiltIn] = BUILT_IN) -> list[Tool]:
    """The tools of one person at the command line: all for which everything was given."""
    made = (entry.make(given) for entry in built_in)
    return [tool for tool in made if tool is not None]


def tools_to_serve(built_in: Sequence[BuiltIn] = BUILT_IN) -> list[Tool]:
    """The tools of a page that anybody with the server's key may open: the safe ones, and nothing
    was given."""
    return tools_for(Given(), [entry for entry in built_in if entry.safe_to_serve])


def _table(path: Path) -> Table:
    return Table.from_csv(decoded(path.read_bytes(), str(path)), name=path.stem)

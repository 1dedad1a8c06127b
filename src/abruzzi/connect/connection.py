"""A client's configuration as data: settings of files, variables of the environment, and how it is
then started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Format = Literal["json", "toml", "yaml"]
Key = tuple[str, ...]  # where a setting stands: ("provider", "abruzzi", "name")
ENTRY = "[]"  # a key's last part: the setting is one entry of the list there


class Secret(str):
    """A credential: written like any string, and not shown."""


@dataclass(frozen=True, slots=True)
class File:
    """Settings that belong into one file of a client. settings: value by place, in the order in
    which they are written; a value is what the format can hold."""

    path: Path
    format: Format
    settings: Mapping[Key, Any]


@dataclass(frozen=True, slots=True)
class Connection:
    """One client, told where a server is. env: variables, for what no file holds, or instead of
    the files. command: how it is started. notes: what a person should know."""

    client: str
    title: str
    files: tuple[File, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where clients keep their files: a home directory, and variables by which they are told
    otherwise."""

    home: Path
    variables: Mapping[str, str]

    @classmethod
    def of_machine(cls) -> Places:
        """Those of whoever runs this."""
        return cls(Path.home(), os.environ)

    def folder(self, variable: str, *default: str) -> Path:
        """The folder that a variable names, else one below the home directory."""
        said = self.variables.get(variable)
        return Path(said).expanduser() if said else self.home.joinpath(*default)

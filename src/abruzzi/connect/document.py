"""Editing a configuration file of somebody else's: one setting in, one out, everything else as it
was.

Comments, order and quoting survive where the format has a library that keeps them (tomlkit for
TOML, ruamel.yaml for YAML); JSON keeps its order and indentation. What cannot be read is refused
with its place, and nothing is written.
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from typing import Any

from abruzzi.connect.connection import ENTRY, Format, Key
from abruzzi.types import UserError

ABSENT: Any = object()


class DocumentError(UserError):
    """A file that is not what its format wants. The text says where."""


def parse(text: str, format: Format) -> Document:
    """A file's text in one of the formats. Raises DocumentError."""
    return {"json": _Json, "toml": _Toml, "yaml": _Yaml}[format](text)


def plain(value: Any) -> Any:
    """A value without what a library hung on it, to be compared and kept as JSON."""
    return json.loads(json.dumps(value, default=str))


class Document(ABC):
    """A file's text, parsed, its lines ended by LF: mappings and lists in each other. Raises
    DocumentError for what cannot be read."""

    root: Any

    def get(self, key: Key) -> Any:
        """The value there, as JSON has it; ABSENT when there is none. At an ENTRY: the whole
        list."""
        node: Any = self.root
        for name in key:
            if name == ENTRY:
                return plain(node) if isinstance(node, list) else ABSENT
            if not isinstance(node, dict) or name not in node:
                return ABSENT
            node = node[name]
        return plain(node)

    def set(self, key: Key, value: Any) -> None:
        """Put a value there, with the objects around it. At an ENTRY: one more of the list.
        Raises DocumentError where something else is in the way."""
        if key == (ENTRY,) and isinstance(self.root, dict) and not self.root:
            self.root = []
        node = self.root
        for depth, name in enumerate(key):
            here = ".".join(key[:depth]) or "the file"
            last = depth == len(key) - 1
            if name == ENTRY:
                if not isinstance(node, list):
                    raise DocumentError(f"{here} is no list")
                node.append(value)
            elif not isinstance(node, dict):
                raise DocumentError(f"{here} is no object, so {name} cannot stand in it")
            elif last:
                node[name] = value
            else:
                if name not in node:
                    node[name] = [] if key[depth + 1] == ENTRY else self._mapping()
                node = node[name]

    def remove(self, key: Key, value: Any) -> None:
        """Take a value out, and what is empty around it then. At an ENTRY: the last one that equals
        the value."""
        *above, name = key
        node: Any = self.root
        for step in above:
            if not isinstance(node, dict) or step not in node:
                return
            node = node[step]
        if name == ENTRY and isinstance(node, list):
            places = [n for n, entry in enumerate(node) if plain(entry) == value]
            for place in places[-1:]:
                del node[place]
        elif name != ENTRY and isinstance(node, dict) and name in node:
            del node[name]
        else:
            return
        if above and not node:
            self.remove(tuple(above), None)

    @abstractmethod
    def text(self) -> str:
        """The whole file; "" where nothing is left in it."""

    def _mapping(self) -> Any:
        return {}


class _Json(Document):
    def __init__(self, text: str) -> None:
        indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
        self._indent: str | int = indent[1] if indent else 2
        self._last = text[len(text.rstrip()) :] if text.strip() else "\n"
        try:
            self.root = json.loads(text) if text.strip() else {}
        except ValueError as error:
            comment = " (it has comments, which would be lost)" if re.search(r"^\s*//|/\*", text, re.MULTILINE) else ""
            raise DocumentError(f"it is no JSON{comment}: {error}; hint: put the lines in by hand") from error
        if not isinstance(self.root, (dict, list)):
            raise DocumentError("it holds neither an object nor a list")

    def text(self) -> str:
        if not self.root:
            return ""
        return json.dumps(self.root, indent=self._indent, ensure_ascii=False) + self._last


class _Toml(Document):
    def __init__(self, text: str) -> None:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        try:
            self.root = tomlkit.parse(text)
        except TOMLKitError as error:
            raise DocumentError(f"it is no TOML: {error}; hint: mend it, or put the lines in by hand") from error

    def set(self, key: Key, value: Any) -> None:
        # tomlkit puts a key behind the last table, where it would belong to that table.
        if len(key) == 1 and key[0] not in self.root and any(isinstance(v, dict) for v in self.root.values()):
            import tomlkit

            self.root = tomlkit.parse(tomlkit.dumps({key[0]: value}) + self.text())
            return
        super().set(key, value)

    def _mapping(self) -> Any:
        import tomlkit

        return tomlkit.table()

    def text(self) -> str:
        import tomlkit

        return tomlkit.dumps(self.root)


class _Yaml(Document):
    def __init__(self, text: str) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = 4096
        self._bare = text if not text.strip() or all(_is_remark(line) for line in text.splitlines()) else ""
        try:
            self.root = self._yaml.load(text)
        except (YAMLError, ValueError) as error:  # it lets errors of numbers through
            told = " ".join(str(error).split())
            raise DocumentError(f"it is no YAML: {told}; hint: mend it, or put the lines in by hand") from error
        if self.root is None:
            self.root = {}
        if not isinstance(self.root, (dict, list)):
            raise DocumentError("it holds neither an object nor a list")

    def text(self) -> str:
        if not self.root:
            return self._bare
        out = io.StringIO()
        self._yaml.dump(self.root, out)
        return self._bare + out.getvalue()


def _is_remark(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")

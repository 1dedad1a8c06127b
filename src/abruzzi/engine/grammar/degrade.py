"""From a schema to the largest part of it that compiles: what fails is left out by its smallest
subschema.

`repair.py` leaves out what is known not to work. What the compiler refuses all the same is searched
for: inside a subschema that fails alone, the parts that fail alone are mended first; then the
keywords of the subschema that clash are left out. At worst a whole schema becomes {"type":
"object"}.

An example. {"properties": {"a": {"enum": [...20,000 values]}, "b": {"type": "string"}}}: the whole
fails, `b` alone compiles, `a` alone does not, and nothing is inside it, so `/properties/a/enum` is
left out, and `b` stays enforced.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from abruzzi.engine.grammar.repair import Dropped, escaped, repaired

MAX_SCHEMA_CHARS = 65_536
SEARCH_SECONDS = 2.0  # then the whole is left out
_MAX_TRIES = 150
ANY_OBJECT: dict[str, Any] = {"type": "object"}
_KEPT_LAST = ("type", "$ref", "properties", "required", "items", "$defs", "definitions")  # left out last of all

Compile = Callable[[Any], object]  # raises ValueError for what it does not take


def degraded(schema: Any, compile_: Compile) -> tuple[Any, tuple[Dropped, ...]]:
    """The schema that was compiled last of all, by `compile_`, and what was left out for that.

    Raises ValueError where not even {"type": "object"} compiles."""
    size = _size(schema)
    if size is None or size > MAX_SCHEMA_CHARS:
        why = "it is nested too deep" if size is None else f"it has {size} characters of at most {MAX_SCHEMA_CHARS}"
        compile_(ANY_OBJECT)
        return ANY_OBJECT, (Dropped("", why),)
    repair = repaired(schema)
    search = _Search(repair.schema, compile_)
    found = search.mended()
    return found, (*repair.dropped, *search.dropped)


def _size(schema: Any) -> int | None:
    try:
        return len(json.dumps(schema, ensure_ascii=False))
    except RecursionError:
        return None


class _Search:
    """One search for what the compiler does not take."""

    def __init__(self, root: Any, compile_: Compile) -> None:
        self.dropped: list[Dropped] = []
        self._root, self._compile = root, compile_
        self._tries = 0
        self._deadline = time.monotonic() + SEARCH_SECONDS
        self._why = ""

    def mended(self) -> Any:
        """What compiles of the root."""
        if self._fits(self._root):
            return self._root
        why = self._why
        try:
            found = self._mend(self._root, "")
            if found is not None:
                return found
        except TimeoutError:
            why = "it is too large"
        self.dropped = [Dropped("", why)]
        self._compile(ANY_OBJECT)
        return ANY_OBJECT

    def _fits(self, part: Any) -> bool:
        """Whether a part compiles, with the definitions that it may refer to."""
        self._tries += 1
        if self._tries > 1 and (self._tries > _MAX_TRIES or time.monotonic() > self._deadline):
            raise TimeoutError
        if part is not self._root and isinstance(part, dict) and isinstance(self._root, dict):
            part = {**{k: self._root[k] for k in ("$defs", "definitions") if k in self._root}, **part}
        try:
            self._compile(part)
        except ValueError as error:
            self._why = reason(str(error))
            return False
        return True

    def _mend(self, node: Any, pointer: str) -> Any:
        """A part that fails, without what fails in it; None where nothing of it is left."""
        if not isinstance(node, dict):
            return None
        node = dict(node)
        if "oneOf" in node and "anyOf" not in node:
            wider = {("anyOf" if k == "oneOf" else k): v for k, v in node.items()}
            if self._fits(wider):
                self.dropped.append(Dropped(f"{pointer}/oneOf", "the alternatives may overlap: enforced as anyOf"))
                return wider
        for path, child in list(_children(node)):
            if not self._fits(child):
                here, why = pointer + "".join(f"/{escaped(step)}" for step in path), self._why
                found = self._mend(child, here)
                if found is None:
                    self.dropped.append(Dropped(here, why))
                node = _with(node, path, {} if found is None else found)
        if pointer == "":
            self._root = node
        return self._without_keywords(node, pointer)

    def _without_keywords(self, node: dict[str, Any], pointer: str) -> Any:
        """The node without as few of its keywords as we find."""
        if self._fits(node):
            return node
        order = sorted((k for k in node if not k.startswith("$")), key=lambda k: k in _KEPT_LAST)
        for key in order:
            why = self._why
            if self._fits({k: v for k, v in node.items() if k != key}):
                self.dropped.append(Dropped(f"{pointer}/{escaped(key)}", why))
                return {k: v for k, v in node.items() if k != key}
        left = dict(node)
        for key in [*order, "$ref"]:
            if key in left and key != "type":
                why = self._why
                self.dropped.append(Dropped(f"{pointer}/{escaped(key)}", why))
                del left[key]
                if self._fits(left):
                    return left
        return None


def _children(node: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The subschemas of a node, by their path in it."""
    for key in ("$defs", "definitions", "properties", "patternProperties"):
        if isinstance(node.get(key), dict):
            yield from (((key, name), child) for name, child in node[key].items() if child is not False)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
        if isinstance(node.get(key), list):
            yield from (((key, i), child) for i, child in enumerate(node[key]))
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield (key,), node[key]


def _with(node: dict[str, Any], path: tuple[Any, ...], child: Any) -> dict[str, Any]:
    """A copy of the node with another child."""
    key = path[0]
    if len(path) == 1:
        return {**node, key: child}
    within = node[key]
    if isinstance(within, list):
        return {**node, key: [child if i == path[1] else old for i, old in enumerate(within)]}
    return {**node, key: {**within, path[1]: child}}


def reason(message: str) -> str:
    """Why the compiler refuses something, in our words: its own advice is about its own options."""
    text = message.lower()
    for sign, why in _REASONS:
        if sign in text:
            return why
    return "the compiler does not take it"


_REASONS = (
    ("oneof", "the alternatives of oneOf may overlap"),
    ("disjoint", "two patterns of patternProperties may match one name"),
    ("no short text", "no short text satisfies it"),
    ("unsatisfiable", "no text satisfies it"),
    ("lookaround", "^ or $ stands in the middle of a pattern"),
    ("regex parse", "the syntax of a pattern"),
    ("surrogate", "a text has half of a surrogate pair"),
    ("too", "it is too large"),
    ("limit", "it is too large"),
    ("fuel", "it is too large"),
    ("unimplemented", "a keyword that no grammar here has"),
)

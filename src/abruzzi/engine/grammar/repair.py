"""What in a schema no grammar here can enforce, found before anything is compiled: keywords and
values.

`repaired` gives the schema without it, and says by JSON pointer (RFC 6901) what was left out and
why. A caller that promised the whole schema (strict) makes an error of the first one; others go on
with the rest. Keywords that say nothing (annotations, names that JSON Schema does not know) go
without a word: the schema means the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from abruzzi.engine.grammar.patterns import Others, Unenforced, others, rewritten

MAX_DEPTH = 64
MAX_MULTIPLE = 4096  # the compiler builds an automaton of about this many states for each
MAX_LITERAL = 8192
MAX_LEAST = 4000  # characters or items; a completion is searched for in 4096 bytes (ending.py)
# `format` only annotates (JSON Schema 2020-12, 7.2.1); these are enforced all the same.
FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")  # the compiler's
)
_TYPES = frozenset(("string", "integer", "number", "boolean", "array", "object", "null"))
_EXACT = 2**53  # bounds are compared as 64-bit floats
_NO_GRAMMAR = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
    *("$dynamicRef", "$recursiveRef"),
)
_NAMING = frozenset(("$schema", "$id", "id", "$anchor", "$dynamicAnchor"))
_DIALECTS = ("draft-04", "draft-06", "draft-07", "2019-09", "2020-12")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A part that is not enforced. pointer: where it stands in the schema, "" = all of it."""

    pointer: str
    why: str


class Repair:
    """One schema under repair. schema: what is left of it; dropped: what is not."""

    def __init__(self, schema: Any) -> None:
        self.dropped: list[Dropped] = []
        self._root = schema
        self._used = set(_references(schema))
        self.schema: Any = self._node(schema, "", 0)

    def _drop(self, pointer: str, why: str) -> None:
        self.dropped.append(Dropped(pointer, why))

    def _node(self, node: Any, pointer: str, level: int) -> Any:
        if node is True or node is False:
            return node
        if not isinstance(node, Mapping):
            self._drop(pointer, f"a schema is an object, not {_kind(node)}")
            return {}
        if level > MAX_DEPTH:
            self._drop(pointer, f"it is nested deeper than {MAX_DEPTH} levels")
            return {}
        out: dict[str, Any] = {}
        for key, value in node.items():
            here = f"{pointer}/{escaped(key)}"
            if key in _NO_GRAMMAR:
                if not _says_nothing(key, value, node):
                    self._drop(here, "no grammar can hold to this keyword here")
            elif key == "format" and isinstance(value, str) and value not in FORMATS:
                continue
            elif key in _KEYWORDS:
                why = _misfit(_KEYWORDS[key], key, value) or self._unsound(key, value, node)
                if why is not None:
                    self._drop(here, why)
                else:
                    out[key] = self._value(key, value, here, level)
            elif key in _NAMING and isinstance(value, str) and (key != "$schema" or any(d in value for d in _DIALECTS)):
                out[key] = value
        self._required(out, pointer)
        self._pattern_properties(out, pointer)
        return out

    def _value(self, key: str, value: Any, here: str, level: int) -> Any:
        """A keyword's value of the right type, with the schemas in it repaired."""
        if key in ("$defs", "definitions"):
            used = {n: s for n, s in value.items() if self._refers_into(f"{here}/{escaped(n)}")}
            return {n: self._node(s, f"{here}/{escaped(n)}", level + 2) for n, s in used.items()}
        if key in ("properties", "patternProperties"):
            return {n: self._node(s, f"{here}/{escaped(n)}", level + 2) for n, s in value.items()}
        if key in ("anyOf", "oneOf", "allOf", "prefixItems") or (key == "items" and isinstance(value, list)):
            return [self._node(s, f"{here}/{i}", level + 2) for i, s in enumerate(value)]
        if key in ("items", "additionalProperties", "additionalItems"):
            return self._node(value, here, level + 1)
        return rewritten(value) if key == "pattern" else value

    def _refers_into(self, pointer: str) -> bool:
        return any(f"{ref.removeprefix('#')}/".startswith(f"{pointer}/") for ref in self._used)

    def _unsound(self, key: str, value: Any, node: Mapping[str, Any]) -> str | None:
        """Why a value of the right type is not enforced: the compiler refuses it, or gets it wrong
        (as seen against `jsonschema`)."""
        rule = _RULES.get(key)
        if rule is not None:
            return rule(value, node)
        if key == "$ref":
            return self._lost(value)
        return None

    def _lost(self, ref: str) -> str | None:
        """Why a reference leads nowhere."""
        for _ in range(MAX_DEPTH):
            if not ref.startswith("#") or (ref != "#" and not ref.startswith("#/")):
                return "only references into the same schema (#/...) are followed"
            found, target = _resolved(self._root, ref)
            if not found or not isinstance(target, Mapping | bool):
                return "it leads nowhere"
            inner = target.get("$ref") if isinstance(target, Mapping) else None
            if not isinstance(inner, str):
                return None
            ref = inner
        return "it leads to itself"

    def _required(self, out: dict[str, Any], pointer: str) -> None:
        """Required names that additionalProperties=false forbids: nothing would satisfy them."""
        names, known = out.get("required", ()), out.get("properties", {})
        if out.get("additionalProperties") is not False or out.get("patternProperties"):
            return
        lost = [i for i, name in enumerate(names) if name not in known]
        for i in lost:
            self._drop(f"{pointer}/required/{i}", f"{names[i]!r:.60} is not among the properties, and no others may be")
        if lost:
            out["required"] = [name for name in names if name in known]

    def _pattern_properties(self, out: dict[str, Any], pointer: str) -> None:
        """Names by pattern, rewritten. Names that match by one reading only must come under none of
        them."""
        given = out.pop("patternProperties", None)
        if not given:
            return
        here, kept, rest = f"{pointer}/patternProperties", {}, Others.NONE
        for pattern, schema in given.items():
            try:
                text, rest_here = rewritten(pattern), others(pattern)
            except Unenforced as why:
                self._drop(f"{here}/{escaped(pattern)}", f"the pattern has {why}")
                continue
            kept[text] = {"allOf": [kept[text], schema]} if text in kept else schema
            rest = max(rest, rest_here, key=lambda other: other.value)
        named = [*out.get("properties", ()), *out.get("required", ())]
        if kept and rest is not Others.NONE and any(not (n.isascii() and n.isprintable()) for n in named):
            self._drop(here, "whether a declared name matches depends on who reads the pattern")
            return
        if kept and out.get("additionalProperties") is not False:
            if rest is Others.SOME:
                out["additionalProperties"] = False
            elif rest is Others.NEW_LINE:
                kept[r"[\x{a}]$"] = False
        if kept:
            out["patternProperties"] = kept


def repaired(schema: Any) -> Repair:
    """The schema without what cannot be enforced, and what that was."""
    return Repair(schema)


def escaped(name: object) -> str:
    """A step of a JSON pointer."""
    return str(name).replace("~", "~0").replace("/", "~1")


# What a keyword's value must be, and what is wrong with one of the right type.


def _number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and (isinstance(value, int) or isfinite(value))
    )


def _count(value: Any) -> bool:
    return _number(value) and value >= 0 and value == int(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _type(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(k, str) and k in _TYPES for k in kinds)


_SCHEMA = (lambda v: True, "a schema")  # looked at when it is walked into
_SCHEMAS = (lambda v: isinstance(v, list) and bool(v), "a list of schemas")
_NAMED = (lambda v: isinstance(v, dict) and all(isinstance(n, str) for n in v), "an object of schemas")
_NUMBER, _COUNT = (_number, "a finite number"), (_count, "a whole number")
_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_type, f"one of {', '.join(sorted(_TYPES))}"),
    "enum": (lambda v: isinstance(v, list) and bool(v), "a list of values"),
    "const": (lambda v: True, "a value"),
    "required": (_texts, "a list of names"),
    "pattern": (lambda v: isinstance(v, str), "a regular expression"),
    "format": (lambda v: isinstance(v, str), "a name"),
    "$ref": (lambda v: isinstance(v, str), "a reference"),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _NAMED),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(("items", "additionalProperties", "additionalItems"), _SCHEMA),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _NUMBER),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT
    ),
}  # fmt: skip


def _misfit(rule: tuple[Callable[[Any], bool], str], key: str, value: Any) -> str | None:
    return None if rule[0](value) else f"{key} is {_kind(value)}; expected {rule[1]}"


def _pattern_fault(value: str, _: Any) -> str | None:
    try:
        rewritten(value)
    except Unenforced as why:
        return f"the pattern has {why}"
    return None


def _bound_fault(value: float, _: Any) -> str | None:
    return f"the bound {value:g} is beyond what numbers are compared by" if abs(value) > _EXACT else None


def _inclusive_fault(value: float, node: Mapping[str, Any]) -> str | None:
    """The largest integer of 64 bits is where the compiler stops anyway: right, too."""
    if node.get("type") == "integer" and value == 2**63 - 1:
        return None
    return _bound_fault(value, node)


def _exclusive_fault(low: float, node: Mapping[str, Any]) -> str | None:
    high = node.get("exclusiveMaximum", node.get("maximum"))
    if _number(high) and high < low + 1:
        return f"exclusiveMinimum={low} with a maximum less than 1 above it"
    return _bound_fault(low, node)


def _step_fault(step: float, _: Any) -> str | None:
    if step <= 0:
        return f"multipleOf={step}; expected more than 0"
    # Without its decimal point and the zeros at its end: what the automaton counts to.
    digits = f"{step:.12f}".rstrip("0").replace(".", "").lstrip("0").rstrip("0")
    if int(digits or "0") > MAX_MULTIPLE or not int(digits or "0"):
        return f"multipleOf={step} needs too large an automaton; at most {MAX_MULTIPLE} is taken"
    return None


def _fewest_fault(fewest: float, node: Mapping[str, Any]) -> str | None:
    required = node.get("required")
    sure = len(set(required)) if isinstance(required, list) and _texts(required) else 0
    return f"minProperties={fewest} (names that it makes up may be equal)" if fewest > max(1, sure) else None


def _literal_fault(value: Any, _: Any) -> str | None:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and len(text) > MAX_LITERAL:
            return f"a constant has more than {MAX_LITERAL} characters"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "a constant has half of a surrogate pair"
    return None


def _size_fault(least: float, _: Any) -> str | None:
    return f"{least:g} is more than can be completed; at most {MAX_LEAST} is taken" if least > MAX_LEAST else None


_RULES: dict[str, Callable[[Any, Mapping[str, Any]], str | None]] = {
    "pattern": _pattern_fault,
    "minLength": _size_fault,
    "minItems": _size_fault,
    "minimum": _inclusive_fault,
    "maximum": _inclusive_fault,
    "exclusiveMaximum": _bound_fault,
    "exclusiveMinimum": _exclusive_fault,
    "multipleOf": _step_fault,
    "minProperties": _fewest_fault,
    "const": _literal_fault,
    "enum": _literal_fault,
}


def _says_nothing(key: str, value: Any, node: Mapping[str, Any]) -> bool:
    if key in ("then", "else"):
        return "if" not in node
    if key in ("minContains", "maxContains"):
        return "contains" not in node
    if key == "propertyNames":  # every name is a string
        return value in (True, {}, {"type": "string"})
    if key in ("unevaluatedProperties", "unevaluatedItems"):
        return value in (True, {})
    if key in ("dependentRequired", "dependentSchemas", "dependencies"):
        return value == {}
    return key == "uniqueItems" and value is False


def _references(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _resolved(root: Any, ref: str) -> tuple[bool, Any]:
    """Whether a reference "#/..." leads somewhere, and where."""
    part: Any = root
    for step in ref[2:].split("/") if len(ref) > 2 else ():
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and step.isdecimal() and int(step) < len(part):
            part = part[int(step)]
        elif isinstance(part, Mapping) and step in part:
            part = part[step]
        else:
            return False, None
    return True, part


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")

"""Request validation: a JSON object read field by field. A field that nobody read is an error.

Types are checked and never coerced: "5" is not 5, true is not 1. null counts as absent, as in
OpenAI's API, also in a field that nobody knows. Where other people keep their books (items of a
history, declarations of tools) unknown fields are ignored: `ignore_rest`. Every read states the
field's JSON Schema beside its check. request_schema.py runs the same readers on a subclass that
notes these schemas: so a field is told once, and GET /openapi.json follows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self, TypeVar

from abruzzi.server.errors import ApiError, unsupported
from abruzzi.types import brief

T = TypeVar("T")
JsonSchema = dict[str, Any]
MAX_NAMES = 20  # of dropped fields in a header


class Dropped:
    """What was taken without effect, for the answer's header and the metrics.

    lenient: also fields that nobody read. names: of them, in order. counts: how many, by kind."""

    def __init__(self, lenient: bool = False) -> None:
        self.lenient, self.names, self.counts = lenient, list[str](), Counter[str]()

    def add(self, name: str, kind: str) -> None:
        """One field or item, under its name in the request."""
        self.counts[kind] += 1
        if name not in self.names:
            self.names.append(name)

    def header(self) -> str:
        """The value of the response header; "" for nothing."""
        shown = [name.encode("ascii", "backslashreplace").decode()[:100] for name in self.names[:MAX_NAMES]]
        more = len(self.names) - len(shown)
        return ", ".join("".join(c if " " <= c <= "~" else "?" for c in name) for name in shown) + (
            f", and {more} more" if more else ""
        )


class Fields:
    """Reads one JSON object field by field; `end` raises for fields nobody read.

    where: its name in messages. dropped: shared by all objects of a request. Which fields a reader
    reads may depend on `kind` and `given` alone: these are what the schema branches on. A rule
    about two fields (this one needs that one) asks `has`."""

    def __init__(self, value: object, where: str = "", dropped: Dropped | None = None) -> None:
        if not isinstance(value, dict):
            raise wrong(where or "the body", "a JSON object", value)
        self._value, self._where, self._read = value, where, set[str]()
        self._open = False
        self.dropped = Dropped() if dropped is None else dropped

    def name(self, field: str) -> str:
        """The field's full name."""
        return f"{self._where}.{field}" if self._where else field

    def has(self, field: str) -> bool:
        """Whether it was given with a value other than null."""
        return self._value.get(field) is not None

    def peek(self, field: str) -> Any:
        """The value, without reading the field: to say something better of it, or to leave it
        out."""
        return self._value.get(field)

    def unread(self, table: Collection[str]) -> list[str]:
        """The given fields that are in the table and that nobody has read. A table may be much
        longer than a body."""
        return [field for field in self._value if field in table and field not in self._read]

    def ignore_rest(self) -> None:
        """Fields that nobody reads are other people's bookkeeping here: ignored."""
        self._open = True

    def drop(self, field: str, kind: str, value: object = None) -> None:
        """Note that a field is taken without effect, or only this value of it."""
        self._read.add(field)
        shown = "" if value is None else f"={brief(value)}"
        self.dropped.add(f"{self.name(field)}{shown}", kind)

    def raw(self, field: str, schema: JsonSchema, need: bool = False, missing: str = "") -> Any:
        """The value as it is, for the reader to check as `schema` says; None when absent.

        need: absent is an error. missing: the name in that error, where it is not the field's."""
        self._read.add(field)
        value = self._value.get(field)
        if value is None and need:
            raise required(missing or self.name(field))
        return value

    def end(self) -> None:
        """Raises ApiError when a field was not read."""
        if self._open:
            return
        left = [f for f, value in self._value.items() if f not in self._read and value is not None]
        if left and self.dropped.lenient:
            for field in left:
                self.dropped.add(self.name(brief(field)[1:-1]), "field")
        elif left:
            name = self.name(brief(left[0])[1:-1])
            raise ApiError(
                400,
                f"unknown field {name}; hint: this server ignores nothing that could matter; leave it out, "
                "or start the server with --lenient-fields",
                name,
                "unknown_field",
            )

    # what the schema branches on

    def kind(self, field: str, *allowed: str, hint: str = "", default: str | None = None) -> str:
        """The discriminator: which kind of object this is. hint: for an unsupported kind."""
        value = self.raw(field, {"enum": [*allowed]})
        value = default if value is None else value
        if isinstance(value, str) and value in allowed:
            return value
        if hint:
            raise unsupported(self.name(field), value, hint)
        raise required(self.name(field)) if value is None else self._not_among(field, allowed, value)

    def given(self, field: str) -> bool:
        """`has`, where other fields are read with this one than without it."""
        self._read.add(field)
        return self.has(field)

    # scalars

    def text(self, field: str, known: Sequence[str] = ()) -> str | None:
        """A string. known: those that exist, for the schema; the caller refuses the others
        (404)."""
        return self._typed(field, str, "a string", {"enum": [*known]} if known else {"type": "string"})

    def required_text(self, field: str, filled: bool = False, missing: str = "") -> str:
        """A string that must be there. filled: "" is refused. missing: as in `raw`."""
        schema: JsonSchema = {"type": "string", "minLength": 1} if filled else {"type": "string"}
        value = self.raw(field, schema, True, missing)
        if not isinstance(value, str) or (filled and not value):
            raise wrong(self.name(field), "a non-empty string" if filled else "a string", value)
        return value

    def boolean(self, field: str) -> bool | None:
        """true or false."""
        return self._typed(field, bool, "true or false", {"type": "boolean"})

    def integer(self, field: str, low: int, high: int = 2**63 - 1, need: bool = False) -> int | None:
        """A whole number in [low, high]."""
        value = self.raw(field, {"type": "integer", "minimum": low, "maximum": high}, need)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise wrong(self.name(field), f"a whole number from {low} to {high}", value)
        return value

    def number(self, field: str, low: float, high: float, above: bool = False) -> float | None:
        """A finite number in [low, high]; in (low, high] with `above`."""
        value = self.raw(field, {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high})
        if value is None:
            return None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high or (above and value == low):
            span = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
            raise wrong(self.name(field), f"a number {span}", value)
        assert math.isfinite(value)
        return float(value)

    def choice(self, field: str, *allowed: str) -> str | None:
        """One of these strings."""
        return self._chosen(field, allowed, False)

    def required_choice(self, field: str, *allowed: str) -> str:
        """One of these strings, which must be there."""
        value = self._chosen(field, allowed, True)
        assert value is not None
        return value

    def only(self, field: str, *values: Any, hint: str) -> None:
        """Absent, or one of the values that mean what this server does anyway."""
        value = self.raw(field, {"enum": [*values]})
        if value is not None and not any(v == value and isinstance(v, bool) == isinstance(value, bool) for v in values):
            raise unsupported(self.name(field), value, hint)

    # lists of scalars

    def token_ids(
        self, field: str, vocab_size: int | None = None, most: int | None = None, need: bool = False
    ) -> tuple[int, ...]:
        """A list of at most `most` token ids; () when absent. vocab_size: None = any."""
        item: JsonSchema = {"type": "integer", "minimum": 0}
        item |= {} if vocab_size is None else {"maximum": vocab_size - 1}
        value = self.raw(field, {"type": "array", "items": item, **({} if most is None else {"maxItems": most})}, need)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise wrong(self.name(field), "a list", value)
        end = math.inf if vocab_size is None else vocab_size
        bad = [i for i in value if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < end]
        if bad or (most is not None and len(value) > most):
            count = "" if most is None else f"at most {most} "
            span = "" if vocab_size is None else f" from 0 to {vocab_size - 1}"
            raise wrong(self.name(field), f"{count}token ids{span}", bad[0] if bad else value)
        return tuple(value)

    def strings(self, field: str, most: int, longest: int) -> tuple[str, ...]:
        """A string or a list of at most `most` strings of 1 to `longest` characters; () when
        absent."""
        one: JsonSchema = {"type": "string", "minLength": 1, "maxLength": longest}
        value = self.raw(field, {"anyOf": [one, {"type": "array", "maxItems": most, "items": one}]})
        if value is None:
            return ()
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or len(listed) > most or any(not isinstance(s, str) or not s for s in listed):
            raise wrong(self.name(field), f"a string or up to {most} strings, none empty", value)
        long = next((s for s in listed if len(s) > longest), None)
        if long is not None:
            raise wrong(self.name(field), f"of at most {longest} characters each", f"one of {len(long)}")
        return tuple(listed)

    def words(self, field: str, *allowed: str) -> tuple[str, ...]:
        """A list of these strings; () when absent."""
        listed = self._typed(field, list, "a list", {"type": "array", "items": {"enum": [*allowed]}}) or []
        for value in listed:
            if value not in allowed:
                raise unsupported(self.name(field), value, f"only {', '.join(allowed)}")
        return tuple(listed)

    # objects

    def mapping(self, field: str, want: str = "an object") -> dict[str, Any] | None:
        """An object as it is, with any fields."""
        return self._typed(field, dict, want, {"type": "object"})

    def label(self, field: str, kind: type[str] | type[dict]) -> None:
        """A name that a client attaches for itself and that changes no answer (user, metadata)."""
        _ = self.text(field) if kind is str else self.mapping(field)

    def object(self, field: str, need: bool = False) -> Fields | None:
        """An object whose fields are always the same ones; the reader ends it."""
        value = self.raw(field, {"type": "object"}, need)
        return None if value is None else self._nested(value, self.name(field))

    def required_object(self, field: str) -> Fields:
        """An object that must be there; the reader ends it."""
        value = self.object(field, need=True)
        assert value is not None
        return value

    def parsed(self, field: str, read: Callable[[Fields], T]) -> T | None:
        """What `read` makes of an object, which may be of one `kind` or another."""
        value = self.raw(field, {"type": "object"})
        return None if value is None else read_all(self._nested(value, self.name(field)), read)

    def parsed_or(self, field: str, allowed: Sequence[str], read: Callable[[Fields], T], hint: str) -> str | T | None:
        """One of these strings, or what `read` makes of an object. hint: for anything else."""
        value = self.raw(field, {})
        if value is None or isinstance(value, dict):
            return self.parsed(field, read)
        if not isinstance(value, str) or value not in allowed:
            raise unsupported(self.name(field), value, hint)
        return value

    def each(self, field: str, read: Callable[[Fields], T], need: bool = False, missing: str = "") -> list[T]:
        """What `read` makes of each object of a list.

        need: it must have one at least. missing: as in `raw`."""
        value = self._typed(field, list, "a list", {"type": "array"})
        if need and not value:
            raise required(missing or self.name(field))
        return [read_all(self._nested(v, f"{self.name(field)}[{n}]"), read) for n, v in enumerate(value or [])]

    def text_or_each(
        self, field: str, read: Callable[[Fields], T], parts: str, need: bool = False, least: int = 0
    ) -> str | list[T] | None:
        """A string, or what `read` makes of each of at least `least` objects.

        parts: what they are called. need: it must be there."""
        value = self.raw(field, {}, need)
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise wrong(self.name(field), f"text or a list of {parts}", value)
        if len(value) < least:
            raise required(self.name(field))
        return self.each(field, read)

    # parts

    def _nested(self, value: object, where: str) -> Self:
        return type(self)(value, where, self.dropped)

    def _typed(self, field: str, kind: type, want: str, schema: JsonSchema) -> Any:
        value = self.raw(field, schema)
        if value is not None and not isinstance(value, kind):
            raise wrong(self.name(field), want, value)
        return value

    def _chosen(self, field: str, allowed: Sequence[str], need: bool) -> str | None:
        value = self.raw(field, {"enum": [*allowed]}, need)
        if value is not None and (not isinstance(value, str) or value not in allowed):
            raise self._not_among(field, allowed, value)
        return value

    def _not_among(self, field: str, allowed: Sequence[str], value: object) -> ApiError:
        return wrong(self.name(field), "one of " + ", ".join(allowed), value)


def read_all(fields: Fields, read: Callable[[Fields], T]) -> T:
    """What `read` makes of the object. Raises ApiError for fields that it did not read."""
    out = read(fields)
    fields.end()
    return out


def wrong(name: str, want: str, value: object) -> ApiError:
    """A value of a wrong type or range."""
    return ApiError(400, f"{name} must be {want}, got {brief(value)}", name, "invalid_value")


def required(name: str) -> ApiError:
    """A field that must be there."""
    return ApiError(400, f"{name} is required", name, "missing_required_parameter")

"""One JSON object of a request, read field by field. A field that nobody read is an error that names it.

Types are checked and never coerced: "5" is not 5, true is not 1. null counts as absent, as in OpenAI's API.
"""

from __future__ import annotations

import math
from typing import Any

from abruzzi.server.errors import ApiError, unsupported
from abruzzi.types import brief


class Fields:
    """Reads of one object; `end` complains about what is left. where: its name, for messages."""

    def __init__(self, given: object, where: str = "") -> None:
        if not isinstance(given, dict):
            raise wrong(where or "the body", "a JSON object", given)
        self._given, self._where, self._read = given, where, set[str]()

    def name(self, field: str) -> str:
        """The field's full name."""
        return f"{self._where}.{field}" if self._where else field

    def has(self, field: str) -> bool:
        """Whether it was given with a value other than null."""
        return self._given.get(field) is not None

    def any(self, field: str) -> Any:
        """The value as it is; None when absent."""
        self._read.add(field)
        return self._given.get(field)

    def text(self, field: str) -> str | None:
        """A string."""
        return self._typed(field, str, "a string")

    def boolean(self, field: str) -> bool | None:
        """true or false."""
        return self._typed(field, bool, "true or false")

    def integer(self, field: str, low: int, high: int = 2**63 - 1) -> int | None:
        """A whole number in [low, high]."""
        value = self.any(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(self.name(field), f"a whole number from {low} to {high}", value)
        return value

    def number(self, field: str, low: float, high: float) -> float | None:
        """A finite number in [low, high]."""
        value = self.any(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise wrong(self.name(field), f"a number from {low:g} to {high:g}", value)
        number = float(value)
        assert math.isfinite(number)
        return number

    def items(self, field: str) -> list[Any] | None:
        """A list."""
        return self._typed(field, list, "a list")

    def object(self, field: str) -> Fields | None:
        """An object, to be read the same way."""
        value = self.any(field)
        return None if value is None else Fields(value, self.name(field))

    def choice(self, field: str, *allowed: str) -> str | None:
        """One of these strings."""
        value = self.any(field)
        if value is not None and (not isinstance(value, str) or value not in allowed):
            raise wrong(self.name(field), "one of " + ", ".join(allowed), value)
        return value

    def token_ids(self, field: str, vocab_size: int) -> tuple[int, ...] | None:
        """A list of token ids of this vocabulary."""
        value = self.items(field)
        if value is None:
            return None
        for token_id in value:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise wrong(self.name(field), f"token ids from 0 to {vocab_size - 1}", token_id)
        return tuple(value)

    def only(self, field: str, *values: Any, hint: str) -> None:
        """Absent, or one of the values that mean what this server does anyway."""
        value = self.any(field)
        if value is not None and not any(type(value) is type(v) and value == v for v in values):
            raise unsupported(self.name(field), value, hint)

    def label(self, field: str, kind: type) -> None:
        """A name that a client attaches for itself and that changes no answer (user, metadata)."""
        self._typed(field, kind, "a string" if kind is str else "an object")

    def end(self) -> None:
        """Raises ApiError when a field was not read."""
        left = [f for f in self._given if f not in self._read]
        if left:
            name = self.name(brief(left[0])[1:-1])
            raise ApiError(
                400, f"unknown field {name}; hint: this server ignores nothing, so drop it", name, "unknown_field"
            )

    def _typed(self, field: str, kind: type, want: str) -> Any:
        value = self.any(field)
        if value is not None and not isinstance(value, kind):
            raise wrong(self.name(field), want, value)
        return value


def wrong(name: str, want: str, given: object) -> ApiError:
    """A value of a wrong type or range."""
    return ApiError(400, f"{name} must be {want}, got {brief(given)}", name, "invalid_value")


def required(name: str) -> ApiError:
    """A field that must be there."""
    return ApiError(400, f"{name} is required", name, "missing_required_parameter")

"""JSON as the RFC has it: no NaN or Infinity, no number that overflows, no half of a surrogate
pair.

Python's reader takes all three. The first two would be echoed as what is no JSON; the third cannot
be written as UTF-8, so it would fail later and elsewhere.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

from abruzzi.server.errors import ApiError

# Only an escape can bring a surrogate in: UTF-8 has none. So a text without one needs no second
# look.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def strict_json(text: str, yields: bool = False) -> Any:
    """The value of a JSON text. yields: let other threads run while it is read, which costs some
    time: the parser is one call that keeps the interpreter's lock, unless it calls Python. Raises
    ValueError, RecursionError, and ApiError that names the place of a lone surrogate."""
    hooks: dict[str, Any] = {"parse_int": _whole, "object_pairs_hook": _object} if yields else {}
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, **hooks)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "digits" in str(error):  # Python's advice is for its programmer, not for the client's
            raise ValueError(f"a number has more than {sys.get_int_max_str_digits():,} digits") from None
        raise
    if _SURROGATE_ESCAPE.search(text):
        place = _lone_surrogate(value)
        if place is not None:
            raise ApiError(
                400,
                f"{place or 'the body'} holds half of a surrogate pair, which is no Unicode text; "
                "hint: the client cut a string in the middle of a character",
                place or None,
                "invalid_unicode",
            )
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"the number {number:.40} is too large")
    return value


def _whole(number: str) -> int:
    return int(number)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


def _lone_surrogate(value: Any) -> str | None:
    """The place of the first string or key with a lone surrogate; None when there is none. Depth by
    a stack: the value may be as deep as the reader allows."""
    stack: list[tuple[Any, str]] = [(value, "")]
    while stack:
        item, place = stack.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                return place
        elif isinstance(item, list):
            stack.extend((inner, f"{place}[{n}]") for n, inner in reversed(list(enumerate(item))))
        elif isinstance(item, dict):
            for key in item:
                if _SURROGATE.search(key):
                    return f"{place}{'.' if place else ''}{key.encode('ascii', 'backslashreplace').decode()[:60]}"
            stack.extend((item[key], f"{place}{'.' if place else ''}{key[:60]}") for key in reversed(list(item)))
    return None

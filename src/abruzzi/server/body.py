"""Request bodies: JSON within limits of size, time and number of values; and the scope of the client that sent it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, read_all
from abruzzi.server.guard import presented_key
from abruzzi.server.json_scan import too_many
from abruzzi.server.offload import SMALL
from abruzzi.server.service import Service

T = TypeVar("T")
MAX_VALUES = 500_000  # of a body's JSON; an agent's whole conversation has some thousands


async def read_body(service: Service, request: Request) -> Any:
    """The JSON of a request, within limits of size, time and number of values. Raises ApiError."""
    return await _built(service, await _received(service, request))


async def read_fields(service: Service, request: Request, read: Callable[[Fields], T]) -> T:
    """What a reader makes of the body, off the event loop where it is large. Raises ApiError."""
    data = await _received(service, request)
    body = await _built(service, data)
    return await service.offload.run(len(data), lambda: read_all(Fields(body), read))


async def _received(service: Service, request: Request) -> bytearray:
    limit = service.settings.max_body
    too_large = ApiError(413, f"the body is larger than {limit} bytes", None, "request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(service.settings.body_seconds):
            async for piece in request.stream():
                data += piece
                if len(data) > limit:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body took longer than {service.settings.body_seconds:g} s", None, "timeout") from None
    return data


async def _built(service: Service, data: bytearray) -> Any:
    """The values of a JSON text, counted first."""
    if len(data) > MAX_VALUES and await service.offload.run(len(data), lambda: any(too_many(data, MAX_VALUES))):
        raise ApiError(
            400,
            f"the body has more than {MAX_VALUES:,} JSON values; hint: send text as strings",
            None,
            "too_many_values",
        )
    try:
        return await service.offload.run(len(data), _load, data)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, f"the body is not valid JSON: {str(error) or 'too deep'!s:.200}", None, "invalid_json"
        ) from None


def _load(data: bytearray) -> Any:
    text = data.decode("utf-8")
    if len(data) <= SMALL:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    # The parser is one call that keeps the interpreter's lock, unless it calls Python: each call may pass the lock on.
    return json.loads(
        text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_object
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.40} is too large for a double")
    return number


def _whole(text: str) -> int:
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


def scope_of(service: Service, request: Request) -> bytes:
    """The client's scope: it may see the turns that were made with the same key."""
    return service.seal.scope(presented_key(request.headers))

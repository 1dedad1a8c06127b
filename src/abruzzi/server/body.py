"""Request bodies: JSON within limits of size, time and number of values; and the scope of the
client that sent it."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from abruzzi.server.compression import decoded
from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Dropped, Fields, read_all
from abruzzi.server.guard import presented_key
from abruzzi.server.json_scan import too_many
from abruzzi.server.offload import SMALL
from abruzzi.server.service import Service
from abruzzi.server.strict_json import strict_json

T = TypeVar("T")
MAX_VALUES = 500_000  # of a body's JSON; an agent's whole conversation has some thousands


async def read_body(service: Service, request: Request) -> Any:
    """The JSON of a request, within limits of size, time and number of values. Raises ApiError."""
    return await _built(service, await _received(service, request))


async def read_fields(service: Service, request: Request, read: Callable[[Fields], T]) -> T:
    """What a reader makes of the body, off the event loop where it is large. What it drops is named
    in a header of the answer (request.state.dropped). Raises ApiError."""
    data = await _received(service, request)
    body = await _built(service, data)
    dropped = request.state.dropped = Dropped(service.settings.lenient_fields)
    return await service.offload.run(len(data), lambda: read_all(Fields(body, dropped=dropped), read))


async def _received(service: Service, request: Request) -> bytearray:
    limit = service.settings.max_body
    too_large = ApiError(413, f"the body is larger than {limit} bytes", None, "request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(service.settings.body_seconds):
            async for piece in decoded(request.stream(), request.headers, limit):
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
    if not data.strip():
        raise ValueError("it is empty")
    return strict_json(data.removeprefix(codecs.BOM_UTF8).decode("utf-8"), yields=len(data) > SMALL)


def scope_of(service: Service, request: Request) -> bytes:
    """The client's scope: it may see the turns that were made with the same key."""
    return service.seal.scope(presented_key(request.headers))

"""Request bodies: JSON within limits of size and time; and the scope of the client that sent it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from abruzzi.server.errors import ApiError
from abruzzi.server.guard import presented_key
from abruzzi.server.service import Service


async def read_body(service: Service, request: Request) -> Any:
    """The JSON of a request, within limits of size and time."""
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
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, f"the body is not valid JSON: {str(error) or 'too deep'!s:.200}", None, "invalid_json"
        ) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def scope_of(service: Service, request: Request) -> bytes:
    """The client's scope: it may see the turns that were made with the same key."""
    return service.seal.scope(presented_key(request.headers))

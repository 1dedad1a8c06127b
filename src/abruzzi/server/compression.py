"""Content-Encoding of requests: gzip, deflate, br and zstd, decoded in pieces that end at a limit.

A small body can hold a large one (a decompression bomb), so no step makes more than PIECE bytes and
whoever reads stops when it has enough. gzip and deflate are Python's own; br and zstd need the
libraries of `abruzzi[serve]`. What cannot be decoded is a 415 that names Content-Encoding (RFC
9110, 8.4 and 15.5.16).
"""

from __future__ import annotations

import asyncio
import io
import secrets
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

from starlette.datastructures import Headers

from abruzzi.server.errors import ApiError

PIECE = 256 * 1024
MAX_CODINGS = 2  # one upon the other
_ZSTD_WINDOW = 2**27  # 128 MB: more is a bomb of another kind
Decode = Callable[[bytes], Iterator[bytes]]


async def decoded(stream: AsyncIterator[bytes], headers: Headers, limit: int) -> AsyncIterator[bytes]:
    """The body of a request without its content codings, in pieces.

    limit: bytes that it may have, before and behind decoding. Raises ApiError: 415 for a coding
    that is not known here, 413 behind the limit, 400 for data that are not what the header says."""
    decoders = _decoders(headers)
    if not decoders:
        async for piece in stream:
            yield piece
        return
    data = bytearray()
    async for piece in stream:
        data += piece
        if len(data) > limit:
            raise _too_large(limit)
    if not data:  # nothing is nothing in every coding
        return
    whole = bytes(data)
    for name, decode in decoders[:-1]:
        data = bytearray()
        async for piece in _pieces(name, decode(whole)):
            data += piece
            if len(data) > limit:
                raise _too_large(limit)
        whole = bytes(data)
    name, decode = decoders[-1]
    async for piece in _pieces(name, decode(whole)):
        yield piece


def accepted() -> tuple[str, ...]:
    """The codings that are decoded here, with the libraries that are installed."""
    return tuple(name for name, decode in _codings().items() if decode is not None)


def _decoders(headers: Headers) -> list[tuple[str, Decode]]:
    """In the order in which they are undone: the last coding that was applied is named last."""
    named = [part.strip().lower() for value in headers.getlist("content-encoding") for part in value.split(",")]
    codings = [name.removeprefix("x-") for name in named if name not in ("", "identity")]
    known = _codings()
    wrong = next((name for name in codings if known.get(name) is None), None)
    if wrong is not None or len(codings) > MAX_CODINGS:
        names = ", ".join(accepted())
        raise ApiError(
            415,
            f"Content-Encoding {', '.join(named)!r:.60} is not decoded here; hint: send the body as it is, or "
            f"with one of {names}{_missing(wrong)}",
            None,
            "unsupported_encoding",
            extra_headers={"Accept-Encoding": names},
        )
    return [(name, decode) for name in reversed(codings) if (decode := known[name]) is not None]


def _missing(name: str | None) -> str:
    return " (pip install 'abruzzi[serve]' brings br and zstd)" if name in ("br", "zstd") else ""


def _codings() -> dict[str, Decode | None]:
    """Every coding that could be decoded; None where its library is not installed."""
    return {"gzip": _gunzip, "deflate": _inflate, "br": _brotli(), "zstd": _zstd()}


async def _pieces(name: str, steps: Iterator[bytes]) -> AsyncIterator[bytes]:
    """One step at a time: between two of them others are served."""
    while True:
        try:
            piece = next(steps, None)
        except ApiError:
            raise
        except Exception as error:  # each library has its own
            raise ApiError(
                400, f"the body is not valid {name}: {error!s:.100}", "Content-Encoding", "invalid_encoding"
            ) from None
        if piece is None:
            return
        yield piece
        await asyncio.sleep(0)


def _gunzip(data: bytes) -> Iterator[bytes]:
    """Members one behind the other are one text (RFC 1952, 2.2)."""
    while data:
        unpack = zlib.decompressobj(wbits=31)
        yield from _zlib_pieces(unpack, data)
        data = unpack.unused_data


def _inflate(data: bytes) -> Iterator[bytes]:
    """With zlib's header, as the RFC says, or without, as many send it."""
    zlib_header = len(data) > 1 and data[0] & 15 == 8 and (data[0] * 256 + data[1]) % 31 == 0
    unpack = zlib.decompressobj(wbits=15 if zlib_header else -15)
    yield from _zlib_pieces(unpack, data)
    if unpack.unused_data:
        raise ValueError("there is more behind its end")


def _zlib_pieces(unpack: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    while not unpack.eof:
        piece = unpack.decompress(data, PIECE)
        data = unpack.unconsumed_tail
        if not piece and not data and not unpack.eof:
            raise ValueError("it ends in the middle")
        yield piece


def _brotli() -> Decode | None:
    try:
        import brotli  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    if not hasattr(brotli.Decompressor, "can_accept_more_data"):
        return None  # before 1.2 a step could not be bounded

    def decode(data: bytes) -> Iterator[bytes]:
        unpack = brotli.Decompressor()
        while True:
            piece = unpack.process(data, output_buffer_limit=PIECE)
            yield piece
            if unpack.is_finished():
                return
            if not piece:
                raise ValueError("it ends in the middle")
            data = b""

    return decode


def _zstd() -> Decode | None:
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    def decode(data: bytes) -> Iterator[bytes]:
        # The library does not say whether the last frame was whole, so a frame that we know follows
        # it.
        mark = secrets.token_bytes(8) * 32
        source = io.BytesIO(data + zstandard.compress(mark))
        frames, held = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW), b""
        with frames.stream_reader(source, read_size=PIECE, read_across_frames=True) as reader:
            while piece := reader.read(PIECE):
                held += piece
                yield held[: -len(mark)]
                held = held[-len(mark) :]
        if held != mark:
            raise ValueError("it ends in the middle")

    return decode


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", None, "request_too_large")

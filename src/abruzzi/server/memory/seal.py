"""Seals: sampled turns signed with an HMAC, for the client to keep; and ids that nobody can guess.

A sealed turn is the ids of a sampled message (or of its thought), the hash of the prompt that it
followed and of what it said, with an HMAC over them and over the client's scope. A client keeps it
(Anthropic's `signature`, Responses' `encrypted_content`) and brings it back, so nothing needs to be
stored. It is authenticated, not secret: it holds no more than the thought that the client was
shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abruzzi.tokenizer.formats.open_calls import OpenCalls
from abruzzi.types import Message, ToolCall

MARK = "abz1."
HASH_BYTES = 16
# The key under which a dialect of objects carries arguments that are no JSON object.
BROKEN_JSON = "__invalid_json__"
MAX_CANONICAL = 100_000  # about the values of arguments that are read; larger ones must come back as they were
_HEAD = struct.Struct(f"<B{HASH_BYTES}s{HASH_BYTES}sI")


@dataclass(frozen=True, slots=True)
class SampledTurn:
    """The ids of an assistant message, behind its header. whole: False when only the thought is
    known.

    prefix: hash of what its prompt was rendered from. content: hash of what it said
    (content_hash)."""

    prefix: bytes
    content: bytes
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    whole: bool = True


class Seal:
    """Signs turns and verifies them. key: 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_file(cls, file: Path) -> Seal:
        """The key in this file, made on first use with mode 0600. Raises ValueError when
        damaged."""
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = file.read_bytes()
            if len(key) != 32:
                raise ValueError(
                    f"{file} has {len(key)} bytes, expected 32; hint: delete it to get a new key"
                ) from None
            if file.stat().st_mode & 0o077:
                raise ValueError(f"{file} may be read by others; hint: chmod 600 {file}") from None
            return cls(key)
        with os.fdopen(handle, "wb") as out:
            key = secrets.token_bytes(32)
            out.write(key)
        return cls(key)

    def scope(self, api_key: str) -> bytes:
        """The client's scope: a keyed hash of its API key."""
        return hmac.digest(self._key, b"scope\0" + api_key.encode("utf-8", "surrogatepass"), "sha256")[:HASH_BYTES]

    def write(self, scope: bytes, turn: SampledTurn) -> str:
        """The sealed turn, as text of safe characters."""
        head = _HEAD.pack(turn.whole, turn.prefix, turn.content, len(turn.ids))
        payload = head + zlib.compress(array("I", turn.ids).tobytes() + bytes(turn.sampled), 1)
        return f"{MARK}{_text(payload)}.{_text(self._mac(scope, payload))}"

    def read(self, scope: bytes, sealed: str) -> SampledTurn | None:
        """The turn; None for text that is no seal of ours. Raises ValueError for a forgery."""
        if not sealed.startswith(MARK):
            return None
        payload_text, _, mac_text = sealed[len(MARK) :].partition(".")
        try:
            payload, mac = _bytes(payload_text), _bytes(mac_text)
        except (binascii.Error, ValueError):
            payload, mac = b"", b""
        if not hmac.compare_digest(mac, self._mac(scope, payload)) or len(payload) < _HEAD.size:
            raise ValueError(
                "the signature of a thought was not made by this server for this API key, or was changed; "
                "hint: send thinking back as it came, or leave the thinking block out"
            )
        whole, prefix, content, count = _HEAD.unpack_from(payload)
        ids = array("I")
        body = zlib.decompress(payload[_HEAD.size :])
        ids.frombytes(body[: count * ids.itemsize])
        return SampledTurn(prefix, content, tuple(ids), tuple(map(bool, body[count * ids.itemsize :])), bool(whole))

    def _mac(self, scope: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, b"turn\0" + scope + payload, "sha256")


def wire_id(prefix: str) -> str:
    """An id that nobody can guess: 128 random bits."""
    return prefix + secrets.token_hex(16)


def content_hash(content: str | None, calls: Sequence[ToolCall]) -> bytes:
    """The hash of a message's content, as far as clients keep it.

    White space around the text and the layout of arguments are lost by some, ids are rewritten by
    others."""
    parts = [(content or "").strip(), [[c.name, canonical_arguments(c.arguments)] for c in calls]]
    text = json.dumps(parts, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def canonical_arguments(text: str) -> str:
    """Equal for arguments that are the same JSON to a client that keeps numbers as doubles, as
    JavaScript does: it sends 1.0 back as 1, 1e3 as 1000, and large integers with their last digits
    changed."""
    if text.count(",") + text.count("[") + text.count("{") > MAX_CANONICAL:
        return text
    try:
        value = json.loads(text, parse_int=_double, parse_float=_double) if text.strip() else {}
        if isinstance(value, dict) and set(value) == {BROKEN_JSON} and isinstance(value[BROKEN_JSON], str):
            return canonical_arguments(value[BROKEN_JSON])
        return json.dumps(value, sort_keys=True, ensure_ascii=True)
    except (ValueError, RecursionError):
        return text


def _double(number: str) -> float:
    return float(number) + 0.0  # -0.0 becomes 0.0


class PrefixHash:
    """A running hash of everything that a prompt is rendered from, message by message.

    Equal hashes mean equal prompts, because `render` is a function of exactly these things: tools,
    defaults and the messages, in which sampled ids stand for themselves and a call's id only for
    the call that its result answers. Rendering every prefix of a conversation would give the same
    answer in quadratic time."""

    def __init__(self, **settings: Any) -> None:
        self._digest = hashlib.blake2b(digest_size=HASH_BYTES)
        self._open = OpenCalls[int]()  # with their numbers
        self._calls = 0
        self._add(sorted(settings.items()))

    def digest(self) -> bytes:
        """The hash of what was added so far."""
        return self._digest.digest()

    def add(self, message: Message) -> None:
        """The next message, with its ids if it has them."""
        if message.role == "assistant":
            calls = [[c.name, c.arguments, c.index] for c in message.tool_calls]
            if message.ids is not None:
                self._add(["sampled", message.name, list(message.ids), [[n, i] for n, _, i in calls]])
            else:
                self._add(["said", message.name, message.content or "", message.reasoning_content or "", calls])
            for call in message.tool_calls:
                self._open.add(call.id, self._calls)
                self._calls += 1
            return
        answers = -1
        if message.role == "tool":
            found = self._open.answer(message.tool_call_id)
            answers = -1 if found is None else found
        role = "system" if message.role == "developer" else message.role
        self._add([role, message.name, message.content or "", answers])

    def _add(self, value: Any) -> None:
        text = json.dumps(value, ensure_ascii=True, sort_keys=True)
        self._digest.update(len(text).to_bytes(8, "little") + text.encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

"""Overflow in the words that clients know; compressed bodies; strings and numbers JSON cannot hold;
wrong paths."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.datastructures import Headers

from abruzzi.engine.prompt import room_behind
from abruzzi.server.compression import PIECE, accepted, decoded
from abruzzi.server.errors import ContextExceeded, anthropic_error, not_submitted
from abruzzi.types import ContextFull
from tests.unit.server.scripted_engine import Served, saying, serving

ASK = {"role": "user", "content": "Hi"}
CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [ASK]},
    COMPLETIONS: {"prompt": "Hi"},
    MESSAGES: {"messages": [ASK], "max_tokens": 9},
    RESPONSES: {"input": "Hi"},
}
JSON_TYPE = {"content-type": "application/json"}


def send(server: Served, path: str, data: bytes, **headers: str) -> Any:
    return server.do(lambda: server.http(**JSON_TYPE, **headers).post(path, content=data))


# overflow

OPENAI = re.compile(
    r"This model's maximum context length is 128 tokens, but the prompt has (\d+) "
    r"\(context_length_exceeded\).*; hint: .+"
)
ANTHROPIC = re.compile(r"prompt is too long: (\d+) tokens > 128 maximum")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(LEAST))
def test_an_overflow_is_said_in_the_dialects_own_words(path: str, stream: bool) -> None:
    long = "a b " * 200
    field = {CHAT: "messages", MESSAGES: "messages", COMPLETIONS: "prompt", RESPONSES: "input"}[path]
    value = [{"role": "user", "content": long}] if field == "messages" else long
    with serving(saying("x[end]", max_context=128)) as server:
        answer = server.post(path, {**LEAST[path], field: value, "stream": stream})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["code"] == "context_length_exceeded"
    said = (ANTHROPIC if path == MESSAGES else OPENAI).fullmatch(error["message"])
    assert said is not None and int(said[1]) > 128, error["message"]


def test_inside_a_stream_the_words_are_the_same() -> None:
    error = ContextExceeded(300, 128)
    assert ANTHROPIC.fullmatch(anthropic_error(error)["error"]["message"])
    assert OPENAI.fullmatch(error.message)
    with pytest.raises(ContextFull) as full:
        room_behind([1] * 300, 16, 128)
    assert not_submitted(full.value).message == error.message


# bytes


def compressed(coding: str, data: bytes) -> bytes:
    if coding in ("gzip", "x-gzip", "GZIP"):
        return gzip.compress(data)
    if coding == "deflate":
        return zlib.compress(data)
    if coding == "zstd":
        return pytest.importorskip("zstandard").compress(data)
    return pytest.importorskip("brotli").compress(data)


@pytest.mark.parametrize("path", list(LEAST))
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "deflate", "br", "zstd", "identity"])
def test_a_compressed_body_is_the_body(coding: str, path: str) -> None:
    data = json.dumps(LEAST[path]).encode()
    with serving(saying("x[end]")) as server:
        packed = data if coding == "identity" else compressed(coding, data)
        assert send(server, path, packed, **{"content-encoding": coding}).status_code == 200
        server.post(path, LEAST[path])
        assert server.llm.prompts[0] == server.llm.prompts[1]


def test_other_forms_of_the_same_codings_are_read() -> None:
    data = json.dumps(LEAST[CHAT]).encode()
    half = len(data) // 2
    raw = zlib.compressobj(wbits=-15)
    with serving(saying("x[end]")) as server:
        for coding, packed in (
            ("gzip", gzip.compress(data[:half]) + gzip.compress(data[half:])),
            ("deflate", raw.compress(data) + raw.flush()),
            ("deflate, gzip", gzip.compress(zlib.compress(data))),
            ("identity, gzip", gzip.compress(data)),
        ):
            assert send(server, CHAT, packed, **{"content-encoding": coding}).status_code == 200, coding


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    """A few kB that unpack to 64 MB: no more than the limit and one step are ever made."""
    data = b'{"messages": [{"role": "user", "content": "' + b" " * (64 << 20) + b'"}]}'
    packed = compressed(coding, data)
    with serving(saying("x[end]"), max_body=1 << 20) as server:
        answer = send(server, CHAT, packed, **{"content-encoding": coding})
        assert len(packed) < 1 << 20 and answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_no_step_makes_more_than_a_few_pieces(coding: str) -> None:
    async def largest() -> int:
        async def stream() -> AsyncIterator[bytes]:
            yield compressed(coding, b" " * (16 << 20))

        return max([len(p) async for p in decoded(stream(), Headers({"content-encoding": coding}), 1 << 30)])

    assert asyncio.run(largest()) <= 4 * PIECE


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_data_that_are_not_what_the_header_says_are_a_400(coding: str) -> None:
    data = json.dumps({"messages": [{"role": "user", "content": "Hi " * 3000}]}).encode()
    packed = compressed(coding, data)
    with serving(saying("x[end]")) as server:
        for broken in (data, packed[:-1], packed[: len(packed) // 2], packed[:3], packed + b"more"):
            answer = send(server, CHAT, broken, **{"content-encoding": coding})
            assert answer.status_code == 400 and coding in answer.json()["error"]["message"], answer.text
        assert server.llm.prompts == []


@pytest.mark.parametrize(
    "coding", ["compress", "lzma", "gzip, gzip, gzip", "zstd;q=1", "aws-chunked", "*", "xz, gzip", "utf-8"]
)
def test_a_coding_that_is_not_known_is_a_415_that_names_it(coding: str) -> None:
    with serving(saying("x[end]")) as server:
        for path in LEAST:
            answer = send(server, path, b"{}", **{"content-encoding": coding})
            message = answer.json()["error"]["message"]
            assert answer.status_code == 415 and "Content-Encoding" in message and "gzip, deflate" in message
            assert answer.headers["accept-encoding"] == ", ".join(accepted())


PLACES: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": [{"role": "user", "content": "a\ud83d"}]}, "messages[0].content"),
    (CHAT, {"messages": [ASK], "user": "\udc00"}, "user"),
    (CHAT, {"messages": [ASK], "stop": ["ok", "\ud800"]}, "stop[1]"),
    (CHAT, {"messages": [ASK], "\ud800": 1}, "\\ud800"),
    (
        CHAT,
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "\ud801", "function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].id",
    ),
    (
        CHAT,
        {"messages": [ASK], "tools": [{"function": {"name": "f", "parameters": {"properties": {"\udfff": {}}}}}]},
        "tools[0].function.parameters.properties.\\udfff",
    ),
    (COMPLETIONS, {"prompt": ["a", "\udbff b"]}, "prompt[1]"),
    (MESSAGES, {"messages": [{**ASK, "id": "\ud800"}], "max_tokens": 9}, "messages[0].id"),
    (MESSAGES, {"messages": [ASK], "max_tokens": 9, "system": [{"type": "text", "text": "\ud800"}]}, "system[0].text"),
    (MESSAGES, {"messages": [ASK], "max_tokens": 9, "metadata": {"user_id": "\udead"}}, "metadata.user_id"),
    (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "\ud800", "output": ""}]}, "input[0].call_id"),
    (RESPONSES, {"input": "Hi", "metadata": {"k\ud800": "v"}}, "metadata.k\\ud800"),
    ("/tokenize", {"content": "\ud800"}, "content"),
    (f"{CHAT}/control", {"id": "\ud800", "action": "reasoning_end"}, "id"),
]


@pytest.mark.parametrize(("path", "body", "place"), PLACES)
def test_half_of_a_surrogate_pair_is_a_400_with_its_place(path: str, body: dict[str, Any], place: str) -> None:
    with serving(saying("x[end]")) as server:
        answer = send(server, path, json.dumps(body).encode())
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == place and error["message"].startswith(place), error


def test_a_whole_pair_and_an_escaped_backslash_are_text() -> None:
    with serving(saying("x[end]")) as server:
        for text in (r'"\ud83d\ude00"', r'"\\ud83d"', '"😀"', r'"\u00e9"'):
            body = b'{"messages": [{"role": "user", "content": ' + text.encode() + b"}]}"
            assert send(server, CHAT, body).status_code == 200, text


@pytest.mark.parametrize("number", ["1e999", "-1e400", "1E+309", "123456789e302", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, '{"messages": [{"role": "user", "content": "Hi"}], "metadata": {"x": [%s]}}'),
        (CHAT, '{"messages": [{"role": "user", "content": "Hi"}], "temperature": %s}'),
        (COMPLETIONS, '{"prompt": "Hi", "seed": %s}'),
        (MESSAGES, '{"max_tokens": 9, "messages": [{"role": "user", "content": "Hi", "n": %s}]}'),
        (RESPONSES, '{"input": "Hi", "metadata": {"x": %s}}'),
    ],
)
def test_a_number_that_json_cannot_hold_is_a_400(path: str, body: str, number: str) -> None:
    with serving(saying("x[end]")) as server:
        answer = send(server, path, (body % number).encode())
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json", answer.text
        assert number.lstrip("-")[:4] in answer.json()["error"]["message"]


def test_a_number_of_too_many_digits_is_a_400_in_our_words() -> None:
    body = b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": ' + b"9" * 5_000 + b"}"
    with serving(saying("x[end]")) as server:
        answer = send(server, CHAT, body)
        empty = send(server, CHAT, b" ")
    assert answer.status_code == 400 and "more than 4,300 digits" in answer.text and "sys." not in answer.text
    assert empty.status_code == 400 and "it is empty" in empty.text


def test_a_byte_order_mark_is_passed_over() -> None:
    with serving(saying("x[end]")) as server:
        assert send(server, CHAT, b"\xef\xbb\xbf" + json.dumps(LEAST[CHAT]).encode()).status_code == 200


def test_what_the_model_writes_is_never_echoed_as_infinity() -> None:
    tool = {"name": "calc", "input_schema": {"type": "object"}}
    said = '[calls][call]functions.calc:0[args]{"x":1e999}[/call][/calls][end]'
    with serving(saying(said), constrained=False) as server:
        answer = server.post(MESSAGES, {**LEAST[MESSAGES], "max_tokens": 99, "tools": [tool]})
    json.loads(answer.text, parse_constant=pytest.fail)
    assert answer.json()["content"][0]["input"] == {"__invalid_json__": '{"x":1e999}'}


# top_p, seeds


@pytest.mark.parametrize("path", list(LEAST))
def test_top_p_0_is_the_likeliest_token(path: str) -> None:
    with serving(saying("x[end]")) as server:
        for value in (0, 0.0, -0.0):
            answer = server.post(path, {**LEAST[path], "top_p": value, "temperature": 1})
            assert answer.status_code == 200, answer.text
            params = server.llm.submitted[-1].params
            assert params.temperature == 0 and params.top_p == 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_samples_of_one_seed_are_not_those_of_the_next(path: str) -> None:
    with serving(saying("x[end]")) as server:
        for seed in range(6):
            server.post(path, {**LEAST[path], "n": 5, "seed": seed})
        seeds = [sequence.params.seed for sequence in server.llm.submitted]
        assert len(set(seeds)) == len(seeds) == 30 and seeds[::5] == [*range(6)]


# paths


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *(("GET", path, "POST") for path in LEAST),
        ("DELETE", CHAT, "POST"),
        ("PUT", "/tokenize", "POST"),
        ("OPTIONS", MESSAGES, "POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/health", "GET"),
        ("PATCH", "/v1/models/tiny", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(method: str, path: str, allow: str) -> None:
    with serving(saying("x[end]")) as server:
        answer = server.do(lambda: server.http(**JSON_TYPE).request(method, path))
    assert answer.status_code == 405 and allow in answer.headers["allow"].split(", ")
    assert f"use {answer.headers['allow']}" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/v1/chat/completions", CHAT),
        ("/chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/v1//chat/completions", CHAT),
        ("//v1/chat/completions", CHAT),
        ("/V1/Chat/Completions", CHAT),
        ("/api/chat", CHAT),
        ("/api/v1/chat/completions", CHAT),
        ("/openai/deployments/tiny/chat/completions", CHAT),
        ("/v1/chat", CHAT),
        ("/v1/v1/messages", MESSAGES),
        ("/messages", MESSAGES),
        ("/anthropic/v1/messages", MESSAGES),
        ("/v1/messages/", MESSAGES),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/complete", MESSAGES),
        ("/v1/v1/responses", RESPONSES),
        ("/backend-api/codex/responses", RESPONSES),
        ("/responses/", RESPONSES),
        ("/completion", COMPLETIONS),
        ("/completions", COMPLETIONS),
        ("/api/generate", COMPLETIONS),
        ("/v1/engines/tiny/completions", COMPLETIONS),
        ("/v1/tokenize", "/tokenize"),
        ("/models", "/v1/models"),
        ("/api/tags", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/health", "/health"),
        ("/health/", "/health"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/images/generations", "text only"),
        ("/v1", "base URL"),
        ("/something/else", "/openapi.json"),
    ],
)
def test_a_wrong_path_is_told_the_right_one(path: str, right: str) -> None:
    with serving(saying("x[end]")) as server:
        for method in ("POST", "GET"):
            asked = (method, f"http://localhost{path}")
            answer = server.do(lambda asked=asked: server.http(**JSON_TYPE).request(*asked))
            message = answer.json()["error"]["message"]
            assert answer.status_code == 404, message
            hint = message.partition("hint: ")[2]
            assert right in hint, message
            assert not right.startswith("/") or right == "/openapi.json" or hint.split()[1] == right, message


def test_the_list_of_models_with_a_slash_more_is_told_apart_from_a_model_without_a_name() -> None:
    with serving(saying("x[end]")) as server:
        answer = server.get("/v1/models/")
    assert answer.status_code == 404 and "hint: GET /v1/models" in answer.json()["error"]["message"]

"""The endpoint client against a server that says exactly what a test tells it, byte by byte."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from abruzzi.agent.client import EndpointError, HttpChatModel
from abruzzi.types import (
    ContentDelta,
    Message,
    MessageEnd,
    ReasoningDelta,
    SamplingParams,
    ToolCall,
    ToolCallEnd,
    ToolSpec,
    Usage,
)

TOOL = ToolSpec("f", "A tool.", {"type": "object", "properties": {}})


class Server:
    """Answers every POST with `body` and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.hang = 200, b"", False
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._answer(outer.status, outer.body)

            def do_GET(self) -> None:
                self._answer(200, json.dumps({"data": [{"id": "one"}, {"id": "two"}]}).encode())

            def _answer(self, status: int, body: bytes) -> None:
                if outer.hang:
                    threading.Event().wait(2)
                    return
                self.send_response(status)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def sse(*chunks: dict[str, Any], done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(c)}\n\n" for c in chunks]
    return "".join([": ping\n\n", *lines, "data: [DONE]\n\n" if done else ""]).encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call(index: int, **fields: Any) -> dict[str, Any]:
    return {
        "index": index,
        **{k: v for k, v in fields.items() if k == "id"},
        "function": {k: v for k, v in fields.items() if k != "id"},
    }


SENT = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "max_tokens": 8, "stop": ("a", "b"), "seed": 0,
    "thinking_budget": 0,
}  # fmt: skip


def test_every_sampling_parameter_that_was_asked_for_is_sent_or_refused_and_no_other(server: Server) -> None:
    server.body = sse(delta(content="Hi", finish="stop"))
    model = HttpChatModel(server.url, "m")
    for name, value in SENT.items():
        list(model.chat([Message("user", "Hi")], (), SamplingParams(**{name: value})))
    list(model.chat([Message("user", "Hi")]))
    names = {"thinking_budget": "thinking_token_budget"}
    always = {"model", "messages", "stream", "stream_options", "temperature"}
    *asked, plain = server.asked
    assert set(plain) == always and plain["temperature"] == 1.0
    for body, (name, value) in zip(asked, SENT.items(), strict=True):
        assert set(body) == always | {names.get(name, name)}
        assert body[names.get(name, name)] == (list(value) if isinstance(value, tuple) else value)
    for name, value in (("stop_token_ids", (1,)), ("top_logprobs", 2)):
        with pytest.raises(ValueError, match=f"{name} cannot be sent to an endpoint; hint: "):
            list(model.chat([Message("user", "Hi")], (), SamplingParams(**{name: value})))
    # A new parameter is sent as it is called; here it needs a value to be tried with.
    assert {*SENT, "stop_token_ids", "top_logprobs"} == {field.name for field in fields(SamplingParams)}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_text_calls_and_usage_are_put_together(server: Server, field: str) -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    server.body = sse(
        delta(role="assistant", content=""),
        delta(**{field: "let me "}),
        delta(**{field: "see"}),
        delta(content="Looking."),
        delta(tool_calls=[call(0, id="call_a", name="f", arguments="")]),
        delta(tool_calls=[call(0, arguments='{"x"')]),
        delta(tool_calls=[call(0, arguments=": 1}")]),
        delta(tool_calls=[call(1, id="call_b", name="g", arguments="{}")]),
        delta(finish="tool_calls"),
        {"choices": [], "usage": usage},
    )
    history = [
        Message("user", "Hi"),
        Message("assistant", "", reasoning_content="kept", tool_calls=(ToolCall("f", "{}", "call_9"),)),
        Message("tool", "42", tool_call_id="call_9"),
    ]
    model = HttpChatModel(server.url, "m", api_key="secret")
    events = list(model.chat(history, [TOOL], SamplingParams(temperature=0.5, max_tokens=8, seed=1)))
    end = events[-1]
    assert isinstance(end, MessageEnd)
    assert end.message == Message(
        "assistant",
        "Looking.",
        reasoning_content="let me see",
        tool_calls=(ToolCall("f", '{"x": 1}', "call_a"), ToolCall("g", "{}", "call_b")),
    )
    assert end.finish_reason == "tool_calls" and end.usage == Usage(9, 3, 7, 2)
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "let me see"
    assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == "Looking."
    assert [e.position for e in events if isinstance(e, ToolCallEnd)] == [0, 1]
    (asked,) = server.asked
    assert asked["messages"][1]["reasoning_content"] == "kept"  # thinking goes back to the model
    assert asked["messages"][2] == {"role": "tool", "content": "42", "tool_call_id": "call_9"}
    assert asked["tools"] == [TOOL.to_openai()] and asked["stream"] is True
    assert (asked["temperature"], asked["max_tokens"], asked["seed"]) == (0.5, 8, 1)
    assert "top_p" not in asked and "stop" not in asked
    assert server.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, b'{"error": "no"}', r"answered 401.*--api-key"),
        (404, b"not here", r"answered 404.*--served-model"),
        (500, b"boom", r"answered 500: boom"),
        (200, b"<html>hello</html>", r"answered with text/event-stream where.*<html>hello</html>; hint"),
        (200, b"", r"closed the stream"),
        (200, b"data: {nonsense\n\n", r"not JSON.*OpenAI-compatible"),
        (200, b"data: [1]\n\n", r"where an object was expected"),
        (200, sse({"error": {"message": "out of memory"}}), r"reported an error.*out of memory"),
        (200, sse(delta(content="half"), done=False), r"closed the stream in mid-answer"),
    ],
)
def test_nonsense_is_one_clear_line(server: Server, status: int, body: bytes, says: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(EndpointError, match=says) as caught:
        list(HttpChatModel(server.url, "m").chat([Message("user", "Hi")]))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_or_slow_is_named(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match=f"127.0.0.1:{port}/v1 cannot be reached.*is the server running"):
        list(HttpChatModel(f"http://127.0.0.1:{port}", "m").chat([Message("user", "Hi")]))
    server.hang = True
    with pytest.raises(EndpointError, match="did not answer in time"):
        list(HttpChatModel(server.url, "m", timeout=0.3).chat([Message("user", "Hi")]))


def test_a_server_that_dies_in_mid_answer_is_named() -> None:
    """As llama-server killed while it streams: a chunked body that never ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def die() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            piece = sse(delta(content="half"), done=False)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + f"{len(piece):x}\r\n".encode() + piece + b"\r\n")

    thread = threading.Thread(target=die)
    thread.start()
    with listener, pytest.raises(EndpointError, match=r"broke off its answer.*did the server stop") as caught:
        list(HttpChatModel(f"http://127.0.0.1:{listener.getsockname()[1]}", "m").chat([Message("user", "Hi")]))
    thread.join()
    assert "\n" not in str(caught.value)


def test_models_are_listed_and_urls_checked(server: Server) -> None:
    assert HttpChatModel(server.url + "/v1/", "m").list_models() == ["one", "two"]
    with pytest.raises(ValueError, match="must start with http"):
        HttpChatModel("localhost:8000", "m")
    with pytest.raises(ValueError, match="stop_token_ids"):
        list(HttpChatModel(server.url, "m").chat([], params=SamplingParams(stop_token_ids=(1,))))

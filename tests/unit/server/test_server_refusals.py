"""What is not supported, malformed or out of bounds is an error that names it: never ignored, never
a 500, no hang."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abruzzi.server.guard import require_key_off_loopback
from tests.unit.server.scripted_engine import CALCULATOR, saying, serving

CHAT, USER = "/v1/chat/completions", [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["", "a"]}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "stop": ["x"]}, "stop"),
        ({"response_format": {"type": "json_object"}, "stop_token_ids": [5]}, "stop_token_ids"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CALCULATOR], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [CALCULATOR], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [CALCULATOR], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [CALCULATOR, CALCULATOR]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "strict": True, "parameters": {"not": {"type": "null"}}},
                    }
                ]
            },
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"reasoning_effort": "none", "thinking": {"type": "enabled"}}, "thinking.type"),
        ({"thinking": {"type": "disabled", "budget_tokens": 9}}, None),
        ({"chat_template_kwargs": {"foo": 1}}, "chat_template_kwargs.foo"),
        ({"store": True}, "store"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"metadata": 3}, "metadata"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"cheese": 1}, "cheese"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "no"}]}, "messages"),
        ({"messages": [{"role": "assistant", "reasoning": "a", "thinking": "b"}]}, "messages[0].reasoning"),
        ({"messages": []}, "messages (or prompt_token_ids, not both)"),
        ({"prompt_token_ids": [1]}, "messages (or prompt_token_ids, not both)"),
    ],
)
def test_a_field_at_fault_is_named(fields: dict[str, Any], param: str | None) -> None:
    with serving(saying("x[end]")) as server:
        answer = server.post(CHAT, {"messages": USER, **fields})
        assert server.llm.prompts == []
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param, error
    assert error["type"] == "invalid_request_error" and error["message"]


def test_the_context_is_never_cut() -> None:
    long = {"messages": [{"role": "user", "content": "a b " * 200}]}
    with serving(saying("x[end]", max_context=128)) as server:
        for body in (long, {**long, "stream": True}):
            answer = server.post(CHAT, body)
            error = answer.json()["error"]
            assert answer.status_code == 400 and error["code"] == "context_length_exceeded"
            assert error["message"].startswith("This model's maximum context length is 128 tokens, but the prompt has ")


def test_another_model_is_not_there() -> None:
    with serving(saying("x[end]")) as server:
        answer = server.post(CHAT, {"model": "gpt-5", "messages": USER})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", CHAT, {"content-type": "text/plain"}, "{}", 415),
        ("POST", CHAT, {}, "{}", 415),
        ("POST", CHAT, {"content-type": "application/x-www-form-urlencoded"}, "a=b", 415),
        ("POST", CHAT, {"origin": "https://evil.example", "content-type": "application/json"}, "{}", 403),
        ("POST", CHAT, {"origin": "null", "content-type": "application/json"}, "{}", 403),
        ("POST", CHAT, {"origin": "http://localhost:3000", "content-type": "application/json"}, "{}", 403),
        ("GET", "/v1/models", {"host": "evil.example"}, "", 403),
        ("GET", "/v1/models", {"host": "localhost.evil.example"}, "", 403),
        ("GET", "/v1/models", {"host": "192.168.0.7"}, "", 403),
        ("GET", "/v1/models", {"host": "a@localhost"}, "", 403),
        ("GET", "/v1/models", {"host": ""}, "", 403),
        ("GET", "/v1/models", {"sec-fetch-site": "cross-site"}, "", 403),
        ("OPTIONS", CHAT, {"origin": "https://evil.example", "access-control-request-method": "POST"}, "", 403),
        ("GET", CHAT, {}, "", 405),
        ("GET", "/nothing", {}, "", 404),
        ("POST", CHAT, {"content-type": "application/json"}, "{", 400),
        ("POST", CHAT, {"content-type": "application/json"}, '{"a": NaN}', 400),
        ("POST", CHAT, {"content-type": "application/json"}, "[" * 4000, 400),
        ("POST", CHAT, {"content-type": "application/json"}, b'{"a": "\xff"}', 400),
        ("POST", CHAT, {"content-type": "application/json"}, '"' + "x" * 5000 + '"', 413),
    ],
)
def test_the_door(method: str, path: str, headers: dict[str, str], body: Any, status: int) -> None:
    with serving(saying("x[end]"), max_body=4096) as server:
        answer = server.do(lambda: server.http().request(method, path, headers=headers, content=body))
    assert answer.status_code == status
    assert "message" in answer.json()["error"]
    assert not [h for h in answer.headers if h.startswith("access-control")]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8420", "[::1]:8420", "LOCALHOST:1"])
def test_our_own_names_pass(host: str) -> None:
    with serving(saying("x[end]")) as server:
        origin = f"http://{host.lower()}"
        assert server.get("/v1/models", host=host, origin=origin).status_code == 200


def test_the_key() -> None:
    with serving(saying("x[end]"), api_key="a-long-secret") as server:
        assert server.get("/v1/models").status_code == 401
        wrong = server.get("/v1/models", authorization="Bearer a-long-secreT")
        assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
        assert wrong.headers["www-authenticate"] == "Bearer"
        assert server.get("/v1/models", authorization="Bearer a-long-secret").status_code == 200
        assert server.get("/v1/models", **{"x-api-key": "a-long-secret"}).status_code == 200
        assert server.get("/health").json() == {"status": "ok"}
        assert "model" in server.get("/health", authorization="Bearer a-long-secret").json()


def test_elsewhere_than_loopback_needs_a_key() -> None:
    with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0 lets other machines in"):
        require_key_off_loopback("0.0.0.0", None)
    with pytest.raises(ValueError, match="fewer than 8"):
        require_key_off_loopback("0.0.0.0", "short")
    require_key_off_loopback("0.0.0.0", "long enough")
    require_key_off_loopback("127.0.0.1", None)
    with serving(saying("x[end]"), host="0.0.0.0", api_key="long enough", hosts=("box.lan",)) as server:
        key = {"x-api-key": "long enough"}
        assert server.get("/v1/models", host="192.168.0.7:8420", **key).status_code == 200
        assert server.get("/v1/models", host="box.lan", **key).status_code == 200
        assert server.get("/v1/models", host="evil.example", **key).status_code == 403


def test_a_full_queue_says_when_to_come_back() -> None:
    with serving(saying("a long answer[end]"), max_sequences=2) as server:

        async def ask() -> list[int]:
            server.llm.gate.clear()
            first = asyncio.create_task(server.http().post(CHAT, json={"messages": USER, "n": 2}))
            while server.service.engine.open < 2:
                await asyncio.sleep(0.01)
            refused = await server.http().post(CHAT, json={"messages": USER})
            assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["code"] == "queue_full"
            server.llm.gate.set()
            done = await first
            again = await server.http().post(CHAT, json={"messages": USER})
            return [refused.status_code, done.status_code, again.status_code]

        assert server.do(ask) == [429, 200, 200]


def test_a_failing_engine_fails_its_requests_and_not_the_server() -> None:
    llm = saying("good[end]")
    step = llm.step

    def broken() -> Any:
        if len(llm.prompts) == 1:
            raise RuntimeError("kernel on fire")
        return step()

    llm.step = broken  # type: ignore[method-assign]
    with serving(llm) as server:
        bad = server.post(CHAT, {"messages": USER})
        assert bad.status_code == 500 and "kernel on fire" in bad.json()["error"]["message"]
        good = server.post(CHAT, {"messages": USER})
        assert good.json()["choices"][0]["message"]["content"] == "good"
        assert server.get("/health").json()["engine_failures"] == 1


def test_an_error_in_mid_stream_is_an_event() -> None:
    llm = saying("never said[end]")

    def broken() -> Any:
        raise RuntimeError("kernel on fire")

    llm.step = broken  # type: ignore[method-assign]
    with serving(llm) as server:
        text = server.post(CHAT, {"messages": USER, "stream": True}).text
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "kernel on fire" in data[-1]["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(("user", "text")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = """
messages model stream stream_options max_tokens temperature top_p top_k min_p seed stop n logprobs tools tool_choice
reasoning_effort reasoning thinking chat_template_kwargs thinking_token_budget prompt_token_ids return_token_ids
response_format prompt echo suffix input instructions max_output_tokens include text system stop_sequences
metadata user tokens id action output_config
"""
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(("user", "assistant", "tool", "system", "x"))},
        optional={
            "content": JSON,
            "tool_calls": JSON | st.just([{"id": "a", "function": {"name": "f", "arguments": "{"}}]),
            "tool_call_id": JSON | st.just("a"),
            "reasoning_content": JSON,
            "reasoning_details": JSON,
        },
    ),
    max_size=3,
)
BODIES = st.builds(
    lambda fields, messages, some: {**fields, **({"messages": messages} if some else {})},
    st.dictionaries(st.sampled_from(NAMES.split()) | st.text(max_size=5), JSON, max_size=4),
    MESSAGES,
    st.booleans(),
)
PATHS = (CHAT, "/v1/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/tokenize")
PATHS += ("/detokenize", "/v1/chat/completions/control")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PATHS), BODIES | JSON), max_size=8))
def test_no_body_gives_a_500_or_a_hang(asked: list[tuple[str, Any]]) -> None:
    with serving(saying("<think>a</think>b[end]")) as server:

        async def ask() -> None:
            async with server.http() as http:
                for path, body in asked:
                    content = json.dumps(body, allow_nan=True).encode()
                    answer = await http.post(path, content=content, headers={"content-type": "application/json"})
                    assert answer.status_code < 500, (path, body, answer.text)
                    if answer.status_code >= 400:
                        assert "message" in answer.json()["error"]

        server.do(ask)
        assert server.llm.live == {}

"""Requests in the shape that agents send them: Claude Code, Codex, Qwen Code, pi, smolagents, the
OpenAI Agents SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abruzzi.tokenizer.formats.render import tools_text
from tests.unit.server.scripted_engine import TOK, Served, call, saying, serving, spelled

MESSAGES, RESPONSES, CHAT = "/v1/messages", "/v1/responses", "/v1/chat/completions"
CACHED = {"cache_control": {"type": "ephemeral"}}
BILLING = "x-anthropic-billing-header: cc_version=9.9.9.a1b; cc_entrypoint=cli;"
STRING = {"type": "string"}


def claude_tool(name: str, **fields: Any) -> dict[str, Any]:
    """As Claude Code declares one: draft 2020-12, closed, described."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "path": {**STRING, "description": "Where."},
            "limit": {"type": "integer", "exclusiveMinimum": 0},
        },
        "required": ["path"],
        "additionalProperties": False,
    }
    return {"name": name, "description": f"{name} does what it says.", "input_schema": schema, **fields}


def claude(**fields: Any) -> dict[str, Any]:
    """A first request of Claude Code, shortened."""
    blocks = [{"type": "text", "text": "<system-reminder>Files.</system-reminder>"}, {"type": "text", "text": "Hi"}]
    return {
        "model": "tiny",
        "max_tokens": 3200,
        "messages": [
            {"role": "user", "content": blocks},
            {"role": "system", "content": [{"type": "text", "text": "Mode: plan.", **CACHED}]},
        ],
        "system": [{"type": "text", "text": BILLING}, {"type": "text", "text": "You are Claude Code.", **CACHED}],
        "tools": [claude_tool("Read"), claude_tool("ToolSearch"), claude_tool("WebFetch", defer_loading=True)],
        "metadata": {"user_id": "user_1"},
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
        **fields,
    }


def codex(**fields: Any) -> dict[str, Any]:
    """A first request of Codex, shortened."""
    function = {"type": "function", "strict": False, "parameters": {"type": "object", "properties": {"id": STRING}}}
    agents = [{**function, "name": name, "description": f"{name} an agent."} for name in ("close", "spawn")]
    return {
        "model": "tiny",
        "stream": True,
        "input": [
            {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "Be."}]},
            {"type": "message", "id": "msg_2", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        ],
        "tools": [
            {**function, "name": "exec_command", "description": "Runs a command."},
            {"type": "namespace", "name": "agents_v1", "description": "Other agents.", "tools": agents},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"thread_id": "t", "x-codex-window-id": "w:0"},
        **fields,
    }


def qwen(**fields: Any) -> dict[str, Any]:
    one_of = {"type": "object", "properties": {"a": {"oneOf": [STRING, {"type": "array", "items": STRING}]}}}
    return {
        "model": "tiny",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "agent", "description": "One more.", "parameters": one_of}],
        "prompt_cache_key": "qwen-code:1",
        "store": False,
        "tool_choice": "auto",
        "max_output_tokens": 3200,
        **fields,
    }


AGENTS_SDK: dict[str, Any] = {
    "model": "tiny",
    "include": [],
    "input": [{"content": "Weather?", "role": "user"}],
    "instructions": "Be brief.",
    "tools": [
        {"name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False, "type": "function"}
    ],
}
SMOL: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "You call tools."}]},
        {"role": "user", "content": [{"type": "text", "text": "New task"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Calling tools: [{'id': 'a'}]"}]},
        {"role": "user", "content": [{"type": "text", "text": "Observation: 21"}]},
    ],
    "model": "tiny",
    "stop": ["Observation:", "Calling tools:"],
    "tools": [
        {"type": "function", "function": {"name": "final_answer", "description": "", "parameters": {"type": "object"}}}
    ],
}
PI: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "developer", "content": "Be."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "store": False,
    "max_completion_tokens": 1638,
    "tools": [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}, "strict": False}}],
    "reasoning_effort": "medium",
}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MESSAGES, claude()),
        (MESSAGES, claude(thinking={"type": "adaptive", "display": "updates"})),
        (MESSAGES, claude(thinking={"type": "adaptive", "display": "summarized"}, betas=["a-1"])),
        (MESSAGES, claude(tools=[claude_tool("Read", eager_input_streaming=True)])),
        (MESSAGES, claude(safeguards=[{"type": "dangerous_tool_use", "classifier_context": {"v": 1}}])),
        (RESPONSES, codex()),
        (RESPONSES, codex(tools=codex()["tools"][:1], reasoning={"effort": "high", "summary": "none"})),
        (RESPONSES, qwen()),
        (
            RESPONSES,
            qwen(
                input=[
                    {"type": "message", "role": "user", "content": "Look."},
                    {"type": "message", "role": "assistant", "content": "I look."},
                    {"type": "message", "role": "assistant", "content": "Let me look."},
                    {"type": "function_call", "call_id": "c", "name": "agent", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "a.txt"},
                ]
            ),
        ),
        (RESPONSES, {**AGENTS_SDK, "store": True}),
        (RESPONSES, {**AGENTS_SDK, "reasoning": {"effort": "medium", "summary": "concise"}, "truncation": "auto"}),
        (RESPONSES, {**AGENTS_SDK, "text": {"verbosity": "low"}, "include": ["web_search_call.action.sources"]}),
        (CHAT, SMOL),
        (CHAT, PI),
    ],
)
def test_first_requests_of_agents_are_taken(path: str, body: dict[str, Any]) -> None:
    with serving(saying("<think>a</think>b[end]"), max_body=10**6) as server:
        answer = server.post(path, body)
    assert answer.status_code == 200, answer.text


def prompt(server: Served, body: dict[str, Any], path: str = MESSAGES) -> str:
    answer = server.post(path, {**body, "stream": False})
    assert answer.status_code == 200, answer.text
    return TOK.decode(server.llm.prompts[-1])


# Claude Code


def test_the_billing_line_never_reaches_the_model() -> None:
    with serving(saying("a[end]")) as server:
        plain = prompt(server, claude(system=[{"type": "text", "text": "You are Claude Code."}]))
        for system in (
            claude()["system"],
            f"{BILLING}\nYou are Claude Code.",
            [{"type": "text", "text": f"{BILLING}\n\nYou are Claude Code."}],
            [{"type": "text", "text": BILLING.replace("9.9", "1.2")}, {"type": "text", "text": "You are Claude Code."}],
        ):
            assert prompt(server, claude(system=system)) == plain
        assert "billing" in prompt(server, claude(system="Explain x-anthropic-billing-header."))


def searched(*names: str, **fields: Any) -> dict[str, Any]:
    """ToolSearch has found these tools."""
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    use = {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"path": "x"}}
    body = claude(**fields)
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": references, **CACHED}
    turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    return {**body, "messages": [*body["messages"], *turns]}


def test_a_deferred_tool_is_declared_where_a_reference_names_it() -> None:
    with serving(saying("a[end]")) as server:
        before = prompt(server, claude())
        after = prompt(server, searched("WebFetch"))
        tool = claude_tool("WebFetch")
        function = {"name": "WebFetch", "description": tool["description"], "parameters": tool["input_schema"]}
        declared = tools_text([{"type": "function", "function": function}], TOK.format)
        assert "WebFetch" not in before and "Read" in before
        head = before[: before.rindex("<|im_assistant|>")]
        assert after.startswith(head), "the declaration stands at its place, and the prefix is kept"
        assert after.count(declared) == 1 and after.index(declared) > len(head)


def test_only_declared_tools_can_be_called() -> None:
    fetch = "[calls]" + call("WebFetch", '{"path":"x"}', 1) + "[/calls][end]"
    with serving(saying(fetch)) as server:
        quick = {"stream": False, "thinking": {"type": "disabled"}, "output_config": None}
        loaded = server.post(MESSAGES, {**searched("WebFetch"), **quick}).json()
        assert loaded["content"][0]["name"] == "WebFetch"
        named = {"tool_choice": {"type": "tool", "name": "WebFetch"}}
        early = server.post(MESSAGES, claude(**named))
        assert early.status_code == 400 and "WebFetch" in early.json()["error"]["message"]


def test_references_to_what_is_declared_or_gone_declare_nothing() -> None:
    with serving(saying("a[end]")) as server:
        twice = searched("WebFetch", "WebFetch", "Read", "Vanished")
        shown = prompt(server, twice)
        assert shown.count("tool_declare") == 2  # in front, and at its place
        assert "Vanished" in shown


def test_an_omitted_thought_is_a_signature_that_brings_it_back() -> None:
    """Also for another process: the signature carries the thought's ids."""
    said = spelled("<think>Deep.</think>Hello.[end]")
    body = claude(tools=[])
    for stream in (False, True):
        with serving(saying(said)) as server:
            answer = server.post(MESSAGES, {**body, "stream": stream})
            first = server.llm.prompts[0]
        assert "Deep" not in answer.text and "Hello" in answer.text
        if stream:
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            assert events[2]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
            signature = next(
                e["delta"]["signature"] for e in events if e.get("delta", {}).get("type") == "signature_delta"
            )
        else:
            block = answer.json()["content"][0]
            signature = block["signature"]
            assert block["thinking"] == "" and signature
        thought = {"type": "thinking", "thinking": "", "signature": signature}
        turn = {"role": "assistant", "content": [thought, {"type": "text", "text": "Hello."}]}
        with serving(saying("b[end]")) as server:
            again = server.post(
                MESSAGES, {**body, "messages": [*body["messages"], turn, {"role": "user", "content": "?"}]}
            )
            assert again.headers["x-abruzzi-reasoning"].startswith("kept=0 restored=1")
            second = server.llm.prompts[0]
        thought_ids = spelled("<think>Deep.</think>")
        assert second[: len(first) + len(thought_ids)] == [*first, *thought_ids]


def test_usage_counts_the_tokens_of_the_thought() -> None:
    with serving(saying("<think>a b c</think>d[end]")) as server:
        usage = server.post(MESSAGES, claude(stream=False)).json()["usage"]
        assert 0 < usage["output_tokens_details"]["thinking_tokens"] < usage["output_tokens"]
        streamed = server.post(MESSAGES, claude()).text
    assert f'"output_tokens_details":{json.dumps(usage["output_tokens_details"], separators=(",", ":"))}' in streamed


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (IMAGE, "[image (image/png) left out"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}},
            "[document (application/pdf)",
        ),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Plain."}}, "Plain."),
        (
            {"type": "search_result", "title": "T", "source": "u", "content": [{"type": "text", "text": "Found."}]},
            "Found.",
        ),
        ({"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}, "[audio (audio/wav)"),
        ({"type": "resource_link", "uri": "file:///a"}, "[resource_link left out"),
    ],
)
def test_what_a_tool_returned_and_no_model_reads_becomes_a_short_text(part: dict[str, Any], shown: str) -> None:
    use = {"type": "tool_use", "id": "t", "name": "Read", "input": {"path": "a.png"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "See: "}, part]}
    turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    with serving(saying("a[end]")) as server:
        sent = {**claude(stream=False), "messages": [*claude()["messages"], *turns]}
        answer = server.post(MESSAGES, sent)
        assert answer.status_code == 200, answer.text
        assert f"See: {shown}" in TOK.decode(server.llm.prompts[0])
        if shown.startswith("["):
            assert answer.headers["x-abruzzi-dropped"] == f"messages[3].content[0].content[1].type={part['type']!r}"
            assert 'abruzzi_dropped_total{kind="tool_result_part"} 1' in server.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "history"),
    [
        (
            CHAT,
            [
                {"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "read", "arguments": "{}"}}]},
                {
                    "role": "tool",
                    "tool_call_id": "t",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
                },
            ],
        ),
        (
            RESPONSES,
            [
                {"type": "function_call", "call_id": "t", "name": "read", "arguments": "{}"},
                {
                    "type": "function_call_output",
                    "call_id": "t",
                    "output": [{"type": "input_image", "image_url": "data:image/png;base64,aGk="}],
                },
            ],
        ),
    ],
)
def test_so_it_does_in_the_other_dialects_but_not_in_a_users_message(path: str, history: list[Any]) -> None:
    field = "messages" if path == CHAT else "input"
    with serving(saying("a[end]")) as server:
        answer = server.post(path, {field: [{"role": "user", "content": "x"}, *history]})
        assert answer.status_code == 200, answer.text
        assert "(image/png) left out" in TOK.decode(server.llm.prompts[0])
        part = (history[-1].get("content") or history[-1].get("output"))[0]
        asked = server.post(path, {field: [{"role": "user", "content": [part]}]})
        assert asked.status_code == 400 and "text" in asked.json()["error"]["message"]


def test_neighbours_of_one_role_are_one_turn() -> None:
    def user(*texts: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}

    def assistant(*blocks: Any) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": [{"type": "text", "text": b} if isinstance(b, str) else b for b in blocks],
        }

    use = {"type": "tool_use", "id": "t", "name": "Read", "input": {"path": "a"}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "7"}]}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "foreign"}
    pairs = [
        ([user("a"), user("b"), assistant("c"), user("d")], [user("a", "b"), assistant("c"), user("d")]),
        ([user("a"), assistant("b"), assistant("c"), user("d")], [user("a"), assistant("b", "c"), user("d")]),
        ([user("a"), assistant("b"), assistant(use), result], [user("a"), assistant("b", use), result]),
        (
            [user("a"), assistant(thought), assistant("b", use), result],
            [user("a"), assistant(thought, "b", use), result],
        ),
        (
            [user("a"), assistant("b"), assistant("c"), assistant("d"), user("e")],
            [user("a"), assistant("b", "c", "d"), user("e")],
        ),
        (
            [user("a"), assistant(use), result, user("b"), user("c")],
            [user("a"), assistant(use), result, user("b", "c")],
        ),
    ]
    with serving(saying("x[end]")) as server:
        for apart, together in pairs:
            assert prompt(server, {"max_tokens": 9, "messages": apart}) == prompt(
                server, {"max_tokens": 9, "messages": together}
            )


def test_a_signed_thought_and_its_calls_in_two_messages_are_restored() -> None:
    said = spelled("<think>Deep.</think>[calls]" + call("Read", '{"path":"a"}') + "[/calls][end]")
    body = {"max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}], "tools": [claude_tool("Read")]}
    with serving(saying(said, "x[end]")) as server:
        thought, use = server.post(MESSAGES, body).json()["content"]
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "7"}]}
        halves = [{"role": "assistant", "content": [thought]}, {"role": "assistant", "content": [use]}]
        server.post(MESSAGES, {**body, "messages": [*body["messages"], *halves, result]})
        first, second = server.llm.prompts
    assert second[: len(first) + len(said)] == [*first, *said]


# hosted tools


@pytest.mark.parametrize(
    ("path", "tool", "switch"),
    [
        (MESSAGES, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}, "--disallowedTools WebSearch"),
        (MESSAGES, {"type": "web_fetch_20250910", "name": "web_fetch"}, "--disallowedTools WebFetch"),
        (MESSAGES, {"type": "tool_search_tool_regex_20251119", "name": "tool_search"}, "ENABLE_TOOL_SEARCH"),
        (MESSAGES, {"type": "code_execution_20250825", "name": "code_execution"}, "declare a tool of your own"),
        (RESPONSES, {"type": "web_search", "external_web_access": True}, "codex -c"),
        (RESPONSES, {"type": "web_search_preview"}, "codex -c"),
        (RESPONSES, {"type": "image_generation"}, "codex --disable"),
        (RESPONSES, {"type": "file_search", "vector_store_ids": ["v"]}, "declare a tool of your own"),
        (CHAT, {"type": "web_search"}, "declare a tool of your own"),
        (CHAT, {"type": "openrouter:web_search", "parameters": {}}, "declare a tool of your own"),
    ],
)
def test_a_hosted_tool_is_refused_with_the_clients_switch_or_left_out(path: str, tool: Any, switch: str) -> None:
    body = {MESSAGES: claude(), RESPONSES: codex(), CHAT: PI}[path]
    body = {**body, "tools": [*body["tools"], tool], "stream": False} | (
        {} if path != CHAT else {"stream_options": None}
    )
    with serving(saying("a[end]")) as server:
        answer = server.post(path, body)
        message = answer.json()["error"]["message"]
        assert answer.status_code == 400 and switch in message and "--ignore-hosted-tools" in message
    with serving(saying("a[end]"), ignore_hosted_tools=True) as server:
        answer = server.post(path, body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-abruzzi-dropped"] == f"tools[{len(body['tools']) - 1}].type={tool['type']!r}"
        assert tool["type"] not in TOK.decode(server.llm.prompts[0])


# Codex's namespaces


@pytest.mark.parametrize("stream", [False, True])
def test_a_namespace_is_one_name_to_the_model_and_two_on_the_wire(stream: bool) -> None:
    said = spelled("<think>t</think>[calls]" + call("agents_v1.spawn", '{"id":"x"}') + "[/calls][end]")
    body = codex(stream=stream)
    with serving(saying(said, "Done.[end]")) as server:
        answer = server.post(RESPONSES, body)
        shown = TOK.decode(server.llm.prompts[0])
        assert '"name":"agents_v1.spawn"' in shown and "Other agents." in shown
        if stream:
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            added = [e["item"] for e in events if e["type"] == "response.output_item.added"][-1]
            assert (added["name"], added["namespace"]) == ("spawn", "agents_v1")
            answer_body = events[-1]["response"]
        else:
            answer_body = answer.json()
        item = answer_body["output"][-1]
        assert (item["name"], item["namespace"]) == ("spawn", "agents_v1")
        assert answer_body["tools"][1]["type"] == "namespace" and len(answer_body["tools"][1]["tools"]) == 2
        result = {"type": "function_call_output", "call_id": item["call_id"], "output": "7"}
        again = server.post(RESPONSES, {**body, "input": [*body["input"], *answer_body["output"], result]})
        assert again.status_code == 200, again.text
        first, second = server.llm.prompts
    assert second[: len(first) + len(said)] == [*first, *said]


def test_two_namespaces_may_have_a_function_of_one_name() -> None:
    tools = codex()["tools"]
    other = {**tools[1], "name": "agents_v2"}
    with serving(saying("a[end]")) as server:
        assert server.post(RESPONSES, codex(tools=[*tools, other])).status_code == 200
        twice = server.post(RESPONSES, codex(tools=[*tools, tools[1]]))
        assert twice.status_code == 400 and "agents_v1.close" in twice.json()["error"]["message"]

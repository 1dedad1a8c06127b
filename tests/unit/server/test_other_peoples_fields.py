"""Other people's bookkeeping in a history, and values that mean nothing, are taken; what could
matter is refused."""

from __future__ import annotations

from typing import Any

import pytest

from abruzzi.server.dialects.neutral import LABELS, NEUTRAL
from tests.unit.server.scripted_engine import CALCULATOR, TOK, saying, serving

ASK = {"role": "user", "content": "Calculate 69 - 21 + 39."}
CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [ASK]},
    COMPLETIONS: {"prompt": "Calculate"},
    MESSAGES: {"messages": [ASK], "max_tokens": 9},
    RESPONSES: {"input": "Calculate"},
}
CALL = {"id": "a", "type": "function", "function": {"name": "calc", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "a", "name": "calc", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "7"}
FUNCTION, SCHEMA = CALCULATOR["function"], CALCULATOR["function"]["parameters"]
ANTHROPIC_TOOL = {"name": "calc", "input_schema": SCHEMA}


def chat(last: dict[str, Any]) -> dict[str, Any]:
    """A history with this message of the assistant in the middle."""
    answered = [{"role": "tool", "tool_call_id": "a", "content": "7"}] if last.get("tool_calls") else []
    return {"messages": [ASK, {"role": "assistant", "content": "x", **last}, *answered, ASK]}


def said(*blocks: Any) -> dict[str, Any]:
    return {"messages": [ASK, {"role": "assistant", "content": list(blocks)}, ASK], "max_tokens": 9}


def tool(**fields: Any) -> dict[str, Any]:
    return {**LEAST[MESSAGES], "tools": [{**ANTHROPIC_TOOL, **fields}]}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            CHAT,
            chat({"thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "", "index": 0}]}),
        ),
        (CHAT, chat({"thinking_blocks": [{"type": "redacted_thinking", "data": "zz"}]})),
        (CHAT, chat({"provider_specific_fields": {"citations": None, "x": [1]}})),
        (CHAT, chat({"provider_specific_fields": None, "extra_content": {"google": {"thought_signature": "s"}}})),
        (CHAT, chat({"reasoning_details": [{"type": "reasoning.encrypted", "data": "abc", "format": "openai"}]})),
        (CHAT, chat({"reasoning_details": [{"type": "reasoning.unheard_of", "x": 1}], "reasoning": None})),
        (CHAT, chat({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt"})),
        (CHAT, chat({"annotations": [{"type": "url_citation", "url_citation": {"url": "https://x"}}]})),
        (CHAT, chat({"refusal": None, "audio": None, "function_call": None, "tool_calls": []})),
        (CHAT, chat({"timings": {}, "stop_reason": None, "token_ids": [1], "usage": {"total_tokens": 2}})),
        (CHAT, chat({"content": [{"type": "text", "text": "x", "annotations": [], "cache_control": {"ttl": "1h"}}]})),
        (CHAT, chat({"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "x"}]})),
        (CHAT, chat({"tool_calls": [{**CALL, "index": 0, "extra_content": {"s": 1}, "provider_specific_fields": {}}]})),
        (
            CHAT,
            chat({"tool_calls": [{**CALL, "function": {"name": "calc", "arguments": None, "parsed": {}}}]}),
        ),
        (CHAT, {"messages": [{**ASK, "id": "u1", "createdAt": "2026", "parts": [], "tool_calls": [], "weight": 1}]}),
        (CHAT, {"messages": [ASK], "tools": [{"type": "function", "function": {**FUNCTION, "type": "function"}}]}),
        (CHAT, {"messages": [ASK], "tools": [{**CALCULATOR, "cache_control": {"type": "ephemeral"}, "id": "t"}]}),
        (CHAT, {"messages": [ASK], "tools": [{**CALCULATOR, "function": {**FUNCTION, "returns": {}, "strict": None}}]}),
        (MESSAGES, said({"type": "text", "text": "x", "citations": [{"type": "char_location"}], "id": "b1"})),
        (MESSAGES, said({"type": "redacted_thinking", "data": "abc"}, {"type": "text", "text": "87"})),
        (MESSAGES, said({"type": "thinking", "thinking": "t", "signature": "foreign", "index": 0})),
        (MESSAGES, said({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})),
        (MESSAGES, said({"type": "web_search_tool_result", "tool_use_id": "s", "content": []})),
        (MESSAGES, {"messages": [{**ASK, "id": "msg_1", "stop_reason": "end_turn"}], "max_tokens": 9}),
        (
            MESSAGES,
            {
                "messages": [
                    ASK,
                    {"role": "assistant", "content": [{**USE, "caller": {"type": "direct"}, "cache_control": None}]},
                    {"role": "user", "content": [{**RESULT, "name": "calc", "caller": {"type": "direct"}}]},
                ],
                "max_tokens": 9,
            },
        ),
        (MESSAGES, {**LEAST[MESSAGES], "tools": [{**ANTHROPIC_TOOL, "input_examples": [{"e": "1"}], "title": "C"}]}),
        (MESSAGES, {**LEAST[MESSAGES], "tools": [{**ANTHROPIC_TOOL, "allowed_callers": ["direct"], "type": None}]}),
        (MESSAGES, {**LEAST[MESSAGES], "betas": ["x-2025"], "metadata": {"user_id": None, "trace": 1}}),
        (MESSAGES, {**LEAST[MESSAGES], "system": [{"type": "text", "text": "Be.", "id": "s", "cache_control": {}}]}),
        (RESPONSES, {"input": [{**ASK, "id": "m", "status": "completed", "metadata": {}, "phase": "final"}]}),
        (
            RESPONSES,
            {
                "input": [
                    ASK,
                    {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "foreign", "format": "x"},
                    {"type": "function_call", "call_id": "a", "name": "calc", "arguments": "{}", "extra_content": {}},
                    {"type": "function_call_output", "call_id": "a", "output": "7", "name": "calc"},
                    {"type": "web_search_call", "id": "ws", "status": "completed"},
                ]
            },
        ),
        (
            RESPONSES,
            {"input": [{**ASK, "content": [{"type": "input_text", "text": "x", "annotations": [1], "logprobs": [1]}]}]},
        ),
        (RESPONSES, {"input": "x", "tools": [{"type": "function", **FUNCTION, "output_schema": {}, "strict": None}]}),
    ],
)
def test_bookkeeping_in_a_history_or_a_declaration_is_ignored(path: str, fields: dict[str, Any]) -> None:
    with serving(saying("x[end]")) as server:
        answer = server.post(path, fields)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("called", "output", "name", "arguments", "told"),
    [
        (
            {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "a", "output": "Done."},
            *("apply_patch", '{"input": "*** Begin"}', "Done."),
        ),
        (
            {"type": "local_shell_call", "id": "l", "call_id": "a", "action": {"type": "exec", "command": ["ls"]}},
            {"type": "local_shell_call_output", "id": "a", "output": "a.txt"},
            *("local_shell", '{"type": "exec", "command": ["ls"]}', "a.txt"),
        ),
        (
            {"type": "shell_call", "call_id": "a", "action": {"commands": ["ls"]}, "status": "completed"},
            {"type": "shell_call_output", "call_id": "a", "output": [{"stdout": "a.txt", "stderr": ""}]},
            *("shell", '{"commands": ["ls"]}', '[{"stdout": "a.txt", "stderr": ""}]'),
        ),
        (
            {"type": "apply_patch_call", "call_id": "a", "operation": {"type": "delete_file", "path": "a"}},
            {"type": "apply_patch_call_output", "call_id": "a", "status": "completed", "output": "gone"},
            *("apply_patch", '{"type": "delete_file", "path": "a"}', "gone"),
        ),
    ],
)
def test_a_session_that_another_model_began_with_tools_of_its_own_goes_on(
    called: dict[str, Any], output: dict[str, Any], name: str, arguments: str, told: str
) -> None:
    llm = saying("x[end]")
    with serving(llm) as server:
        answer = server.post(RESPONSES, {"input": [ASK, called, output, ASK]})
    assert answer.status_code == 200, answer.text
    prompt = TOK.decode(llm.prompts[0])
    assert f"functions.{name}:0" in prompt and arguments in prompt and told in prompt


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{**ASK, "images": ["aGk="]}]}, "messages[0].images"),
        (CHAT, {"messages": [{**ASK, "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        (CHAT, chat({"function_call": {"name": "f", "arguments": "{}"}}), "messages[1].function_call"),
        (CHAT, chat({"reasoning": "a", "reasoning_content": "b"}), "messages[1].reasoning_content"),
        (CHAT, chat({"tool_calls": [{**CALL, "type": "custom"}], "content": None}), "messages[1].tool_calls[0].type"),
        (
            MESSAGES,
            {**LEAST[MESSAGES], "tools": [{**ANTHROPIC_TOOL, "allowed_callers": ["code"]}]},
            "tools[0].allowed_callers",
        ),
        (
            MESSAGES,
            {**LEAST[MESSAGES], "tools": [{**ANTHROPIC_TOOL, "defer_loading": "yes"}]},
            "tools[0].defer_loading",
        ),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ],
)
def test_the_few_keys_with_a_meaning_are_still_checked(path: str, fields: dict[str, Any], param: str) -> None:
    with serving(saying("x[end]")) as server:
        answer = server.post(path, fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_thought_that_only_litellms_blocks_carry_is_kept() -> None:
    calls = {"tool_calls": [CALL], "thinking_blocks": [{"type": "thinking", "thinking": "Deep thought."}]}
    with serving(saying("x[end]")) as server:
        server.post(CHAT, {"messages": chat(calls)["messages"][:3]})
        assert "Deep thought." in server.service.tok.decode(server.llm.prompts[0])


@pytest.mark.parametrize("path", list(LEAST))
def test_every_neutral_value_is_taken_in_every_dialect_and_changes_nothing(path: str) -> None:
    with serving(saying("x[end]")) as server:
        server.post(path, LEAST[path])
        for name, values in NEUTRAL.items():
            for value in (*values, None):
                answer = server.post(path, {**LEAST[path], name: value})
                assert answer.status_code == 200, (name, value, answer.text)
        for name in LABELS:
            answer = server.post(path, {**LEAST[path], name: None})
            assert answer.status_code == 200, (name, answer.text)
        assert all(prompt == server.llm.prompts[0] for prompt in server.llm.prompts)
        assert all(s.params == server.llm.submitted[0].params for s in server.llm.submitted)


ALWAYS_SENT: dict[str, Any] = {  # by guidellm, llama.cpp's, vLLM's, SGLang's and Ollama's clients
    "ignore_eos": False,
    "min_tokens": 0,
    "skip_special_tokens": True,
    "functions": [],
    "best_of": 1,
    "guided_json": None,
    "cache_prompt": True,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "typical_p": 1.0,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "id_slot": -1,
    "separate_reasoning": True,
    "use_beam_search": False,
    "store": False,
}


@pytest.mark.parametrize("path", list(LEAST))
def test_what_other_servers_clients_always_send_is_taken_together(path: str) -> None:
    with serving(saying("x[end]")) as server:
        answer = server.post(path, {**LEAST[path], **ALWAYS_SENT})
    assert answer.status_code == 200, answer.text


MEANT: dict[str, Any] = {
    "ignore_eos": True,
    "min_tokens": 5,
    "skip_special_tokens": False,
    "functions": [{"name": "f"}],
    "guided_json": {"type": "object"},
    "guided_choice": ["a"],
    "structured_outputs": {"regex": "a"},
    "cache_prompt": False,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -1,
    "logit_bias": {"5": 1},
    "use_beam_search": True,
    "bad_words": ["x"],
    "mirostat": 2,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "typical_p": 0.9,
    "no_repeat_ngram_size": 3,
    "include_stop_str_in_output": True,
    "grammar": "root ::= x",
    "regex": "a+",
    "prompt_logprobs": 1,
    "lora_path": "a",
    "chat_template": "{{ x }}",
    "options": {"num_ctx": 1},
    "mcp_servers": [{"url": "x"}],
    "best_of": 3,
    "reasoning_format": "none",
}


@pytest.mark.parametrize("path", list(LEAST))
def test_a_value_that_would_change_the_answer_is_refused_in_every_dialect(path: str) -> None:
    with serving(saying("x[end]")) as server:
        for name, value in MEANT.items():
            answer = server.post(path, {**LEAST[path], name: value})
            assert answer.status_code == 400 and answer.json()["error"]["param"] == name, (name, answer.text)
        assert server.llm.prompts == []


@pytest.mark.parametrize("path", list(LEAST))
def test_null_never_counts_as_given_and_an_unknown_value_does(path: str) -> None:
    with serving(saying("x[end]")) as server:
        assert server.post(path, {**LEAST[path], "never_heard_of": None, "user": None}).status_code == 200
        answer = server.post(path, {**LEAST[path], "never_heard_of": 0})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "unknown_field"
        assert "--lenient-fields" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", list(LEAST))
def test_lenient_fields_are_dropped_and_named_in_a_header(path: str) -> None:
    odd = {"never_heard_of": 1, "Übung\n": [2], "stream_options": None}
    with serving(saying("x[end]"), lenient_fields=True) as server:
        plain = server.post(path, LEAST[path])
        answer = server.post(path, {**LEAST[path], **odd})
        assert "x-abruzzi-dropped" not in plain.headers
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-abruzzi-dropped"].startswith("never_heard_of, ")
        refused = server.post(path, {**LEAST[path], "ignore_eos": True})  # known here, and not to be had
        assert refused.status_code == 400
        assert 'abruzzi_dropped_total{kind="field"} 2' in server.get("/metrics").text


def test_a_stream_names_what_was_dropped_as_well() -> None:
    with serving(saying("x[end]"), lenient_fields=True) as server:
        answer = server.post(CHAT, {**LEAST[CHAT], "stream": True, "zork": 1, **{f"z{n}": 1 for n in range(50)}})
    assert (
        answer.headers["x-abruzzi-dropped"].startswith("zork, z0")
        and "and 31 more" in answer.headers["x-abruzzi-dropped"]
    )

"""Requests that are meant to hurt a server or that hurt one by accident: members of the kinds that
once ended, froze or misled this one. For bench/soak.py.

Each is made anew from a number, so that no cache knows it; the large ones share their bulk.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from typing import Any

Made = tuple[str, bytes, dict[str, str]]  # path, body, further headers
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
_TEXT = "word " * 1_600_000  # 8 MB
_VALUES = "[" + "1," * 600_000 + "1]"
_BOMB = gzip.compress(b"[" + b" " * 60_000_000 + b"]")


def _user(number: int, text: str = "") -> dict[str, Any]:
    return {"role": "user", "content": f"{number} {text or 'and what then?'}"}


def _chat(number: int, **fields: Any) -> Made:
    return CHAT, json.dumps({"messages": [_user(number)], "max_tokens": 8, **fields}).encode(), {}


def _tool(parameters: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **more}}


def _odd_sampling(number: int) -> Made:
    odd = random.Random(number).choice(
        (
            {"temperature": 1e-46},
            {"temperature": 5e-324, "top_p": 1e-300},
            {"temperature": 2, "top_k": 2**63 - 1},
            {"temperature": 1, "min_p": 1, "top_p": 1e-45},
            {"seed": 2**63 - 1, "temperature": 1},
        )
    )
    return _chat(number, **odd)


def _large_prompt(number: int) -> Made:
    path = random.Random(number).choice((CHAT, MESSAGES, "/tokenize"))
    body = {"prompt": f"{number} {_TEXT}"} if path == "/tokenize" else {"messages": [_user(number, _TEXT)]}
    return path, json.dumps(body | ({"max_tokens": 1} if path == MESSAGES else {})).encode(), {}


def _many_values(number: int) -> Made:
    return RESPONSES, f'{{"input": "{number}", "metadata": {_VALUES}}}'.encode(), {}


def _bomb(number: int) -> Made:
    return CHAT, _BOMB, {"Content-Encoding": "gzip"}


def _long_stop(number: int) -> Made:
    return _chat(number, stop=["a" * 300_000, "b" * 900], max_tokens=4)


def _results_in_reverse(number: int) -> Made:
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(3_000)]
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "1"} for c in reversed(calls)]
    turns = [_user(number), {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    return CHAT, json.dumps({"messages": turns, "max_tokens": 2}).encode(), {}


def _schema(number: int) -> Made:
    strict = number % 2 == 0
    schema = random.Random(number).choice(
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": '^[^"\\\\]*$'}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"pattern": "(?=x)(?<!y)\\p{L}+"}}},
            {"type": "object", "required": None, "properties": {"a": {"enum": None}}},
            {"type": "object", "properties": {"a": {"minimum": 1.7976931348623157e308}}},
            {"type": ["object", "nothing"], "properties": {"a": {"$ref": "#/nowhere"}}},
            {"type": "object", "properties": {"a": {"type": "string", "minLength": 10**9}}},
            {"type": "object", "properties": {"a": {"pattern": "(a{1,999}){1,999}"}}},
            {"anyOf": [{"type": "string", "maxLength": n} for n in range(200)]},
        )
    )
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}}
    if number % 3:
        return _chat(number, tools=[_tool(schema, strict=strict)], tool_choice="required", max_tokens=40)
    return _chat(number, response_format=form, max_tokens=40)


def _half_a_character(number: int) -> Made:
    body = {"messages": [_user(number), {"role": "user", "content": "HALF"}], "max_tokens": 2}
    return CHAT, json.dumps(body).replace("HALF", random.Random(number).choice(("\\ud800", "x\\udfff"))).encode(), {}


def _too_large_a_number(number: int) -> Made:
    return CHAT, f'{{"messages": [{{"role": "user", "content": "{number}"}}], "temperature": 1e999}}'.encode(), {}


def _books_of_others(number: int) -> Made:
    thought = {"type": "redacted_thinking", "data": "x" * 2_000}
    turns = [_user(number), {"role": "assistant", "content": [thought]}, {"role": "assistant", "content": "a"}]
    return MESSAGES, json.dumps({"messages": [*turns, _user(number)], "max_tokens": 4}).encode(), {}


KINDS: tuple[Callable[[int], Made], ...] = (
    *(_odd_sampling, _large_prompt, _many_values, _bomb, _long_stop, _results_in_reverse),
    *(_schema, _half_a_character, _too_large_a_number, _books_of_others),
)


def malicious(number: int) -> Made:
    """The one of this number."""
    return KINDS[number % len(KINDS)](number)

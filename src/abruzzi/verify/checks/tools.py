"""Checks of tool calling: calls, ids, arguments, choice, results of foreign clients, thinking that
is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from abruzzi.verify.asks import ASK_WEATHER, TOOLS, forced
from abruzzi.verify.json_judge import cases, judge_cases, judge_json
from abruzzi.verify.probe import Call, Probe, Reply, Unsupported, check

THOUGHT = "The harbour master said that seventeen grey ships wait outside while the tide turns at nine tonight."
# Ids as OpenAI, Anthropic, vLLM, Kimi and a careless client write them.
FOREIGN_IDS = (
    "call_Zk3Wm9QpX1vT7rYb",
    "toolu_01A09q90qw90lq917835lq9",
    "chatcmpl-tool-5f2b",
    "functions.get_weather:0",
    "1",
)
MIN_RANDOM_CHARACTERS = 16


def schema_of(name: Any, tools: Sequence[dict[str, Any]] = TOOLS) -> Any:
    """The parameters of a declared tool, or None."""
    return next((t["function"]["parameters"] for t in tools if t["function"]["name"] == name), None)


def _calls(p: Probe, prompt: str = ASK_WEATHER, **fields: Any) -> Reply:
    """A reply with at least one call. Raises Unsupported where none can be had."""
    reply = forced(p, TOOLS, prompt, **fields)
    if reply is None:
        raise Unsupported("tools are refused")
    if not reply.calls and reply.finish != "tool_calls":
        raise Unsupported("the model made no tool call")
    return reply


@check("tools", "Calls are well formed and end in finish_reason tool_calls", required=True)
def tool_calls(p: Probe) -> None:
    for stream in (None, True):
        reply = _calls(p, stream=stream)
        p.ok(bool(reply.calls), "finish_reason 'tool_calls', but no calls came", reply)
        content = reply.message.get("content")
        p.ok(content is None or isinstance(content, str), f"content beside calls is {content!r}", reply)
        for call in reply.calls:
            p.ok(call.raw.get("type") == "function", f"type of a call is {call.raw.get('type')!r}", reply)
            p.ok(schema_of(call.name) is not None, f"the call names {call.name!r}, which was not declared", reply)
            p.ok(isinstance(call.arguments, str), f"arguments are {type(call.arguments).__name__}, not text", reply)
        if reply.finish != "length":
            p.ok(reply.finish == "tool_calls", f"finish_reason {reply.finish!r} beside tool calls", reply)


@check("tools", "Arguments are JSON by the declared schema")
def tool_arguments(p: Probe) -> None:
    for stream in (None, True):
        for prompt in (ASK_WEATHER, "Book a table for four at Roma, 19:30."):
            reply = _calls(p, prompt, stream=stream)
            for call in reply.calls:
                if (schema := schema_of(call.name)) is not None:
                    judge_json(p, reply, _argument_text(call), schema, f"arguments of {call.name}")
    objects = [(w, s) for w, s in cases(p) if isinstance(s, dict) and s.get("type") == "object"]
    bodies = []
    for number, (_, schema) in enumerate(objects):
        tool = {"type": "function", "function": {"name": "submit", "description": "Submit.", "parameters": schema}}
        choice = "required" if p.session.facts.get("required", True) else None
        bodies.append(
            p.body(
                "Call submit with an example.",
                tools=[tool],
                tool_choice=choice,
                max_tokens=min(p.session.budget, 256),
                stream=True if number % 2 else None,
            )
        )
    judge_cases(p, bodies, [(w, s, lambda r: [_argument_text(c) for c in r.calls]) for w, s in objects])


def _argument_text(call: Call) -> str:
    """Arguments as JSON text; that an object came instead of text is the check `tool_calls`'
    business."""
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


@check("tools", "Ids of calls are unique and cannot be guessed")
def tool_ids(p: Probe) -> None:
    for stream in (None, True, None):
        _calls(p, "What is the weather in Oslo and in Rome?", stream=stream)
    seen: dict[str, Reply] = {}
    for reply in p.replies():
        for call in reply.calls:
            problem = _bad_id(call)
            p.ok(problem is None, problem or "", reply)
            if isinstance(call.id, str):
                other = seen.get(call.id)
                p.ok(other is None, f"the id {call.id!r} was given twice", *([other] if other else []), reply)
                seen[call.id] = reply


def _bad_id(call: Call) -> str | None:
    if not isinstance(call.id, str) or not call.id:
        return f"the id of a call is {call.id!r}"
    if isinstance(call.name, str) and call.name and call.name in call.id:
        return f"the id {call.id!r} is made of the function's name"
    longest = max(re.findall(r"[A-Za-z0-9]+", call.id.replace("-", "")), key=len, default="")
    if len(longest) < MIN_RANDOM_CHARACTERS or len(set(longest)) < 6:
        return f"the id {call.id!r} can be guessed: fewer than {MIN_RANDOM_CHARACTERS} random characters"
    return None


@check("tools", "tool_choice none: no call")
def tool_choice_none(p: Probe) -> None:
    for stream in (None, True):
        reply = p.feature("tool_choice none", ASK_WEATHER, tools=TOOLS, tool_choice="none", stream=stream)
        silent = not reply.calls and reply.finish != "tool_calls"
        p.ok(silent, "tool_choice none, and a call came", reply)


@check("tools", "tool_choice required: always a call")
def tool_choice_required(p: Probe) -> None:
    for stream in (None, True):
        reply = p.feature("tool_choice required", "Say hello.", tools=TOOLS, tool_choice="required", stream=stream)
        if not reply.calls and reply.finish == "length":
            p.skip("cut by max_tokens before a call")
        else:
            p.ok(bool(reply.calls), "tool_choice required, and no call came", reply)


@check("tools", "tool_choice by name: that function and no other")
def tool_choice_named(p: Probe) -> None:
    def named(name: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name}}

    for stream in (None, True):
        reply = p.feature(
            "a named tool_choice", ASK_WEATHER, tools=TOOLS, tool_choice=named("book_table"), stream=stream
        )
        if not reply.calls and reply.finish == "length":
            p.skip("cut by max_tokens before a call")
        else:
            names = [c.name for c in reply.calls]
            fine = bool(names) and set(names) == {"book_table"}
            p.ok(fine, f"tool_choice named book_table, the calls are {names}", reply)
    exchange = p.raw(p.body(ASK_WEATHER, tools=TOOLS, tool_choice=named("no_such_tool"), max_tokens=32))
    p.ok(exchange.refused, f"tool_choice names a tool that is not declared: {exchange.outcome()}", exchange)


def _history(call_id: str, result: str, content: str | None = "", **assistant: Any) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": '{"city": "Oslo", "unit": "celsius"}'}
    return [
        {"role": "user", "content": ASK_WEATHER},
        {
            "role": "assistant",
            "content": content,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
            **assistant,
        },
        {"role": "tool", "tool_call_id": call_id, "content": result},
    ]


@check("tools", "Tool results with foreign ids are taken and read", required=True)
def tool_result(p: Probe) -> None:
    for call_id in FOREIGN_IDS:
        for content in ("", None):
            exchange = p.raw(p.body(_history(call_id, '{"celsius": 7}', content), tools=TOOLS, max_tokens=16))
            what = f"a tool result with the id {call_id!r} beside content {content!r}"
            fine = exchange.status == 200 and isinstance(exchange.body, dict) and bool(exchange.body.get("choices"))
            p.ok(fine, f"{what} was not accepted: {exchange.outcome()}", exchange)
    short, long = (
        p.chat(_history(FOREIGN_IDS[0], result), tools=TOOLS, max_tokens=1)
        for result in ("7", "seven degrees and rain " * 9)
    )
    if _prompt(short) is None:
        p.skip("no usage to see whether the result reaches the prompt")
    else:
        p.ok(
            (_prompt(long) or 0) > (_prompt(short) or 0), "a longer tool result adds nothing to the prompt", short, long
        )


def _prompt(reply: Reply) -> int | None:
    count = reply.usage.get("prompt_tokens")
    return count if isinstance(count, int) else None


def _loop(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """A running tool loop of two calls; the fields are the thinking of each."""
    return [*_history(FOREIGN_IDS[0], "7", **first), *_history(FOREIGN_IDS[1], "9", **second)[1:]]


def _thinks(p: Probe) -> bool:
    return any(r.reasoning for r in p.replies())


@check("tools", "Thinking sent back between calls reaches the prompt")
def reasoning_kept(p: Probe) -> None:
    thought = {"reasoning_content": THOUGHT}
    both, first, second = (
        p.feature("reasoning_content in the history", _loop(a, b), tools=TOOLS, max_tokens=1)
        for a, b in ((thought, thought), (thought, {}), ({}, thought))
    )
    counts = [_prompt(r) for r in (both, first, second)]
    if None in counts:
        raise Unsupported("no usage.prompt_tokens to see whether the thinking reaches the prompt")
    if len(set(counts)) == 1 and not _thinks(p):
        raise Unsupported("this model shows no thinking, and its template keeps none")
    # A sentence of 16 words is more than 8 tokens in every tokenizer.
    for kept, without, which in ((both, second, "first"), (both, first, "second")):
        grown = (_prompt(kept) or 0) - (_prompt(without) or 0)
        p.ok(
            grown > 8, f"the thinking of the {which} call adds {grown} tokens to the prompt: it is lost", kept, without
        )


@check("tools", "`reasoning` in the history counts as reasoning_content")
def reasoning_alias(p: Probe) -> None:
    kept = p.feature("reasoning_content", _loop({"reasoning_content": THOUGHT}, {}), tools=TOOLS, max_tokens=1)
    without = p.chat(_loop({}, {}), tools=TOOLS, max_tokens=1)
    if _prompt(kept) is None or _prompt(kept) == _prompt(without):
        raise Unsupported("reasoning_content does not change the prompt here, so there is nothing to compare with")
    alias = p.feature("reasoning in the history", _loop({"reasoning": THOUGHT}, {}), tools=TOOLS, max_tokens=1)
    same = _prompt(alias) == _prompt(kept)
    p.ok(
        same,
        f"history with `reasoning` is a prompt of {_prompt(alias)} tokens, with `reasoning_content` {_prompt(kept)}",
        alias,
        kept,
    )


@check("tools", "Clients' own bookkeeping in a history is let through")
def history_bookkeeping(p: Probe) -> None:
    """What LiteLLM, Open WebUI and others leave in the messages that they send back."""
    kept: dict[str, dict[str, Any]] = {
        "thinking_blocks": {"thinking_blocks": [{"type": "thinking", "thinking": THOUGHT, "signature": "x"}]},
        "provider_specific_fields": {"provider_specific_fields": {"citations": None}},
        "null fields": {"refusal": None, "audio": None, "function_call": None},
    }
    for what, fields in kept.items():
        exchange = p.raw(p.body(_loop(fields, {}), tools=TOOLS, max_tokens=1))
        p.ok(exchange.status == 200, f"{what} in an assistant's message: {exchange.outcome()}", exchange)

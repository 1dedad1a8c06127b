"""A scripted agent of 50 tool calls and what the model must see of it, whichever client carries it.

The model's words are sampled letter by letter (`spelled`), so their ids are ids that no tokenizer
would make of the text: whoever re-tokenizes a turn, or loses its thought, changes the prompt of the
next step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from abruzzi.tokenizer import parse, render
from abruzzi.types import Message
from tests.unit.server.scripted_engine import TOK, call, spelled

STEPS = 50
SYSTEM = "You are a careful agent. Use the tools, one step after the other."
QUESTION = "Work through the list: números, 北京, 😀."
FOLLOW_UP = "Are you sure?"
ANSWERS = ("All 50 steps are done.", "Yes, I am sure.")


def _tool(name: str, description: str) -> dict[str, Any]:
    any_value = ("y", "z", "big", "small", "a", "list", "o")
    properties = {"e": {"type": "string", "description": "What to work on."}, "x": {"type": "number"}}
    parameters = {"type": "object", "properties": {**properties, **{n: {} for n in any_value}}, "required": ["e"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [_tool("calc", "Computes."), _tool("note", "Writes a note down.")]

# What models write and clients parse: layouts, orders, escapes and numbers that do not survive
# loads and dumps. All fit the schema, keys in its order, as the server makes sure of.
ARGUMENTS = [
    '{"e": "12 + 30"}',
    '{"e":"no spaces"}',
    '{ "e" : "odd layout" }',
    '{"e": "keys in no order of the alphabet", "z": 1, "a": 2}',
    '{"e": "números, 北京, 😀"}',
    '{"e": "escapes \\n \\t \\" \\\\ /"}',
    '{"e": "numbers", "x": 1.0, "y": 1e3, "z": -0, "big": 12345678901234567890, "small": 1e-7}',
    '{"e": "keys that are integers", "o": {"10": 1, "9": 2}}',
    '{"e": "nested", "list": [1, [2, {"b": null, "a": true}]], "o": {}}',
    '{"e": "<b>&amp;</b> </script> \u2028"}',
    '{"e": ""}',
    '{"e": "' + "long " * 40 + '"}',
    '{"e": "12 + 30"}',
]


def turn(step: int, made: int) -> tuple[str, list[tuple[str, str]]]:
    """The model's words at a step, and its calls; made: calls before it."""
    if step >= STEPS:
        return (f"<think>All is done, {step}.</think>{ANSWERS[step - STEPS]}[end]", [])
    arguments = ARGUMENTS[step % len(ARGUMENTS)]
    calls = [("note" if step % 3 == 2 else "calc", arguments)]
    if step % 7 == 4:
        calls.append(("calc", arguments))  # two at once, the second one the same or nearly so
    said = {1: "Let me see.", 2: "  Now the next one.\n", 5: "\n\nAnd on: **bold** & <b>."}.get(step % 6, "")
    written = "".join(call(name, text, made + n) for n, (name, text) in enumerate(calls))
    return f"<think>Step {step}: I think about it,\n\nthen act. </think>{said}[calls]{written}[/calls][end]", calls


def shell_turn(step: int, name: str, argument: str) -> list[int]:
    """The model's words at a step when the client is an agent with a shell of its own."""
    if step >= STEPS:
        return spelled(f"<think>All is done.</think>{ANSWERS[0]}[end]")
    arguments = json.dumps({argument: f"echo result {step}"}, separators=[(", ", ": "), (",", ":")][step % 2])
    return spelled(f"<think>Step {step}: echo. </think>[calls]{call(name, arguments, step)}[/calls][end]")


def result(arguments: dict[str, Any]) -> str:
    """What a tool answers."""
    return f"result of {arguments['e']}"


def _all_turns() -> list[tuple[list[int], list[tuple[str, str]]]]:
    made, turns = 0, []
    for step in range(STEPS + 2):
        words, calls = turn(step, made)
        turns.append((spelled(words), calls))
        made += len(calls)
    return turns


TURNS = _all_turns()
CALLS = sum(len(calls) for _, calls in TURNS)


def growth(answer: Callable[[dict[str, Any]], str] = result) -> list[list[int]]:
    """What each step adds to the prompt of the step before it: the turn as it was sampled, and what
    answered it.

    Rendered from messages that never left the process, so with no client and no server in
    between."""
    history = [Message("user", "x")]
    before = render(TOK, history).ids
    grown = []
    for step, (ids, calls) in enumerate(TURNS[:-1]):
        history.append(parse(TOK, ids))
        history += [Message("tool", answer(json.loads(text))) for _, text in calls]
        if step == STEPS:
            history.append(Message("user", FOLLOW_UP))
        after = render(TOK, history, preserve_thinking=True).ids
        assert after[: len(before)] == before
        grown.append(after[len(before) :])
        before = after
    return grown


def first_prompt() -> list[int]:
    """The prompt of the first step, for clients that pass on system, tools and question as they
    are."""
    return render(TOK, [Message("system", SYSTEM), Message("user", QUESTION)], TOOLS).ids


def spec() -> dict[str, Any]:
    """What a client has to know, as JSON."""
    return {
        "model": "tiny",
        "system": SYSTEM,
        "question": QUESTION,
        "follow_up": FOLLOW_UP,
        "tools": TOOLS,
        "steps": STEPS,
    }

"""Fixtures of the checks: prompts, tools and schemas that several of them send, and how to obtain a
tool call.

What only one check asks stands beside that check.
"""

from __future__ import annotations

from typing import Any

from abruzzi.verify.probe import Probe, Reply

SHORT = "Reply with the single word: hello"
LONG = "Write the numbers from one to fifty in words, separated by commas."
RANDOM = "Invent a random string of twenty letters and digits and write nothing else."

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city today.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 40}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
BOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "book_table",
        "description": "Book a table in a restaurant.",
        "parameters": {
            "type": "object",
            "properties": {
                "restaurant": {"type": "string", "maxLength": 40},
                "guests": {"type": "integer", "minimum": 1, "maximum": 20},
                "time": {
                    "type": "object",
                    "properties": {
                        "hour": {"type": "integer", "minimum": 0, "maximum": 23},
                        "minute": {"enum": [0, 15, 30, 45]},
                    },
                    "required": ["hour", "minute"],
                    "additionalProperties": False,
                },
            },
            "required": ["restaurant", "guests", "time"],
            "additionalProperties": False,
        },
    },
}
TOOLS = [WEATHER, BOOK]
ASK_WEATHER = "What is the weather in Oslo, in celsius?"

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "skills": {"type": "array", "items": {"enum": ["cook", "sail", "paint"]}, "minItems": 1, "maxItems": 2},
        "home": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "floor": {"type": ["integer", "null"]}},
            "required": ["city", "floor"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "skills", "home"],
    "additionalProperties": False,
}


def response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def forced(p: Probe, tools: list[dict[str, Any]], prompt: str, **fields: Any) -> Reply | None:
    """An answer that holds a call if the server and model can at all: required where that is known,
    else auto. None where tools are refused."""
    if p.session.facts.get("required", True):
        exchange = p.raw(p.body(prompt, tools=tools, tool_choice="required", **fields))
        p.session.facts["required"] = not exchange.refused
        if not exchange.refused:
            return p.read(exchange)
    exchange = p.raw(p.body(prompt, tools=tools, **fields))
    p.sample(exchange)
    return None if exchange.refused else p.read(exchange)


def offers_ids(p: Probe) -> bool:
    """Whether return_token_ids gives ids here."""
    if "token_ids" not in p.session.facts:
        exchange = p.raw(p.body(SHORT, max_tokens=2, return_token_ids=True))
        found = exchange.status == 200 and ids_of(p.read(exchange)) is not None
        p.session.facts["token_ids"] = found
    return p.session.facts["token_ids"]


def ids_of(reply: Reply) -> tuple[list[int], list[int]] | None:
    """(prompt ids, answer ids) where the server returns them."""
    prompt = reply.exchange.body.get("prompt_token_ids")
    prompt = prompt if prompt is not None else reply.choice.get("prompt_token_ids")
    sampled = reply.choice.get("token_ids")
    return (prompt, sampled) if isinstance(prompt, list) and isinstance(sampled, list) else None

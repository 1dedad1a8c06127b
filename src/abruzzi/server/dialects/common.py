"""Fields that the dialects share: model, sampling, tools, text parts, thinking; timings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abruzzi import __version__
from abruzzi.engine.budget import EFFORTS
from abruzzi.server.errors import ApiError, openai_error
from abruzzi.server.fields import Fields, wrong
from abruzzi.server.generation import End
from abruzzi.server.request import Thinking
from abruzzi.server.service import Service
from abruzzi.server.structure import Schema
from abruzzi.types import SamplingParams

EFFORT_NAMES = ("none", *EFFORTS)
MAX_N = 16
MAX_STOPS = 16
MAX_STOP_CHARS = 1000
MAX_TOOLS = 1000
ANY_OBJECT: dict[str, Any] = {"type": "object"}


# requests


def model_name(service: Service, body: Fields) -> str:
    """The name of the model to answer with. Raises ApiError 404 for one that is not here."""
    return service.require_model(body.text("model", known=service.settings.names))


def sampling(
    body: Fields,
    max_tokens: int | None,
    stops: tuple[str, ...],
    thinking_budget: int | None,
    default_temperature: float,
    max_temperature: float = 2.0,
    top_logprobs: int = 0,
) -> SamplingParams:
    """The sampling fields of every dialect (in some, seed, top_k, min_p are extensions)."""
    temperature, top_p = body.number("temperature", 0, max_temperature), body.number("top_p", 0, 1)
    if top_p == 0:  # the likeliest token alone
        temperature, top_p = 0.0, 1.0
    return SamplingParams(
        temperature=default_temperature if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(0, body.integer("top_k", -1) or 0),  # -1 is some servers' word for "off"
        min_p=body.number("min_p", 0, 1) or 0.0,
        max_tokens=max_tokens,
        stop=stops,
        stop_token_ids=body.token_ids("stop_token_ids", most=MAX_STOPS),
        seed=body.integer("seed", -(2**63)),
        thinking_budget=thinking_budget,
        top_logprobs=top_logprobs,
    )


def read_thinking_object(fields: Fields, thinking: Thinking) -> None:
    """`thinking` of the chat and messages dialects: type, budget_tokens."""
    kind = fields.choice("type", "enabled", "disabled", "adaptive")
    thinking.merge("thinking.type", enabled=None if kind is None else kind != "disabled")
    thinking.merge("thinking.budget_tokens", budget=fields.integer("budget_tokens", 0))


def read_tool(fields: Fields, parameters_field: str) -> tuple[dict[str, Any], Schema]:
    """A tool as it goes into the prompt of any dialect, and the schema of its arguments.

    Reads name, description, strict and the field of its parameters; those that are absent stay
    absent. Where `strict` is true, a part of the schema that cannot be enforced is an error. Else,
    also where it is absent, only that part is left out and said: agents declare tools with
    keywords that no grammar has (propertyNames)."""
    fields.ignore_rest()
    function: dict[str, Any] = {"name": fields.required_text("name", filled=True)}
    description = fields.text("description")
    if description is not None:
        function["description"] = description
    parameters = fields.mapping(parameters_field, "a JSON Schema object")
    if parameters is not None:
        function["parameters"] = parameters
    schema = dict(parameters or ANY_OBJECT)
    if "type" not in schema:
        schema = {"type": "object", **schema}
    asked = fields.boolean("strict")
    lenient = asked is not True
    return {"type": "function", "function": function}, Schema(schema, fields.name(parameters_field), lenient)


def by_name(tools: list[tuple[dict[str, Any], Schema]]) -> tuple[tuple[dict[str, Any], ...], dict[str, Schema]]:
    """The tools, and the schema of each. Raises ApiError unless their names differ."""
    names = [tool["function"]["name"] for tool, _ in tools]
    twice = next((n for n in names if names.count(n) > 1), None) if len(names) <= MAX_TOOLS else None
    if len(names) > MAX_TOOLS or twice is not None:
        raise wrong("tools", f"at most {MAX_TOOLS} tools with different names", twice or len(names))
    return tuple(tool for tool, _ in tools), {name: schema for name, (_, schema) in zip(names, tools)}


def own_tool(service: Service, entry: Fields, *kinds: str, switches: Mapping[str, str], named: bool = False) -> str:
    """The type of a declared tool; "" for a hosted one that is left out (--ignore-hosted-tools).

    kinds: those that run at the client; the first is meant where none is said (named: the type must
    be said). switches: how clients stop sending a hosted tool, by how its type begins. Raises
    ApiError."""
    kind = entry.peek("type")
    if isinstance(kind, str) and kind not in kinds:
        if service.settings.ignore_hosted_tools:
            entry.drop("type", "hosted_tool", kind)
            entry.ignore_rest()
            return ""
        switch = next((how for start, how in switches.items() if kind.startswith(start)), "")
        hint = f"{switch or f'declare a tool of your own ({kinds[0]})'}; or start the server with --ignore-hosted-tools"
    else:
        hint = f"expected {' or '.join(kinds)}"
    return entry.kind("type", *kinds, hint=hint, default=None if named else kinds[0])


def joined_text(content: str | list[str] | None) -> str | None:
    """Text, or text parts put together."""
    return "".join(content) if isinstance(content, list) else content


def include_usage(body: Fields, stream: bool) -> bool:
    """stream_options.include_usage. Raises ApiError without stream=true."""
    options = body.object("stream_options")
    if options is None:
        return False
    asked = options.boolean("include_usage") or False
    options.only("include_obfuscation", False, hint="nothing is padded here")
    options.only("continuous_usage_stats", False, hint="usage comes once, at the end")
    options.end()
    if asked and not stream:
        raise ApiError(400, "stream_options is only allowed with stream=true", "stream_options", "invalid_value")
    return asked


# answers


def fingerprint(isa: str) -> str:
    """OpenAI's system_fingerprint: the version and the instruction set that compute the answers."""
    return f"abruzzi-{__version__}-{isa}"


def failure_of(end: End) -> dict[str, Any]:
    """The fields of a choice that failed among others that did not (finish_reason "error")."""
    return {} if end.error is None else openai_error(end.error)


def timings_of(ends: list[End]) -> dict[str, Any]:
    """Of the first choice: seconds to the first token, tokens per second before and after it."""
    end = ends[0] if ends else None
    return {name: None if end is None else getattr(end, name) for name in ("ttft_s", "prefill_tok_s", "decode_tok_s")}

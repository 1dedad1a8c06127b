"""What a client asks for, in one form for all dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from abruzzi.server.errors import ApiError
from abruzzi.server.fields import Fields, wrong
from abruzzi.server.structure import Structure
from abruzzi.types import Message, SamplingParams

MAX_N = 16
MAX_STOPS = 16


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue, or exact prompt ids.

    seals: what an assistant message (by its place) brought along to prove its ids. thinking,
    preserve_thinking: None = the server's, the checkpoint's default. effort: a key of budget.EFFORTS.
    may_call: whether the model may call tools; which, and in what form: structure. prompt_ids: used as they are,
    instead of messages."""

    model: str | None
    messages: tuple[Message, ...] = ()
    seals: Mapping[int, str] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()
    params: SamplingParams = SamplingParams()
    thinking: bool | None = None
    effort: str | None = None
    preserve_thinking: bool | None = None
    may_call: bool = True
    structure: Structure = field(default_factory=Structure)
    n: int = 1
    prompt_ids: tuple[int, ...] | None = None


@dataclass(slots=True)
class Thinking:
    """What the several ways of asking for thought said; two that contradict each other are refused."""

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    preserve: bool | None = None

    def say(self, field_name: str, **values: Any) -> None:
        """One field's word. Raises ApiError when it contradicts an earlier one."""
        for key, value in values.items():
            if value is None:
                continue
            before = getattr(self, key)
            if before is not None and before != value:
                raise ApiError(
                    400,
                    f"{field_name} contradicts another field about thinking ({key}: {before!r} and {value!r}); "
                    "hint: say it once",
                    field_name,
                    "contradiction",
                )
            setattr(self, key, value)

    def say_effort(self, field_name: str, effort: str | None) -> None:
        """reasoning_effort: "none" switches thinking off."""
        if effort == "none":
            self.say(field_name, enabled=False)
        elif effort is not None:
            self.say(field_name, enabled=True, effort=effort)

    def check(self) -> Thinking:
        """Raises ApiError for a budget of a thought that is switched off."""
        if self.enabled is False and self.budget:
            raise ApiError(400, "thinking is switched off but has a budget; hint: leave one out", None, "contradiction")
        return self


def sampling(
    body: Fields,
    max_tokens: int | None,
    stops: tuple[str, ...],
    thinking_budget: int | None,
    default_temperature: float,
    max_temperature: float = 2.0,
    top_logprobs: int = 0,
) -> SamplingParams:
    """The sampling fields that all dialects share (seed, top_k, min_p, stop_token_ids are extensions in some)."""
    temperature = body.number("temperature", 0, max_temperature)
    top_p = body.number("top_p", 0, 1)
    if top_p == 0:
        raise wrong(body.name("top_p"), "above 0 and at most 1", 0)
    top_k = body.integer("top_k", -1)
    ids = body.items("stop_token_ids") or []
    if len(ids) > MAX_STOPS or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise wrong(body.name("stop_token_ids"), f"at most {MAX_STOPS} token ids", ids)
    return SamplingParams(
        temperature=default_temperature if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(0, top_k or 0),  # -1 is some servers' word for "off"
        min_p=body.number("min_p", 0, 1) or 0.0,
        max_tokens=max_tokens,
        stop=stops,
        stop_token_ids=tuple(ids),
        seed=body.integer("seed", -(2**63)),
        thinking_budget=thinking_budget,
        top_logprobs=top_logprobs,
    )


def stop_strings(body: Fields, name: str) -> tuple[str, ...]:
    """A string or a list of strings, none empty."""
    given = body.any(name)
    if given is None:
        return ()
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or len(listed) > MAX_STOPS or any(not isinstance(s, str) or not s for s in listed):
        raise wrong(body.name(name), f"a string or up to {MAX_STOPS} strings, none empty", given)
    return tuple(listed)


def tool(name: object, description: object, parameters: object, where: str) -> dict[str, Any]:
    """A tool as it goes into the prompt: the same in every dialect. Fields that are absent stay absent."""
    if not isinstance(name, str) or not name:
        raise wrong(f"{where}.name", "a non-empty string", name)
    function: dict[str, Any] = {"name": name}
    if description is not None:
        if not isinstance(description, str):
            raise wrong(f"{where}.description", "a string", description)
        function["description"] = description
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise wrong(f"{where}.parameters", "a JSON Schema object", parameters)
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def distinct(tools: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The tools, whose names must differ."""
    names = [t["function"]["name"] for t in tools]
    twice = next((n for n in names if names.count(n) > 1), None) if len(names) <= 1000 else None
    if len(names) > 1000 or twice is not None:
        raise wrong("tools", "at most 1000 tools with different names", twice or len(names))
    return tuple(tools)


def model_name(body: Fields) -> str | None:
    """The model that is asked for."""
    return body.text("model")

"""A chat request in one form for all dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from abruzzi.server.errors import ApiError
from abruzzi.server.structure import Structure
from abruzzi.types import Message, SamplingParams


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue, or exact prompt ids.

    seals: what an assistant message (by its place) brought along to prove its ids. thinking,
    preserve_thinking: None = the server's, the checkpoint's default. effort: a key of
    engine.budget.EFFORTS. may_call: whether the model may call tools; which, and in what form:
    structure. prompt_ids: used as they are, instead of messages. prefill: the beginning of the
    answer, which goes on behind it (text, perhaps with the thought in front of it)."""

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
    prefill: Message | None = None


@dataclass(slots=True)
class Thinking:
    """The thinking options of a request, merged from the fields that several dialects have for
    them."""

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    preserve: bool | None = None

    def merge(self, field_name: str, **values: Any) -> None:
        """The options that one field sets. Raises ApiError when it contradicts an earlier field."""
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

    def merge_effort(self, field_name: str, effort: str | None) -> None:
        """reasoning_effort: "none" switches thinking off."""
        if effort == "none":
            self.merge(field_name, enabled=False)
        elif effort is not None:
            self.merge(field_name, enabled=True, effort=effort)

    def check(self) -> Thinking:
        """Raises ApiError for a budget of a thought that is switched off."""
        if self.enabled is False and self.budget:
            raise ApiError(400, "thinking is switched off but has a budget; hint: leave one out", None, "contradiction")
        return self

"""Prompts: plain ids that fit the context, or a conversation and the form of its answer."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abruzzi.engine.answer import Asked, call_openers
from abruzzi.engine.budget import require_closable, thinking_tokens
from abruzzi.engine.grammar.compiled import Grammars
from abruzzi.engine.grammar.structure import SchemaWeakened, Structure
from abruzzi.tokenizer import Tokenizer, generation_prefix, render
from abruzzi.types import ContextFull, Message, SamplingParams, ToolSpec


def plain_ids(given: Iterable[Any]) -> list[int]:
    """Integers of any kind (NumPy's too) as int. Raises ValueError."""
    try:
        return [-1 if isinstance(i, bool) else operator.index(i) for i in given]
    except TypeError as error:
        raise ValueError(
            f"a prompt is a sequence of token ids ({error}); hint: encode text with the tokenizer"
        ) from error


def room_behind(prompt: Sequence[int], vocab_size: int, max_context: int) -> int:
    """How many tokens may follow a prompt. Raises ValueError, and ContextFull where not even one
    may."""
    if not prompt:
        raise ValueError("the prompt is empty; expected at least one token id")
    wrong = next((i for i in prompt if not 0 <= i < vocab_size), None)
    if wrong is not None:
        raise ValueError(f"token id {wrong} is outside the vocabulary of {vocab_size}")
    if len(prompt) >= max_context:
        raise ContextFull(
            f"the prompt has {len(prompt)} tokens but the context holds {max_context} with at least one to "
            "answer; hint: shorten the prompt or the files you gave",
            len(prompt),
            max_context,
        )
    return max_context - len(prompt)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation to continue, and how. thinking: whether the answer begins with a thought."""

    messages: Sequence[Message | Mapping[str, Any]]
    tools: Sequence[ToolSpec | Mapping[str, Any]]
    params: SamplingParams
    thinking: bool
    effort: str | None
    structure: Structure

    def asked(self, tok: Tokenizer, grammars: Grammars, room: Callable[[Sequence[int]], int]) -> Asked:
        """Rendered, with the form of its answer compiled and the budget of its thought set.

        room: how many tokens may follow a prompt. Raises ValueError."""
        params, structure = self.params, self.structure
        if params.thinking_budget is not None or self.effort is not None:
            require_closable(tok)
        messages = [Message.from_openai(m) for m in self.messages]
        offered = list(self.tools) if structure.arguments else None
        prompt = tuple(render(tok, messages, offered, thinking=self.thinking).ids)
        left = room(prompt)
        limit = left if params.max_tokens is None else min(params.max_tokens, left)
        grammar = None
        if self.tools or structure.answer is not None:
            made = sum(len(m.tool_calls) for m in messages)
            grammar = grammars.turn(structure, made, self.thinking)
            if grammar.dropped:
                warnings.warn(f"not enforced: {', '.join(grammar.dropped)[:1000]}", SchemaWeakened, stacklevel=4)
        return Asked(
            prompt,
            generation_prefix(tok, thinking=self.thinking),
            params,
            limit,
            thinking_tokens(limit, params.thinking_budget, self.effort),
            frozenset() if structure.arguments else call_openers(tok),
            grammar,
        )

"""Where turns lie in ids: against the places that the text's own control strings have."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from small import CONTROL_TEXTS, conversations, small

from abruzzi.tokenizer import render
from abruzzi.tokenizer.formats.spans import assistant_prefix, assistant_spans, first_user, last_header_end
from abruzzi.types import Message


def ids_of(text: str) -> list[int]:
    return small().encode(text, allow_special=True)


@given(history=conversations())
@settings(max_examples=40, deadline=None)
def test_every_turn_of_the_assistant_and_nothing_else(history: list[Message]) -> None:
    tok = small()
    ids = render(tok, history, add_generation_prompt=False, preserve_thinking=True).ids
    spans = list(assistant_spans(tok, ids))
    assert len(spans) == sum(m.role == "assistant" for m in history)
    parts = (history[:upto] for upto in range(len(history) + 1))
    ends = [len(render(tok, part, add_generation_prompt=False, preserve_thinking=True).ids) for part in parts]
    assert spans == [(ends[i], ends[i + 1]) for i, m in enumerate(history) if m.role == "assistant"]


def test_a_control_string_that_is_text_opens_nothing() -> None:
    tok = small()
    ids = render(tok, [Message("system", " ".join(CONTROL_TEXTS)), Message("assistant", "<|im_user|>")]).ids
    assert first_user(tok, ids) is None and len(list(assistant_spans(tok, ids))) == 2  # the prompt's header too


def test_the_first_user() -> None:
    tok = small()
    ids = ids_of("<|im_system|>s<|im_middle|>S<|im_end|><|im_user|>u<|im_middle|>Q<|im_end|><|im_user|>")
    assert first_user(tok, ids) == ids.index(tok.control["<|im_user|>"])


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        ("<|im_user|>u<|im_middle|>Q<|im_end|><|im_assistant|>assistant<|im_middle|>", ""),
        ("<|im_user|>u<|im_middle|>Q<|im_end|><|im_assistant|>a<|im_middle|><think>R", "<think>R"),
        ("<|im_assistant|>a<|im_middle|>A<|im_end|><|im_user|>u<|im_middle|>Q", ""),
        ("<|im_assistant|>a<|im_middle|>A<|im_end|>", "A<|im_end|>"),
        ("<|im_assistant|>", ""),
        ("text", ""),
        ("", ""),
    ],
)
def test_what_exact_prompt_ids_already_say_for_the_assistant(text: str, behind: str) -> None:
    assert assistant_prefix(small(), ids_of(text)) == tuple(ids_of(behind))


def test_where_the_last_header_ends() -> None:
    assert last_header_end(small(), ids_of("no header")) is None
    ids = ids_of("<|im_user|>u<|im_middle|>Q<|im_end|><|im_assistant|>a<|im_middle|>AB")
    assert small().decode(ids[last_header_end(small(), ids) :]) == "AB"

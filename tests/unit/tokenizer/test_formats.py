"""The chat format is data: the same turns under other names, and what each field of a format
changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import conversations, small, spelled, without

from abruzzi.tokenizer import ChatParser, Tokenizer, parse, render
from abruzzi.tokenizer.formats import choose
from abruzzi.tokenizer.formats.format import ChatFormat, Header, Marker
from abruzzi.tokenizer.formats.k2 import K2
from abruzzi.tokenizer.formats.template import chat_template
from abruzzi.types import Message, ToolCall, ToolSpec

TOOLS = [ToolSpec("f", "naïve", {"type": "object"})]


def other(text: str) -> str:
    """Another name for a control token."""
    return f"@{text.strip('<|>[]/')}{'/' * ('/' in text)}@"


RENAMED = replace(
    K2,
    name="renamed",
    title="the renamed format",
    headers={role: Header(other(h.open), other(h.close)) for role, h in K2.headers.items()},
    ends=tuple(map(other, K2.ends)),
    markers={marker: tuple(map(other, texts)) for marker, texts in K2.markers.items()},
)


def speaking(tok: Tokenizer, form: ChatFormat, control: Mapping[str, int] | None = None) -> Tokenizer:
    """The same text tokens under another format."""
    given = tok.control if control is None else control
    return Tokenizer(tok._backend, given, tok.vocab_size, frozenset(), tok.defaults, form)


def renamed(tok: Tokenizer) -> Tokenizer:
    """The same ids, every control token by another name."""
    return speaking(tok, RENAMED, {other(text): token_id for text, token_id in tok.control.items()})


# names are data


@given(history=conversations(), keep=st.booleans(), thinking=st.booleans(), stray=st.lists(st.integers(0, 380)))
@settings(max_examples=60, deadline=None)
def test_the_same_ids_under_other_names(history: list[Message], keep: bool, thinking: bool, stray: list[int]) -> None:
    """No reader of the format knows a token by its text: renaming them all changes no id and no
    event."""
    tok, twin = small(), renamed(small())
    ids = render(tok, history, TOOLS, preserve_thinking=keep, thinking=thinking)
    assert render(twin, history, TOOLS, preserve_thinking=keep, thinking=thinking) == ids
    turn = [*stray, *ids.ids[-60:]]
    ours, theirs = ChatParser(tok), ChatParser(twin)
    for token_id in turn:
        if token_id in tok.control_ids or token_id < 300:
            assert ours.feed(token_id) == theirs.feed(token_id)
    assert (ours.message(), ours.stray, ours.state) == (theirs.message(), theirs.stray, theirs.state)


def test_the_template_under_other_names() -> None:
    expected = chat_template(small())
    for text in sorted(K2.ends[:1] + tuple(t for texts in K2.markers.values() for t in texts), key=len, reverse=True):
        expected = expected.replace(text, other(text))
    for header in K2.headers.values():
        expected = expected.replace(header.open, other(header.open)).replace(header.close, other(header.close))
    assert expected != chat_template(small()) and chat_template(renamed(small())) == expected


def test_thoughts_that_are_text_under_other_names() -> None:
    tok = renamed(spelled())
    assert tok.marker_ids.spells_thinking
    message = parse(tok, tok.encode("@think@R@think/@A"))
    assert (message.reasoning_content, message.content) == ("R", "A")
    shown = render(tok, [Message("user", "Q"), message], add_generation_prompt=False, preserve_thinking=False).ids
    assert tok.decode(shown).endswith("@think@@think/@A@im_end@")


# each field


def text(form: ChatFormat, messages: list[Any], **options: Any) -> str:
    tok = speaking(small(system=""), form)
    return tok.decode(render(tok, messages, **{"add_generation_prompt": False, **options}).ids)


CALLED = [
    Message("user", "Q"),
    Message("assistant", "", "R", (ToolCall("f", "{}", "c"),)),
    Message("tool", "T", tool_call_id="c"),
]


def test_how_a_call_and_its_result_are_labelled() -> None:
    form = replace(
        K2,
        call_label="{name}#{index}",
        label_pattern=re.compile(r"(.*?)(?:#([0-9]+))?", re.DOTALL),
        result="[{label}] {content}",
    )
    shown = text(form, CALLED)
    assert "<|tool_call_begin|>f#0<|tool_call_argument_begin|>" in shown and "[f#0] T<|im_end|>" in shown
    tok = speaking(small(), form)
    ids = tok.encode("<|tool_call_begin|> functions.g#7 <|tool_call_argument_begin|>{}", allow_special=True)
    assert parse(tok, ids).tool_calls == (ToolCall("functions.g", "{}", "", 7),)


def test_braces_in_a_result_are_the_tools_own() -> None:
    assert "## Return of functions.f:0\n{label} {0}" in text(K2, [*CALLED[:2], Message("tool", "{label} {0}")])


def test_how_tools_are_declared() -> None:
    assert text(replace(K2, tools_name="tools", tools_json={}), [], tools=TOOLS).startswith(
        '<|im_system|>tools<|im_middle|>[{"type": "function", "function": {"name": "f", '
    )


def test_whose_message_clears_thoughts() -> None:
    history = [*CALLED, Message("assistant", "A", "R2"), Message("user", "Q2")]
    running = history[:3]
    by_user = replace(K2, clears_thinking="user")
    assert "R" in text(K2, running, preserve_thinking=False) and "R" in text(by_user, running, preserve_thinking=False)
    assert "R2" in text(by_user, history[:4], preserve_thinking=False)
    assert "R2" not in text(K2, history[:4], preserve_thinking=False)
    assert "R2" not in text(by_user, history, preserve_thinking=False)


def test_a_role_with_a_header_of_its_own() -> None:
    form = replace(K2, headers={**K2.headers, "tool": Header("[PAD]", "[UNK]")})
    assert text(form, CALLED).endswith("[PAD]tool[UNK]## Return of functions.f:0\nT<|im_end|>")


def test_every_end_ends_a_turn_and_the_first_is_written() -> None:
    tok = speaking(small(), replace(K2, ends=("[PAD]", "<|im_end|>")))
    assert tok.end_ids == {tok.control["[PAD]"], tok.control["<|im_end|>"]}
    assert tok.marker_ids.end_of_turn == tok.control["[PAD]"]


@pytest.mark.parametrize(
    ("label", "name", "index"),
    [
        ("functions.f:0", "f", 0),
        (" functions.a.b-c:12\n", "a.b-c", 12),
        ("f", "f", None),
        ("functions.f:x", "f:x", None),
        ("f:1:2", "f:1", 2),
        ("f:1234567890", "f", None),
        ("", "", None),
        ("a\nb:3", "a\nb", 3),
    ],
)
def test_labels_that_models_write(label: str, name: str, index: int | None) -> None:
    assert K2.read_label(label) == (name, index)


# which format, and its ids


def test_a_vocabulary_speaks_the_first_format_whose_tokens_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert small().format is K2 and spelled().format is K2
    monkeypatch.setattr(choose, "FORMATS", (RENAMED, K2))
    control = {other(token): token_id for token, token_id in small().control.items()}
    assert choose.format_of(control) is RENAMED
    assert choose.format_of(small().control) is K2
    assert choose.format_of({}) is RENAMED  # which then says what is missing


def test_ids_of_markers() -> None:
    tok = small()
    ids = tok.marker_ids
    assert ids.think_close == tok.id_of("</think>") and ids.close_thought == (ids.think_close,)
    assert ids.header("tool") == ids.header("system") == (tok.id_of("<|im_system|>"), tok.id_of("<|im_middle|>"))
    assert ids.call_begins == {tok.id_of("<|tool_calls_section_begin|>"), tok.id_of("<|tool_call_begin|>")}
    assert set(ids.meanings.values()) == set(Marker) and len(ids.meanings) == len(Marker)
    half = without("</think>").marker_ids
    assert half.spells_thinking and half.think_open is not None and half.think_close is None
    assert half.close_thought == tuple(without("</think>").encode("</think>"))


def test_both_spellings_are_read_and_the_usual_one_is_written() -> None:
    tok = without(rename=(("[UNK]", "<|tool_call_section_begin|>"), ("[PAD]", "<|tool_call_section_end|>")))
    ids = tok.marker_ids
    assert ids.section_open == tok.id_of("<|tool_calls_section_begin|>")
    assert tok.id_of("<|tool_call_section_begin|>") in ids.call_begins and len(ids.call_begins) == 3


def test_a_vocabulary_without_the_format_has_no_marker_ids() -> None:
    tok = without("<|tool_call_end|>")
    with pytest.raises(ValueError, match=r"lacks <\|tool_call_end\|>; expected .*Kimi's chat format"):
        _ = tok.marker_ids
    assert tok.encode("text") and tok.format.missing(tok.control) == ["<|tool_call_end|>"]

"""ChatParser: what real models do wrong, and that streaming, splitting and tokenization change
nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CONTROL_TEXTS, assistant_turns, small, spelled, texts, without

from abruzzi.tokenizer import ChatParser, Tokenizer, parse, render
from abruzzi.types import (
    ContentDelta,
    Message,
    ParserEvent,
    ReasoningDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)

S, E, C, A, X = (
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)


def call(name: str, arguments: str = "{}", index: int | None = None) -> ToolCall:
    return ToolCall(name, arguments, "", index)


def fields(message: Message) -> tuple[Any, ...]:
    return message.content, message.reasoning_content, message.tool_calls


def gathered(events: list[ParserEvent]) -> tuple[Any, ...]:
    """Fields from events alone, as a client would collect them; checks the order of events."""
    content = reasoning = ""
    calls: list[list[str]] = []
    open_call = None
    for event in events:
        match event:
            case ContentDelta(text):
                content += text
            case ReasoningDelta(text):
                reasoning += text
            case ToolCallStart(position, name):
                assert open_call is None and position == len(calls)
                calls.append([name, ""])
                open_call = position
            case ToolCallDelta(position, text):
                assert position == open_call
                calls[position][1] += text
            case ToolCallEnd(position):
                assert position == open_call
                open_call = None
        assert event != ContentDelta("") and event != ReasoningDelta("")
    assert open_call is None
    return content, reasoning or None, tuple(map(tuple, calls))


def plain(message: Message) -> tuple[Any, ...]:
    return message.content, message.reasoning_content, tuple((c.name, c.arguments) for c in message.tool_calls)


def in_bytes(tok: Tokenizer, ids: Any) -> list[int]:
    """The same text in the smallest tokens there are."""
    single = {tok.token_bytes(i): i for i in range(256)}  # the trainer puts the bytes first
    out: list[int] = []
    for i in ids:
        out += [i] if i in tok.control_ids else [single[bytes([b])] for b in tok.token_bytes(i)]
    return out


def check_every_split(tok: Tokenizer, ids: list[int]) -> None:
    """Copy-and-continue at every point gives the non-streaming result; so does the smallest
    tokenization."""
    whole = parse(tok, ids)
    parser = ChatParser(tok)
    events: list[ParserEvent] = []
    for at in range(len(ids) + 1):
        other = copy.deepcopy(parser)
        ended = copy.deepcopy(parser)
        rest = other.feed_all(ids[at:]) + other.finish()
        assert other.message() == whole
        assert gathered(events + rest) == plain(whole)
        assert gathered(events + ended.finish()) == plain(parse(tok, ids[:at]))
        if at < len(ids):
            events += parser.feed(ids[at])
    assert fields(parse(tok, in_bytes(tok, ids))) == fields(whole)


CASES: list[tuple[str, str, str | None, tuple[ToolCall, ...], int]] = [
    # text, content, reasoning, calls, stray
    ("A", "A", None, (), 0),
    ("<think>R</think>A<|im_end|>", "A", "R", (), 0),
    ("<think></think>A[EOS]", "A", None, (), 0),
    ("<think>R", "", "R", (), 0),
    ("<think>R<|im_end|>", "", "R", (), 0),
    ("<think>R</think>A<think>S</think>B", "AB", "RS", (), 0),
    (f"<think>R</think>A{S}{C}functions.f:0{A}{{}}{X}{E}<|im_end|>", "A", "R", (call("f", "{}", 0),), 0),
    (f"<think>R{S}{C}functions.f:0{A}{{}}{X}{E}", "", "R", (call("f", "{}", 0),), 0),
    (f"<think>R{C}functions.f:0{A}{{}}{X}<|im_end|>", "", "R", (call("f", "{}", 0),), 0),
    (f"A{C}functions.f:0{A}{{}}{X}B", "AB", None, (call("f", "{}", 0),), 0),
    (f"{S} {C}\nfunctions.f:0 {A} {{}} \n{X}\n{E} after", " after", None, (call("f", "{}", 0),), 0),
    (
        f"{S}{C}functions.a.b-c:12{A}{{}}{X}{C}plain{A}[]{X}{E}",
        "",
        None,
        (call("a.b-c", "{}", 12), call("plain", "[]")),
        0,
    ),
    (f"{C}functions.a:b:3{A}{{}}{X}", "", None, (call("a:b", "{}", 3),), 0),
    (f"{C}functions.f:{A}{{}}{X}", "", None, (call("f:"),), 0),
    (f"{C}functions.f:٣{A}{{}}{X}", "", None, (call("f:٣"),), 0),
    (f"{C}functions.f:12345678901{A}{{}}{X}", "", None, (call("f"),), 0),
    (f"{C}{A}{{}}{X}", "", None, (call(""),), 0),
    (f"{C} {X}", "", None, (call("", ""),), 0),
    (f'{S}{C}f:0{A}{{"a": "b{X}{E}', "", None, (call("f", '{"a": "b', 0),), 0),
    (f'{S}{C}f:0{A}{{"a": [1,', "", None, (call("f", '{"a": [1,', 0),), 0),
    (f"{S}{C}f:0{A}  ", "", None, (call("f", "", 0),), 0),
    (f"{S}{C}functions.f", "", None, (call("f", ""),), 0),
    (f"{S}{C}f:0{A}{{}}{E}A", "A", None, (call("f", "{}", 0),), 0),
    (f"{S}{C}f:0{A}{{}}{C}g:1{A}{{}}{X}{E}", "", None, (call("f", "{}", 0), call("g", "{}", 1)), 0),
    (f"{S}one two {C}f:0{A}{{}}{X} \n three{E}", "one two \n three", None, (call("f", "{}", 0),), 0),
    (f"{S}{C}f:0{A}a<think>b{S}c</think>d{X}{E}", "", None, (call("f", "abcd", 0),), 3),
    (f"A</think>B{X}C{A}D{E}<|im_user|>[BOS]", "ABCD", None, (), 6),
    ("<think>a<think>b</think>c", "c", "ab", (), 1),
    ("A<|im_end|>B<|im_end|>", "A", None, (), 2),
    (f"{S}<think>R</think>A", "A", "R", (), 0),
    (f"{S}{S}{E}{E}", "", None, (), 2),
]


@pytest.mark.parametrize(("text", "content", "reasoning", "calls", "stray"), CASES)
def test_cases(text: str, content: str, reasoning: str | None, calls: tuple[ToolCall, ...], stray: int) -> None:
    tok = small()
    ids = tok.encode(text, allow_special=True)
    parser = ChatParser(tok)
    for token_id in ids:
        parser.feed(token_id)
    parser.finish()
    assert fields(parser.message()) == (content, reasoning, calls)
    assert parser.stray == stray
    check_every_split(tok, ids)


@given(turn=assistant_turns())
@settings(max_examples=60, deadline=None)
def test_parse_gives_back_what_render_wrote(turn: Message) -> None:
    tok = small()
    prompt = len(render(tok, [Message("user", "Q")]).ids)
    whole = render(tok, [Message("user", "Q"), turn], add_generation_prompt=False, preserve_thinking=True)
    ids = whole.ids[prompt:]
    calls = tuple(replace(c, id="", index=n) for n, c in enumerate(turn.tool_calls))
    assert fields(parse(tok, ids)) == (turn.content or "", turn.reasoning_content or None, calls)
    parser = ChatParser(tok)
    parser.feed_all(ids)
    assert parser.stray == 0
    assert parser.reasoning_tokens == len(tok.encode(turn.reasoning_content or ""))


@given(turn=assistant_turns(), cut=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_every_split_of_drawn_messages(turn: Message, cut: float) -> None:
    tok = small()
    ids = render(tok, [Message("user", "Q"), turn], add_generation_prompt=False, preserve_thinking=True).ids
    ids = ids[len(render(tok, [Message("user", "Q")]).ids) :]
    check_every_split(tok, ids[: round(len(ids) * cut)][:150])


def test_incomplete_calls_say_so() -> None:
    tok = small()
    for text, complete in (
        (f"{C}f{A}{{}}{X}", True),
        (f"{C}f{A}{{}}", False),
        (f"{C}f", False),
        (f"{C}f{A}{{{E}", False),
    ):
        parser = ChatParser(tok)
        events = parser.feed_all(tok.encode(text, allow_special=True)) + parser.finish()
        assert events[-1] == ToolCallEnd(0, complete)
        assert events[0] == ToolCallStart(0, "f")
    assert ChatParser(tok).finish() == []


def test_an_unfinished_character_is_replaced_where_a_field_ends_and_joined_where_it_goes_on() -> None:
    tok = small()
    first, rest = in_bytes(tok, tok.encode("é"))
    ctl = tok.control
    assert parse(tok, [first, rest]).content == "é"
    assert parse(tok, [first]).content == "\ufffd"
    assert parse(tok, [first, ctl["<think>"], rest]).content == "\ufffd"
    assert parse(tok, [first, ctl["<think>"], rest]).reasoning_content == "\ufffd"
    assert parse(tok, [first, ctl["[PAD]"], rest]).content == "é"  # a stray token is as if it were not there
    broken = parse(tok, [ctl[C], first, ctl[A], rest, first, ctl[X]])
    assert fields(broken)[2] == (call("\ufffd", "\ufffd\ufffd"),)


def test_a_prompt_that_opened_the_thought() -> None:
    tok = small()
    assert fields(parse(tok, tok.encode("R</think>A", allow_special=True), in_thinking=True)) == ("A", "R", ())
    parser = ChatParser(tok, in_thinking=True)
    assert parser.in_thinking
    parser.feed_all(tok.encode("R</think>A", allow_special=True))
    assert not parser.in_thinking and parser.reasoning_tokens == 1


def test_ids_outside_the_vocabulary_are_refused_and_leave_no_trace() -> None:
    parser = ChatParser(small())
    with pytest.raises(ValueError, match="not in this vocabulary"):
        parser.feed(99_999)
    assert parser.message().ids == ()


# tokenizers that spell the think markers

SPELLED = [
    ("<think>R</think>A", "A", "R"),
    ("\n <think>R</think>A", "A", "R"),
    ("<think></think>A", "A", None),
    ("<think>R", "", "R"),
    ("<think>R</thin", "", "R</thin"),
    ("<thin", "<thin", None),
    (" \n", " \n", None),
    (" A", " A", None),
    ("A <think>B</think>", "A <think>B</think>", None),
    ("<think>R</think>A<think>B</think>", "A<think>B</think>", "R"),
    ("<think>a<b</c</</think>A</think>", "A</think>", "a<b</c</"),
    ("<<think>", "<<think>", None),
    (f"<think>R</think{S}", "", "R</think"),
    (f"<think>R</think>{S}{C}f:0{A}<think>{X}", "", "R"),
]


@pytest.mark.parametrize(("text", "content", "reasoning"), SPELLED)
def test_markers_that_are_text(text: str, content: str, reasoning: str | None) -> None:
    tok = spelled()
    ids = tok.encode(text, allow_special=True)
    assert plain(parse(tok, ids))[:2] == (content, reasoning)
    check_every_split(tok, ids)
    check_every_split(tok, in_bytes(tok, ids))


@given(thought=texts.filter(lambda t: "</think>" not in t), answer=texts)
@settings(max_examples=60, deadline=None)
def test_spelled_thoughts_come_back(thought: str, answer: str) -> None:
    tok = spelled()
    text = f"<think>{thought}</think>{answer}"
    # "</think>" may begin in the thought: then the first one ends it, as with any reader of text.
    head, _, tail = text.removeprefix("<think>").partition("</think>")
    assert plain(parse(tok, tok.encode(text)))[:2] == (tail, head or None)


def test_one_marker_as_a_token_and_one_as_text() -> None:
    for absent in ("<think>", "</think>"):
        tok = without(absent)
        ids = tok.encode("<think>R</think>A", allow_special=True)
        assert plain(parse(tok, ids))[:2] == ("A", "R")
        check_every_split(tok, ids)


def test_both_spellings_of_the_section() -> None:
    tok = without(rename=(("[UNK]", "<|tool_call_section_begin|>"), ("[PAD]", "<|tool_call_section_end|>")))
    for begin, end in ((S, E), ("<|tool_call_section_begin|>", "<|tool_call_section_end|>")):
        text = f"<think>R{begin} {C}f:0{A}{{}}{X} {end}A"
        assert fields(parse(tok, tok.encode(text, allow_special=True))) == ("A", "R", (call("f", "{}", 0),))


def test_control_strings_written_as_text_stay_text() -> None:
    tok = small()
    for text in CONTROL_TEXTS:
        ids = [
            *tok.encode("<think>", allow_special=True),
            *tok.encode(text),
            tok.control["</think>"],
            *tok.encode(text),
        ]
        assert plain(parse(tok, ids))[:2] == (text, text)

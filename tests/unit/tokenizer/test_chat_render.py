"""render: K2's layout and mask, spliced ids, append-only histories, and results that find their
calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import (
    CONTROL_TEXTS,
    assistant_turns,
    conversations,
    small,
    small_tiktoken,
    spelled,
    texts,
    tokenizer_json,
    without,
)

from abruzzi.tokenizer import Tokenizer, from_json, generation_prefix, message_from_completion, parse, render
from abruzzi.types import Message, ToolCall, ToolSpec

USER = Message("user", "Q")
SPEC = ToolSpec("get_weather", "Weather", {"type": "object"})
# Long examples, few of them: a conversation holds many texts.
brief = settings(max_examples=60, deadline=None)


def text_of(tok: Tokenizer, messages: list[Any], **options: Any) -> str:
    options = {"add_generation_prompt": False, **options}
    rendered = render(tok, messages, **options)
    assert len(rendered.ids) == len(rendered.sampled)
    return tok.decode(rendered.ids)


def sampled_text(tok: Tokenizer, messages: list[Any], **options: Any) -> str:
    """What is trained, with a bar at each gap."""
    rendered = render(tok, messages, add_generation_prompt=False, **options)
    parts: list[list[int]] = []
    for at, (token_id, sampled) in enumerate(zip(rendered.ids, rendered.sampled)):
        if sampled:
            if not parts or not rendered.sampled[at - 1]:
                parts.append([])
            parts[-1].append(token_id)
    return "¦".join(map(tok.decode, parts))


def as_sampled(tok: Tokenizer, message: Message, **options: Any) -> Message:
    """The message as if a model had sampled it: with the ids that rendering it alone gives."""
    prompt = len(render(tok, [USER]).ids)
    ids = render(tok, [USER, message], add_generation_prompt=False, preserve_thinking=True, **options).ids[prompt:]
    return replace(message, ids=tuple(ids))


# append-only


@given(history=conversations(), tools=st.sampled_from([None, [SPEC]]))
@brief
def test_with_preserved_thinking_every_history_is_a_prefix_of_the_next(history: list[Message], tools: Any) -> None:
    tok = small()
    whole = render(tok, history, tools, add_generation_prompt=False, preserve_thinking=True)
    for upto in range(1, len(history)):
        part = render(tok, history[:upto], tools, add_generation_prompt=False, preserve_thinking=True)
        assert whole.ids[: len(part.ids)] == part.ids
        assert whole.sampled[: len(part.ids)] == part.sampled
        if history[upto].role == "assistant":
            prompt = render(tok, history[:upto], tools, preserve_thinking=True)
            assert whole.ids[: len(prompt.ids)] == prompt.ids


@given(history=conversations(), odd=st.lists(st.integers(0, 360), max_size=8))
@brief
def test_sampled_ids_are_spliced_not_encoded(history: list[Message], odd: list[int]) -> None:
    """Ids that no encoder would choose, up to and including an end that the model sampled."""
    tok = small()
    prompt: list[int] = []
    sent: list[Message] = []
    for message in history:
        if message.role == "assistant":
            prompt = render(tok, sent, preserve_thinking=True).ids
            ids = (*odd, *tok.encode("x"), *as_sampled(tok, message).ids, *odd)  # type: ignore[misc]
            calls = tuple(replace(c, index=None) for c in message.tool_calls)
            message = replace(parse(tok, ids), tool_calls=calls)
            assert (
                message.ids is not None and message.ids == ids[: len(ids) - len(odd)]
            )  # the parser drops what follows the end
            sent.append(message)
            after = render(tok, sent, add_generation_prompt=False, preserve_thinking=True)
            assert after.ids == [*prompt, *message.ids]
            assert after.sampled[len(prompt) :] == [True] * len(message.ids)
        else:
            sent.append(message)


def test_without_it_a_final_answer_breaks_the_prefix() -> None:
    """Shows that the properties above can fail: K2-Thinking's own template is not append-only."""
    tok = small()
    history = [USER, Message("assistant", "A", "R")]
    before = render(tok, [USER, Message("assistant", "A", "R", (ToolCall("f", "{}", "c"),))], preserve_thinking=False)
    assert "<think>R</think>" in tok.decode(before.ids)
    assert text_of(tok, history, preserve_thinking=False).endswith("<think></think>A<|im_end|>")


# control tokens come from ids only


@given(text=st.one_of(texts, st.sampled_from(CONTROL_TEXTS)), backend=st.sampled_from([small, small_tiktoken]))
@settings(max_examples=100, deadline=None)
def test_no_field_can_forge_a_control_token(text: str, backend: Any) -> None:
    tok = backend()

    def layout(filled: str) -> list[int]:
        messages = [
            Message("system", filled, name=f"n{filled}"),
            Message("user", filled, name=f"n{filled}"),
            Message("assistant", filled, filled, (ToolCall(f"f{filled}", filled, f"c{filled}"),), name=f"n{filled}"),
            Message("tool", filled, tool_call_id=f"c{filled}", name=f"n{filled}"),
        ]
        tools = [ToolSpec(filled, filled, {"title": filled, "properties": {filled: {}}})]
        return [i for i in render(tok, messages, tools).ids if i in tok.control_ids]

    assert layout(text) == layout("")


# layout and mask


def test_the_layout_of_a_conversation_with_tools() -> None:
    tok = small()
    messages = [
        {"role": "developer", "content": "S"},
        {"role": "user", "content": "Q", "name": "alice"},
        Message("assistant", None, "R", (ToolCall("f", '{"a":1}', "toolu_1"), ToolCall("g.h-i", "{}", "call_2"))),
        {"role": "tool", "content": "second", "tool_call_id": "call_2"},
        {"role": "tool", "content": "first"},
    ]
    assert text_of(tok, messages, add_generation_prompt=True) == (
        "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>alice<|im_middle|>Q<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think>R</think><|tool_calls_section_begin|>"
        '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a":1}<|tool_call_end|>'
        "<|tool_call_begin|>functions.g.h-i:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|><|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.g.h-i:1\nsecond<|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.f:0\nfirst<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>"
    )


@pytest.mark.parametrize(
    ("reasoning", "keep", "trained"),
    [
        ("R", True, "<think>R</think>A<|im_end|>"),
        ("", True, "<think></think>A<|im_end|>"),
        (None, True, "A<|im_end|>"),
        ("R", False, "A<|im_end|>"),
        ("", False, "A<|im_end|>"),
        (None, False, "A<|im_end|>"),
    ],
)
def test_the_mask_of_a_final_answer(reasoning: str | None, keep: bool, trained: str) -> None:
    for tok in (small(), spelled()):
        messages = [Message("system", "S"), USER, Message("assistant", "A", reasoning), Message("user", "more")]
        assert sampled_text(tok, messages, preserve_thinking=keep, tools=[SPEC]) == trained


def test_the_mask_of_a_tool_loop() -> None:
    call = Message("assistant", "", "R", (ToolCall("f", "{}", "c"),))
    messages = [USER, call, Message("tool", "T", tool_call_id="c"), Message("assistant", "A", "R2")]
    assert sampled_text(small(), messages, preserve_thinking=True) == (
        "<think>R</think><|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}"
        "<|tool_call_end|><|tool_calls_section_end|><|im_end|>¦<think>R2</think>A<|im_end|>"
    )


def test_the_checkpoints_defaults_rule_unless_told() -> None:
    messages = [USER, Message("assistant", "A", "R")]
    keeps = small(system="", preserve_thinking=True)
    assert "R</think>" in text_of(keeps, messages)
    assert "R</think>" not in text_of(keeps, messages, preserve_thinking=False)
    assert text_of(keeps, [USER]) == "<|im_user|>user<|im_middle|>Q<|im_end|>"
    assert text_of(small(system="L"), [USER]).startswith("<|im_system|>system<|im_middle|>L<|im_end|>")


def test_thinking_of_the_running_tool_loop_is_kept_and_dropped_when_it_is_history() -> None:
    call = Message("assistant", "", "R1", (ToolCall("f", "{}", "c"),))
    loop = [USER, call, Message("tool", "T", tool_call_id="c")]
    tok = small()
    assert "R1" in text_of(tok, loop, preserve_thinking=False)
    done = text_of(tok, [*loop, Message("assistant", "A", "R2"), USER, replace(call, tool_calls=(ToolCall("g", ""),))])
    assert done.count("R1") == 1 and "R2" not in done and done.index("R1") > done.index("A<|im_end|>")


def test_the_generation_prompt_without_thinking() -> None:
    tok = small()
    rendered = render(tok, [USER], thinking=False)
    assert tok.decode(rendered.ids).endswith("<|im_assistant|>assistant<|im_middle|><think></think>")
    assert not any(rendered.sampled)
    completion = [*tok.encode("yes"), tok.control["<|im_end|>"], 5]
    flags = [True, *[False] * (len(completion) - 1)]
    message = message_from_completion(tok, generation_prefix(tok, thinking=False), completion, flags)
    assert (message.content, message.reasoning_content) == ("yes", None)
    after = render(tok, [USER, message], add_generation_prompt=False)
    assert after.ids == [*rendered.ids, *completion[:-1]]
    assert after.sampled == [False] * len(rendered.ids) + flags[:-1]
    with pytest.raises(ValueError, match="one flag per id"):
        message_from_completion(tok, (), completion, [True])


# spliced messages


def ids_of(tok: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tok.encode(text, allow_special=True))


@pytest.mark.parametrize("end", ["<|im_end|>", "[EOS]"])
def test_a_sampled_end_is_kept_and_a_missing_one_is_added_unsampled(end: str) -> None:
    tok = small()
    assert text_of(tok, [USER, parse(tok, ids_of(tok, f"A{end}"))]).endswith(f"</think>A{end}")
    cut = [USER, parse(tok, ids_of(tok, "<think>R"))]
    assert text_of(tok, cut, preserve_thinking=True).endswith("<think>R<|im_end|>")
    assert sampled_text(tok, cut, preserve_thinking=True) == "<think>R"


@pytest.mark.parametrize(
    ("given_text", "left"),
    [
        ("<think>R</think>A<|im_end|>", "A<|im_end|>"),
        ("<think>R", "<|im_end|>"),
        ("A", "A<|im_end|>"),
        (" <think>R</think>A<think>S</think>B[EOS]", " AB[EOS]"),
        ("<think>R</think><think>S[EOS]", "[EOS]"),
        ("<think></think>A", "A<|im_end|>"),
        ("A</think>B", "A</think>B<|im_end|>"),
    ],
)
def test_what_is_left_of_sampled_history(given_text: str, left: str) -> None:
    tok = small()
    messages = [USER, parse(tok, ids_of(tok, given_text))]
    assert text_of(tok, messages, preserve_thinking=False).endswith("assistant<|im_middle|><think></think>" + left)
    ended = given_text.endswith(("<|im_end|>", "[EOS]"))
    trained = sampled_text(tok, messages, preserve_thinking=False)
    assert trained == (left if ended else left.removesuffix("<|im_end|>"))


def test_an_end_marker_that_is_text_in_a_dropped_thought_ends_nothing() -> None:
    tok = small()
    ids = (*ids_of(tok, "<think>"), *tok.encode("a</think>b"), *ids_of(tok, "</think>A"))
    shown = text_of(tok, [USER, parse(tok, ids)], preserve_thinking=False)
    assert shown.endswith("<|im_middle|><think></think>A<|im_end|>")


def test_a_call_inside_a_thought_survives_when_the_thought_is_dropped() -> None:
    tok = small()
    calls = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    first = parse(tok, ids_of(tok, f"<think>R{calls}<|tool_calls_section_end|><|im_end|>"))
    messages = [USER, first, Message("tool", "T"), Message("assistant", "A")]
    shown = text_of(tok, messages, preserve_thinking=False)
    assert f"<think></think>{calls}" in shown and "## Return of functions.f:0\nT" in shown


@given(
    turn=assistant_turns(thoughts=texts.filter(lambda t: "</think>" not in t)), tail=st.sampled_from(["\n\n", "é", ""])
)
@brief
def test_dropping_spelled_thoughts_leaves_the_text_of_the_answer(turn: Message, tail: str) -> None:
    """Markers as text may end inside a token; even so the answer's characters stay."""
    tok = spelled()
    text = f"<think>{turn.reasoning_content or 'r'}</think>{tail}{turn.content or ''}"
    message = parse(tok, tok.encode(text))
    assert message.content == tail + (turn.content or "")
    assert text_of(tok, [USER, message], preserve_thinking=False).endswith(
        f"<|im_middle|><think></think>{message.content}<|im_end|>"
    )
    assert text_of(tok, [USER, message], preserve_thinking=True).endswith(f"<|im_middle|>{text}<|im_end|>")


def test_a_spelled_marker_that_ends_inside_a_token_leaves_the_rest_of_it() -> None:
    data = json.loads(tokenizer_json())
    data["added_tokens"] = [t for t in data["added_tokens"] if "think" not in t["content"]]
    data["model"]["vocab"][">ĊĊ"], data["model"]["vocab"][">Ċ"] = 1001, 1000
    data["model"]["merges"] = [[">", "Ċ"], [">Ċ", "Ċ"], *data["model"]["merges"]]
    tok = from_json(json.dumps(data))
    message = parse(tok, tok.encode("<think>R</think>\n\nA"))
    assert 1001 in (message.ids or ())  # ">\n\n" is one token
    assert (message.content, message.reasoning_content) == ("\n\nA", "R")
    assert text_of(tok, [USER, message], preserve_thinking=False).endswith("<think></think>\n\nA<|im_end|>")


def test_calls_of_spliced_messages_count() -> None:
    tok = small()
    ids = ids_of(tok, "<think></think><|tool_call_begin|>functions.f<|tool_call_argument_begin|>{}<|tool_call_end|>")
    spliced = parse(tok, ids)
    assert spliced.tool_calls == (ToolCall("f", "{}", "", None),)
    later = Message("assistant", "", "", (ToolCall("g", "{}", "x"),))
    shown = text_of(tok, [USER, spliced, Message("tool", "T"), later, Message("tool", "U", tool_call_id="x")])
    assert "Return of functions.f:0\nT" in shown and "Return of functions.g:1\nU" in shown
    for wrong in ((), (*spliced.tool_calls, ToolCall("h", ""))):
        with pytest.raises(ValueError, match=f"{len(wrong)} tool_calls but its ids hold 1"):
            render(tok, [USER, replace(spliced, tool_calls=wrong)])


def test_the_index_that_the_model_wrote_is_the_one_in_the_result() -> None:
    tok = small()
    ids = ids_of(tok, "<|tool_call_begin|>functions.f:7<|tool_call_argument_begin|>{}<|tool_call_end|>")
    assert "Return of functions.f:7\nT" in text_of(tok, [USER, parse(tok, ids), Message("tool", "T")])


# results find their calls


def called(*ids: str) -> Message:
    return Message("assistant", "", "", tuple(ToolCall("f", "{}", i) for i in ids))


@pytest.mark.parametrize(
    ("calls", "answers", "labels"),
    [
        ([("a", "b")], ["b", "a"], [1, 0]),
        ([("a", "b")], [None, None], [0, 1]),
        ([("a", "b")], ["b", None], [1, 0]),
        ([("a",), ("a",)], ["a", "a"], [1, 0]),  # an id that comes again means the latest open call
        ([("", "")], [None, ""], [0, 1]),
    ],
)
def test_which_call_a_result_answers(calls: list[Any], answers: list[Any], labels: list[int]) -> None:
    messages = [USER, *(called(*ids) for ids in calls), *(Message("tool", "T", tool_call_id=a) for a in answers)]
    shown = text_of(small(), messages).split("## Return of functions.f:")[1:]
    assert [int(s[0]) for s in shown] == labels


def test_foreign_ids_make_no_difference() -> None:
    tok = small()

    def ids(rename: Any) -> list[int]:
        messages: list[Any] = [USER]
        for n in range(50):
            call_id = rename(n)
            function = {"name": "get.weather-x", "arguments": "{}"}
            messages.append(
                {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
            )
            messages.append({"role": "tool", "tool_call_id": call_id, "content": str(n)})
        return render(tok, messages).ids

    expected = ids(lambda n: f"functions.get.weather-x:{n}")
    for rename in (
        lambda n: f"call_{n:x}ab",
        lambda n: f"toolu_{n}",
        lambda n: f"functions.other:{50 - n}",
        lambda n: "0",
    ):
        assert ids(rename) == expected


# bad input


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("hello", "must be a list"),
        (None, "must be a list"),
        ({"role": "user"}, "must be a list"),
        ([5], "must be an object"),
        ([{"content": "x"}], "no role"),
        ([{"role": "robot", "content": "x"}], "robot"),
        ([{"role": "user", "content": 5}], "content"),
        ([Message("user", 5)], "must be a str"),  # type: ignore[arg-type]
        ([Message("user", "a\ud800")], "surrogate"),
        ([{"role": "tool", "content": "x"}], "answers no open call"),
        ([called("a"), {"role": "tool", "tool_call_id": "b"}], "open calls: 'a'; hint"),
        ([called("a"), *[{"role": "tool", "tool_call_id": "a"}] * 2], "answers no open call"),
        ([called("a", "a")], "share an id"),
        ([Message("assistant", ids=(9999,))], "id 9999, outside the vocabulary"),
        ([Message("assistant", ids=("x",))], "outside the vocabulary"),  # type: ignore[arg-type]
    ],
)
def test_messages_of_a_wrong_shape(messages: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render(small(), messages)


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ("x", "must be a list"),
        ({"type": "function"}, "must be a list"),
        ([5], "names no function"),
        ([{"type": "function"}], "names no function"),
        ([{"function": {"name": "f", "parameters": {1: 2, "a": 3}}}], "not JSON"),
        ([ToolSpec("f", "d", {"default": object()})], "not JSON"),
    ],
)
def test_tools_of_a_wrong_shape(tools: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render(small(), [USER], tools)


def test_a_tokenizer_without_the_chats_control_tokens() -> None:
    tok = without("<|im_user|>", "<|tool_call_end|>")
    assert tok.decode(tok.encode("still text")) == "still text"
    with pytest.raises(ValueError, match=r"lacks <\|im_user\|>, <\|tool_call_end\|>;.*hint"):
        render(tok, [USER])


def test_singular_section_tokens_are_used_when_the_plural_is_absent() -> None:
    tok = without(
        rename=(
            ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"),
            ("<|tool_calls_section_end|>", "<|tool_call_section_end|>"),
        )
    )
    shown = text_of(tok, [USER, called("a")])
    assert "<|tool_call_section_begin|><|tool_call_begin|>" in shown and "<|tool_call_section_end|><|im_end|>" in shown
    assert parse(tok, as_sampled(tok, called("a")).ids or ()).tool_calls == (ToolCall("f", "{}", "", 0),)

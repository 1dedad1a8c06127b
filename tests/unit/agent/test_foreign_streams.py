"""What other people's servers stream: every known shape is understood, and no value ends in a
TypeError.

The streams go through the whole client over a transport in memory."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi.agent.client import EndpointError, HttpChatModel
from abruzzi.agent.stream import WholeCharacters
from abruzzi.agent.think_tags import ThinkTags
from abruzzi.types import ContentDelta, Event, Message, MessageEnd, ReasoningDelta, ToolCallEnd, ToolCallStart, Usage

A, B = '{"x": 1}', '{"x": 2}'


def stream(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"


def ask(body: bytes, content_type: str = "text/event-stream") -> list[Event]:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=body)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return list(HttpChatModel("http://server", "m", http=http).chat([Message("user", "q")]))


def end_of(*deltas: Any, finish: str | None = "stop") -> MessageEnd:
    chunks = [{"choices": [{"index": 0, "delta": d}]} for d in deltas]
    end = ask(stream(*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))[-1]
    assert isinstance(end, MessageEnd)
    return end


def piece(**fields: Any) -> dict[str, Any]:
    function = {k: fields.pop(k) for k in ("name", "arguments") if k in fields}
    return {"tool_calls": [{**fields, "function": function}]}


ONE = [("f", A)]
CALLS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "null index": ([piece(index=None, id="a", name="f", arguments=A)], ONE),
    "no index, in pieces": ([piece(id="a", name="f", arguments=""), piece(arguments=A)], ONE),
    "no index, the id with every piece": (
        [piece(id="a", name="f", arguments="{"), piece(id="a", arguments=A[1:])],
        ONE,
    ),
    "null index, two ids": (
        [piece(index=None, id="a", name="f", arguments=A), piece(index=None, id="b", name="f", arguments=B)],
        [("f", A), ("f", B)],
    ),
    "index as text": ([piece(index="0", id="a", name="f", arguments="{"), piece(index="0", arguments=A[1:])], ONE),
    "index as float": ([piece(index=0.0, id="a", name="f", arguments=A)], ONE),
    "one index, two ids": (
        [piece(index=0, id="a", name="f", arguments=A), piece(index=0, id="b", name="g", arguments=B)],
        [("f", A), ("g", B)],
    ),
    "one index, no ids, whole calls": (
        [piece(index=0, name="f", arguments=A), piece(index=0, name="f", arguments=B)],
        [("f", A), ("f", B)],
    ),
    "a new id with every piece": (
        [piece(index=0, id="a", name="f", arguments="{"), piece(index=0, id="b", arguments=A[1:])],
        ONE,
    ),
    "one index, three ids in pieces": (
        [
            piece(index=0, id="a", name="f", arguments=""),
            piece(index=0, arguments=A),
            piece(index=0, id="b", name="f", arguments=""),
            piece(index=0, arguments=B),
        ],
        [("f", A), ("f", B)],
    ),
    "interleaved": (
        [
            piece(index=0, id="a", name="f", arguments=""),
            piece(index=1, id="b", name="g", arguments=""),
            piece(index=0, arguments=A),
            piece(index=1, arguments=B),
        ],
        [("f", A), ("g", B)],
    ),
    "a name in pieces": (
        [piece(index=0, id="a", name="calcu", arguments=""), piece(index=0, name="lator", arguments=A)],
        [("calculator", A)],
    ),
    "the name with every piece": (
        [piece(index=0, id="a", name="f", arguments="{"), piece(index=0, name="f", arguments=A[1:])],
        ONE,
    ),
    "the name last": ([piece(index=0, id="a", arguments=A), piece(index=0, name="f")], ONE),
    "arguments as an object": ([piece(index=0, id="a", name="f", arguments={"x": 1})], ONE),
    "arguments null": ([piece(index=0, id="a", name="f", arguments=None)], [("f", "{}")]),
    "arguments null, then text": ([piece(index=0, id="a", name="f", arguments=None), piece(index=0, arguments=A)], ONE),
    "one object for the list": (
        [{"tool_calls": {"index": 0, "id": "a", "function": {"name": "f", "arguments": A}}}],
        ONE,
    ),
    "flat": ([{"tool_calls": [{"id": "a", "name": "f", "arguments": A}]}], ONE),
    "function_call": ([{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": A}}], ONE),
    "null among the calls": (
        [{"tool_calls": [None, {"function": None}, 5]}, piece(index=0, name="f", arguments=A)],
        ONE,
    ),
}


@pytest.mark.parametrize("shape", CALLS)
def test_calls_are_put_together_however_they_are_numbered(shape: str) -> None:
    deltas, expected = CALLS[shape]
    end = end_of(*deltas, finish="tool_calls")
    assert [(c.name, c.arguments) for c in end.message.tool_calls] == expected
    assert end.finish_reason == "tool_calls"


TEXTS: dict[str, tuple[list[Any], str, str | None]] = {
    "parts": ([{"content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}], "Hi", None),
    "thinking among the parts": (
        [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}]}, {"content": "Hi"}],
        "Hi",
        "t",
    ),
    "reasoning as an object": ([{"reasoning": {"text": "t"}}, {"content": "Hi"}], "Hi", "t"),
    "reasoning as a list": ([{"reasoning_content": [{"text": "t"}]}, {"content": "Hi"}], "Hi", "t"),
    "reasoning_details": (
        [
            {
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "t"},
                    {"type": "reasoning.encrypted", "data": "x"},
                ]
            },
            {"content": "Hi"},
        ],
        "Hi",
        "t",
    ),
    "the same thought twice": (
        [{"reasoning": "t", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]}, {"content": "Hi"}],
        "Hi",
        "t",
    ),
    "both names": ([{"reasoning": "t", "reasoning_content": "t"}, {"content": "Hi"}], "Hi", "t"),
    "thinking": ([{"thinking": "t"}, {"content": "Hi"}], "Hi", "t"),
    "null content": ([{"content": None}, {"content": "Hi"}, {"content": None}], "Hi", None),
    "a number": ([{"content": 4}, {"content": 2}], "42", None),
    "refusal": ([{"refusal": "No."}], "No.", None),
    "a pair of surrogates in two pieces": ([{"content": "a\ud83d"}, {"content": "\ude00b"}], "a😀b", None),
    "half a pair": ([{"content": "a\ud83d"}], "a\ufffd", None),
    "inline": ([{"content": "<think>t</think>Hi"}], "Hi", "t"),
    "inline with line ends": ([{"content": "<think>\nt\nu\n</think>\n\nHi"}], "Hi", "t\nu"),
    "inline and never closed": ([{"content": "<think>t"}], "", "t"),
    "inline and empty": ([{"content": "<think>\n\n</think>\n\nHi"}], "Hi", None),
    "inline twice": ([{"content": "<think>t</think>\n<think>u</think>Hi"}], "Hi", "tu"),
    "inline, Kimi": ([{"content": "◁think▷t◁/think▷Hi"}], "Hi", "t"),
    "about tags": ([{"content": "Use <think> and </think> so."}], "Use <think> and </think> so.", None),
    "a thought that the template began": ([{"content": "t\n</think>\n\nHi"}], "Hi", "t"),
    "less than": ([{"content": "<"}, {"content": "3"}], "<3", None),
    "an answer of white space and a call": ([{"content": "\n"}, piece(index=0, name="f", arguments=A)], "\n", None),
}


@pytest.mark.parametrize("shape", TEXTS)
def test_thought_and_answer_are_told_apart(shape: str) -> None:
    deltas, content, thought = TEXTS[shape]
    message = end_of(*deltas).message
    assert (message.content, message.reasoning_content) == (content, thought)


@given(st.sampled_from([t for t in TEXTS if t.startswith(("inline", "about"))]), st.data())
def test_inline_thoughts_may_be_cut_anywhere(shape: str, cuts: st.DataObject) -> None:
    deltas, content, thought = TEXTS[shape]
    text = deltas[0]["content"]
    places = sorted(cuts.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    tags = ThinkTags()
    found = [delta for p in pieces if p for delta in tags.feed(p)] + list(tags.close())
    assert "".join(d.text for d in found if isinstance(d, ContentDelta)) == content
    assert "".join(d.text for d in found if isinstance(d, ReasoningDelta)) == (thought or "")


@given(st.text(st.sampled_from("a😀é\ud83d\ude00"), max_size=8), st.integers(0, 8))
def test_pairs_come_together_and_what_is_left_can_be_encoded(text: str, place: int) -> None:
    whole = WholeCharacters()
    found = whole.feed(text[:place]) + whole.feed(text[place:]) + whole.close()
    assert found.encode() == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (
            b'{"id": "x", "choices": [{"message": {"content": "Hi"}}]}',
            "application/json",
            r'answered with application/json.*"choices".*hint: ',
        ),
        (
            b"<!doctype html>\n<html><title>Login</title>",
            "text/html",
            r"answered with text/html.*<!doctype html>.*hint: ",
        ),
        (b'{"error": {"message": "no such model"}}', "application/json", r"reported an error: no such model"),
        (b'{"detail": "Not here"}', "application/json", r"reported an error: Not here"),
        (b'{"message": {"content": "Hi"}}\n{"done": true}\n', "application/x-ndjson", r"x-ndjson.*event stream"),
        (b"plain words", "", r"answered with no content type.*plain words"),
        (stream({"error": "overloaded"}), "text/event-stream", r"reported an error: overloaded"),
        (stream({"error": {"code": 500}}), "text/event-stream", r"reported an error: .*500"),
        (stream({"object": "error", "message": "too long", "code": 400}), "text/event-stream", r"error: too long"),
        (
            stream({"choices": [{"delta": {"content": "H"}}]}, {"error": {"message": "gone"}}),
            "text/event-stream",
            "gone",
        ),
        (b'event: error\ndata: {"message": "gone"}\n\n', "text/event-stream", r"reported an error: gone"),
        (b'error: {"code": 500, "message": "gone"}\n\n', "text/event-stream", r"reported an error: .*gone"),
        (stream({"choices": [{"delta": {}, "finish_reason": "error"}]}), "text/event-stream", r"reported an error"),
        (
            stream({"choices": [{"error": {"message": "cut"}, "finish_reason": "error"}]}),
            "text/event-stream",
            r"error: cut",
        ),
        (b"data: " + b"[" * 100_000 + b"\n\n", "text/event-stream", r"not JSON"),
        (b"x" * 300_000 + b"\n" + b"y", "text/html", r"text/html"),
    ],
)
def test_what_is_no_stream_is_one_clear_line(body: bytes, content_type: str, says: str) -> None:
    with pytest.raises(EndpointError, match=says) as caught:
        ask(body, content_type)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("header", ["application/json", ""])
def test_a_stream_under_another_content_type_is_read(header: str) -> None:
    end = ask(stream({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}), header)[-1]
    assert isinstance(end, MessageEnd) and end.message.content == "Hi"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, Usage()),
        ({"prompt_tokens": "9", "completion_tokens": 7.0, "prompt_tokens_details": None}, Usage(9, 0, 7, 0)),
        ({"prompt_tokens": [1], "completion_tokens": -3, "completion_tokens_details": 5}, Usage()),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, Usage()),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}, Usage(9, 4, 0, 0)),
    ],
)
def test_usage_is_counted_where_it_is_a_count(said: Any, expected: Usage) -> None:
    for where in ({"usage": said}, {"choices": [{"delta": {}, "usage": said}]}):
        end = ask(stream({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}, where))[-1]
        assert isinstance(end, MessageEnd) and end.usage == expected


def test_a_last_message_that_says_it_all_again_is_not_taken_twice() -> None:
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    for chunks in ([whole], [{"choices": [{"delta": {"content": "Hi"}}]}, whole]):
        end = ask(stream(*chunks))[-1]
        assert isinstance(end, MessageEnd) and end.message.content == "Hi"


GOOD = [
    {"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"reasoning_content": "t", "reasoning_details": [{"text": "t"}]}}]},
    {"choices": [{"index": 0, "delta": {"content": "<think>u</think>Hi"}}]},
    {"choices": [{"index": 0, "delta": piece(index=0, id="a", name="f", arguments="{")}]},
    {"choices": [{"index": 0, "delta": piece(index=0, arguments="}")}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 1}},
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "type", "name", "index"]), inner)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, v in inner for p in places(v, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_stream_with_anything_in_any_place_gives_events_or_one_clear_error(data: st.DataObject) -> None:
    chunks: list[Any] = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(chunks)[1:]))
        target: Any = chunks
        for key in path[:-1]:
            target = target[key]
        if isinstance(target, dict) and data.draw(st.booleans()):
            del target[path[-1]]
        else:
            target[path[-1]] = data.draw(ANYTHING)
    try:
        events = ask(stream(*chunks))
    except EndpointError as error:
        assert "\n" not in str(error)
        return
    end = events[-1]
    assert isinstance(end, MessageEnd)
    json.dumps(end.message.to_openai()).encode()
    (end.message.content or "").encode()
    starts = [e.position for e in events if isinstance(e, ToolCallStart)]
    assert starts == list(range(len(end.message.tool_calls)))
    assert sorted({e.position for e in events if isinstance(e, ToolCallEnd)}) == starts

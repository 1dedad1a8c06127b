"""Event streams are read by the standard: cut anywhere, ended by CR, LF or CRLF and by nothing
else.

The standard's own examples (WHATWG HTML, 9.2.6) and the characters at which `str.splitlines` would
split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.agent.event_stream import OddLine, ServerEvent, events, is_done, split_lines

SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e"


def read(*pieces: bytes, eager: bool = False) -> list[ServerEvent | OddLine]:
    return list(events(split_lines(pieces), eager))


def data(*pieces: bytes) -> list[str]:
    return [e.data for e in read(*pieces) if isinstance(e, ServerEvent)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
         ["first event", "second event", " third event"]),
        (b"data\n\ndata\ndata\n\ndata:", ["", "\n", ""]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", ["a", "b", "c"]),
        (b"retry: 10\nevent: x\ndata: a", ["a"]),
        (b"data: a\n", ["a"]),
        (b"", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_standards_examples_however_they_are_cut(stream: bytes, expected: list[str], size: int) -> None:
    assert data(*(stream[i : i + size] for i in range(0, len(stream), size))) == expected


@given(st.lists(st.text(st.sampled_from("aé😀" + SEPARATORS), max_size=6), max_size=5), st.data())
def test_separators_inside_json_and_cuts_anywhere_change_nothing(texts: list[str], cuts: st.DataObject) -> None:
    ends = [cuts.draw(st.sampled_from(["\n", "\r", "\r\n"])) for _ in texts]
    stream = b"".join(
        f"data: {json.dumps(t, ensure_ascii=False)}{end}{end}".encode() for t, end in zip(texts, ends, strict=True)
    )
    places = sorted(cuts.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert [json.loads(d) for d in data(*pieces)] == texts


def test_a_line_is_given_as_soon_as_it_is_complete() -> None:
    sent: list[int] = []

    def pieces():
        for number, piece in enumerate([b"data: a\n\n", b"data: b\r\r", b"data: c\n\n"]):
            sent.append(number)
            yield piece

    reader = events(split_lines(pieces()))
    assert next(reader) == ServerEvent("a") and sent == [0]
    assert next(reader) == ServerEvent("b") and sent == [0, 1]


def test_lines_that_are_no_fields_are_told() -> None:
    assert read(b"<html>\n: ping\ndata: 1\n\nevent: error\ndata: 2\n\n") == [
        OddLine("<html>"), ServerEvent("1"), ServerEvent("2", "error"),
    ]  # fmt: skip


def test_eager_reading_needs_no_blank_lines_and_still_joins_a_json_over_lines() -> None:
    stream = b'data: {"a": 1}\ndata: {"a":\ndata: 2}\ndata: [DONE]\n'
    found = read(stream, eager=True)
    assert [e.data for e in found if isinstance(e, ServerEvent)] == ['{"a": 1}', '{"a":\n2}', "[DONE]"]
    assert len(read(stream)) == 1


@pytest.mark.parametrize("said", ["[DONE]", " [DONE] ", '"[DONE]"', "[done]", "DONE"])
def test_every_dress_of_the_end_is_known(said: str) -> None:
    assert is_done(said)
    assert not is_done('{"choices": []}') and not is_done("[]") and not is_done("")

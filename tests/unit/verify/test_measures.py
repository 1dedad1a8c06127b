"""The parts of `abruzzi verify` that need no server: K2VV's measures, schemas, JSON prefixes,
streams, the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.verify import json_judge, k2vv
from abruzzi.verify.checks import CHECKS
from abruzzi.verify.k2vv import Counts, Request, count, valid_calls
from abruzzi.verify.probe import Result
from abruzzi.verify.report import to_html
from abruzzi.verify.run import Report
from abruzzi.verify.wire import put_together

TOOLS = [
    {
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
        }
    },
    {"function": {"name": "empty", "parameters": {}}},
]


def answer(*calls: tuple[str, Any]) -> dict[str, Any]:
    made = [{"function": {"name": n, "arguments": a}} for n, a in calls]
    return {"choices": [{"message": {"tool_calls": made}, "finish_reason": "tool_calls"}]}


@pytest.mark.parametrize(
    ("calls", "valid"),
    [
        ([("f", '{"x": 1}')], True),
        ([("f", {"x": 1})], True),  # an object is taken as it is
        ([("f", '{"x": 1}'), ("f", '{"x": "1"}')], False),  # one bad call spoils the answer
        ([("f", '{"x": 1')], False),
        ([("f", "{}")], False),
        ([("g", '{"x": 1}')], False),  # not declared
        ([("empty", "{}")], False),  # K2VV: no schema, not valid
        ([], True),  # K2VV: all() of nothing
    ],
)
def test_a_call_is_valid_as_in_k2vv(calls: list[tuple[str, Any]], valid: bool) -> None:
    assert valid_calls(answer(*calls), TOOLS) is valid


def test_the_measures_on_numbers_that_were_published() -> None:
    # kimi-k2-thinking, 2025-11-15: vLLM 1856 of 2128 calls, SGLang 1790 of 1874.
    assert f"{Counts(tool_calls=2128, valid=1856).schema_accuracy:.2%}" == "87.22%"
    assert f"{Counts(tool_calls=1874, valid=1790).schema_accuracy:.2%}" == "95.52%"
    assert Counts().schema_accuracy is None and Counts(tn=4).tool_call_f1 is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["tool_calls", "stop", "length", None]), st.sampled_from(["tool_calls", "stop", None])
        )
    )
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pairs: list[tuple[str | None, str | None]]) -> None:
    counts = count([(Request("", {}, truth), finish, False) for finish, truth in pairs])
    known = [(t, f) for f, t in pairs if t is not None]
    assert counts.tp + counts.fp + counts.fn + counts.tn == len(known)
    called = [t == "tool_calls" for t, f in known if f == "tool_calls"]
    wanted = [f == "tool_calls" for t, f in known if t == "tool_calls"]
    if any(called):
        precision, recall = sum(called) / len(called), sum(wanted) / len(wanted)
        assert counts.tool_call_f1 == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert counts.tool_call_f1 == (0.0 if called or wanted else None)


def test_requests_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    body = {"model": "theirs", "messages": [{"role": "_input", "content": "a"}], "temperature": 1.0, "stream": True}
    path.write_text(f"{json.dumps(body)}\n\n{json.dumps({'request': body, 'finish_reason': None})}\n")
    bare, result = k2vv.load(path)
    assert bare.body == {"messages": [{"role": "system", "content": "a"}], "temperature": 1.0, "stream": True}
    assert bare.truth is None and result.truth == "stop"  # a missing finish_reason is taken as stop
    for text, says in (("{", "r.jsonl:1 is not JSON"), ('{"prompt": "x"}', "no request"), ("\n", "holds no request")):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            k2vv.load(path)


def test_schemas_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"type": "string"}\n\n{}\n')
    (tmp_path / "b.json").write_text('[{"type": "null"}, true]')
    (tmp_path / "notes.md").write_text("no schema")
    assert json_judge.load(tmp_path) == [
        ("a.jsonl:1", {"type": "string"}),
        ("a.jsonl:3", {}),
        ("b.json:1", {"type": "null"}),
        ("b.json:1", True),
    ]
    with pytest.raises(ValueError, match="must be"):
        json_judge.load(tmp_path / "notes.md")
    (tmp_path / "a.jsonl").write_text("5\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:1 is no JSON Schema"):
        json_judge.load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.data(), st.booleans())
def test_every_cut_of_json_begins_json(value: Any, data: st.DataObject, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=plain)
    assert json_judge.begins_json(text[: data.draw(st.integers(0, len(text)))])


@pytest.mark.parametrize(
    "text", ["Sure! Here", "```json\n{", '{"a" 1', "{a: 1", '[1, "x"] and', "{'a': 1", "nope", '{"a": tree']
)
def test_what_can_not_become_json(text: str) -> None:
    assert not json_judge.begins_json(text)


def test_chunks_are_put_together_by_choice_and_call() -> None:
    def chunk(index: int, finish: str | None = None, **delta: Any) -> dict[str, Any]:
        return {"id": "x", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    def call(index: int, **function: str) -> list[dict[str, Any]]:
        return [{"index": index, "id": f"id{index}", "type": "function", "function": function}]

    body = put_together(
        [
            chunk(1, role="assistant", content=None),
            chunk(0, reasoning_content="th"),
            chunk(0, reasoning_content="ink"),
            chunk(1, content="b"),
            chunk(0, tool_calls=call(0, name="f", arguments="{")),
            chunk(0, tool_calls=call(1, name="g", arguments="")),
            chunk(0, tool_calls=call(0, arguments="}")),
            chunk(0, finish="tool_calls"),
            chunk(1, finish="stop"),
            {"choices": [], "usage": {"total_tokens": 3}},
        ]
    )
    first, second = body["choices"]
    assert first["message"]["reasoning_content"] == "think" and first["finish_reason"] == "tool_calls"
    assert [c["function"] for c in first["message"]["tool_calls"]] == [
        {"name": "f", "arguments": "{}"},
        {"name": "g", "arguments": ""},
    ]
    assert second == {"index": 1, "message": {"role": "assistant", "content": "b"}, "finish_reason": "stop"}
    assert body["usage"] == {"total_tokens": 3}


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [f"{k}={v}" for k, v in attrs if k in ("src", "href") or k.startswith("on")]


def test_the_page_loads_nothing_and_escapes_all() -> None:
    evil = '<script>alert(1)</script><img src=x onerror="y">'
    exchange = {
        "request": {"method": "POST", "path": evil, "body": {evil: evil}},
        "response": {"status": 200, "text": evil},
    }
    result = Result(CHECKS[0], "fail", 1, 2, evil, {evil: 1}, [evil], [{"problem": evil, "exchanges": [exchange]}])
    page = to_html(Report(evil, evil, evil, (result,), 0.5, None, 3, 1.0))
    parser = Page()
    parser.feed(page)
    assert not parser.tags & {"script", "img", "link", "iframe", "a"} and parser.links == []
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page
    assert page.count("&lt;script&gt;") >= 8 and "50.00%" in page and "1/2" in page

"""What a client's input may cost: values counted before they are built, prompts refused before they
are encoded."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abruzzi.server import json_scan
from abruzzi.server.body import MAX_VALUES
from abruzzi.server.offload import weight
from tests.unit.server.scripted_engine import CALCULATOR, TOK, saying, serving

USER: Any = {"role": "user", "content": "Hi"}
scalars = st.none() | st.booleans() | st.integers() | st.text('"\\[]{},: \n' + "aé", max_size=6)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text('"\\{,a', max_size=3), v, max_size=4)
)


def count(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, parts))


@settings(deadline=None)
@given(values, st.integers(1, 9), st.booleans(), st.sampled_from([None, 1]))
@example(["\\", '\\"', "[],{", {}], 1, False, None)
def test_values_are_counted_as_the_parser_builds_them(value: Any, piece: int, ascii: bool, indent: int | None) -> None:
    """In pieces of any size, which may cut strings and escapes anywhere."""
    data, before = json.dumps(value, ensure_ascii=ascii, indent=indent).encode(), json_scan.PIECE
    json_scan.PIECE = piece
    try:
        assert not any(list(json_scan.too_many(data, count(value)))[-1:])
        assert count(value) == 1 or list(json_scan.too_many(data, count(value) - 1))[-1]
    finally:
        json_scan.PIECE = before


def test_a_body_has_at_most_half_a_million_values() -> None:
    with serving(saying("Hello[end]")) as served:
        for more, says in ((0, "unknown field x"), (1, f"more than {MAX_VALUES:,} JSON values")):
            # The body, messages, a message, its two fields and the list itself are six.
            body = {"messages": [USER], "x": [0] * (MAX_VALUES - 6 + more)}
            answer = served.post("/v1/chat/completions", body)
            assert answer.status_code == 400 and says in answer.json()["error"]["message"]


def test_numbers_that_no_double_holds_are_refused() -> None:
    with serving(saying("Hello[end]")) as served:
        for padding in ("", " " * 20_000):
            body = f'{{"messages": [{{"role": "user", "content": "Hi"}}], "temperature": 1e999{padding}}}'
            client = served.http(**{"content-type": "application/json"})
            answer = served.do(lambda client=client, body=body: client.post("/v1/chat/completions", content=body))
            assert answer.status_code == 400 and "1e999 is too large" in answer.json()["error"]["message"]


@given(values, st.integers(0, 60))
def test_weight_is_a_length_that_stops_counting(value: Any, enough: int) -> None:
    exact = weight(value, 10**9)
    assert min(exact, enough) <= weight(value, enough) <= exact
    assert exact <= 4 * len(json.dumps(value)) + 4


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = type(TOK).encode
    monkeypatch.setattr(
        type(TOK), "encode", lambda self, text, **options: encoded.append(len(text)) or encode(self, text, **options)
    )
    long = "word " * 40_000
    call = {"id": "c", "type": "function", "function": {"name": "calc", "arguments": json.dumps({"e": long})}}
    asked = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    result = {"role": "tool", "tool_call_id": "c", "content": ""}
    with serving(saying("Hello[end]")) as served:
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
            ("/v1/chat/completions", {"messages": [USER] * 2000}),
            (
                "/v1/chat/completions",
                {"messages": [USER, *asked, result]},
            ),
            ("/v1/completions", {"prompt": ["a", long]}),
            ("/v1/messages", {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": long}]}),
            ("/v1/responses", {"model": "tiny", "input": long}),
        ):
            answer = served.post(path, body)
            assert answer.status_code == 400, (path, answer.text[:200])
            assert answer.json()["error"]["code"] == "context_length_exceeded"
            least = re.search(r"(?:but the prompt has|prompt is too long:) (\d+)", answer.json()["error"]["message"])
            assert least and int(least[1]) > 4096
        assert max(encoded) < 1000
        # Counting is allowed beyond the context.
        counted = served.post("/tokenize", {"messages": [{"role": "user", "content": long}]}).json()
        assert counted["count"] == len(counted["tokens"]) > 40_000


def test_a_large_request_is_answered_like_a_small_one() -> None:
    """The same question through a worker thread."""
    long = "Mia has 12 marbles. " * 900
    with serving(saying("<think>yes</think>Hello[end]", max_context=30_000)) as served:
        small = served.post("/v1/chat/completions", {"messages": [USER], "tools": [CALCULATOR]}).json()
        large = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}).json()
        assert large["choices"][0]["message"] == small["choices"][0]["message"]
        assert large["usage"]["prompt_tokens"] == len(served.llm.prompts[-1]) > 3000


def test_stop_strings_have_at_most_a_thousand_characters() -> None:
    asked = (
        ("/v1/chat/completions", "stop", {"messages": [USER]}),
        ("/v1/completions", "stop", {"prompt": "a"}),
        ("/v1/messages", "stop_sequences", {"messages": [USER], "max_tokens": 16}),
        ("/v1/responses", "stop", {"input": "Hi"}),
    )
    with serving(saying("Hello[end]")) as served:
        for path, field, body in asked:
            body = {"model": "tiny", **body}
            assert served.post(path, {**body, field: ["x" * 1000]}).status_code == 200
            error = served.post(path, {**body, field: ["x" * 1001]}).json()["error"]
            assert "at most 1000 characters" in error["message"] and error["param"] == field


def test_eight_thousand_results_in_reverse_order_find_their_calls() -> None:
    """In linear time: the quadratic way took 7 s."""
    n = 8000
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(n)]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": f"r{i}"} for i in reversed(range(n))]
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    with serving(saying("Hello[end]", max_context=10**6)) as served:
        begun = time.process_time()
        answer = served.post("/v1/chat/completions", {"messages": messages})
        assert answer.status_code == 200 and time.process_time() - begun < 5
        text = TOK.decode(served.llm.prompts[-1])
    labels = re.findall(r"## Return of functions\.f:(\d+)\nr(\d+)", text)
    assert len(labels) == n and all(label == result for label, result in labels)

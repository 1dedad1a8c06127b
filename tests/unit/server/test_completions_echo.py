"""The prompt's own log-probabilities (echo with logprobs), as evaluation harnesses ask for them,
from a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from abruzzi.engine.llm import LLM
from tests import tiny
from tests.unit.server.scripted_engine import Served, chunks, serving

TEXT = "the quick brown fox, né 北京"
BODY: Any = {"prompt": TEXT, "echo": True, "logprobs": 3, "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(LLM.load(tiny.write(tmp_path_factory.mktemp("echo") / "tiny"))) as server:
        yield server


def ask(server: Served, **fields: Any) -> Any:
    answer = server.post("/v1/completions", {**BODY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_they_are_those_of_the_logits_in_front_of_each_token(served: Served) -> None:
    ids = served.llm.tokenizer.encode(TEXT)
    given = ask(served)["logprobs"]
    logits = served.llm.logits(ids).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert given["token_logprobs"][0] is None and given["top_logprobs"][0] is None
    chosen = [expected[t, ids[t + 1]] for t in range(len(ids) - 1)]
    assert given["token_logprobs"][1 : len(ids)] == pytest.approx(chosen, abs=1e-4)
    for place, top in enumerate(given["top_logprobs"][1 : len(ids)]):
        best = sorted(expected[place], reverse=True)[:3]
        assert sorted(top.values(), reverse=True)[:3] == pytest.approx(best, abs=1e-4)
        assert given["tokens"][place + 1] in top and 3 <= len(top) <= 4


def test_what_was_generated_has_the_same_when_it_is_read_again(served: Served) -> None:
    first = ask(served, return_token_ids=True)
    said = [*first["prompt_token_ids"], *first["token_ids"]]
    again = ask(served, prompt=said, max_tokens=1)["logprobs"]
    assert again["token_logprobs"][1 : len(said)] == pytest.approx(first["logprobs"]["token_logprobs"][1:], abs=1e-3)
    assert again["tokens"][: len(said)] == first["logprobs"]["tokens"]


def test_every_token_stands_where_it_says_and_a_stream_says_the_same(served: Served) -> None:
    whole = ask(served)
    given = whole["logprobs"]
    assert len({len(values) for values in given.values()}) == 1 and whole["text"].startswith(TEXT)
    for token, offset in zip(given["tokens"], given["text_offset"]):
        assert token.startswith("bytes:") or token == "<|im_end|>" or whole["text"].startswith(token, offset)
    streamed: dict[str, list[Any]] = {name: [] for name in given}
    text = ""
    for chunk in chunks(served.post("/v1/completions", {**BODY, "stream": True})):
        text += chunk["choices"][0]["text"]
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert streamed == given and text == whole["text"]


def test_a_prompt_that_does_not_fit_says_so(served: Served) -> None:
    refused = served.post("/v1/completions", {**BODY, "prompt": [5] * 300})
    assert refused.status_code == 400 and "300" in refused.json()["error"]["message"]
    assert ask(served, prompt=[5])["logprobs"]["token_logprobs"][0] is None
    several = served.post("/v1/completions", {**BODY, "prompt": ["ab", "cde"], "n": 2}).json()["choices"]
    assert [c["text"][:3] for c in several][2:] == ["cde", "cde"] and [c["index"] for c in several] == [0, 1, 2, 3]
    assert several[0]["logprobs"]["tokens"][:2] == several[1]["logprobs"]["tokens"][:2] == ["a", "b"]

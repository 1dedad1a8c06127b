"""A sequence that fails is its request's error, in the dialect's form, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from abruzzi.engine.llm import LLM
from abruzzi.engine.sampler import seed_of
from abruzzi.types import SamplingParams
from tests import tiny
from tests.unit.server.scripted_engine import Served, serving

USER: Any = [{"role": "user", "content": "Hi"}]
BAD_SEED = 77  # who draws with it fails at the third token
SEED = 76  # of three choices; the second of them
BAD_SEEDS = (BAD_SEED, seed_of(SEED, 1))  # fails as well
SAYS = "the engine failed: RuntimeError: a broken sampler"
FAILING = {"model": "tiny", "seed": BAD_SEED, "temperature": 1, "messages": USER, "max_tokens": 8}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", FAILING),
    ("/v1/completions", {k: v for k, v in FAILING.items() if k != "messages"} | {"prompt": "a"}),
    ("/v1/messages", FAILING),
    ("/v1/responses", {k: v for k, v in FAILING.items() if k not in ("messages", "max_tokens")} | {"input": "Hi"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m", context=512)


def failing(folder: Path) -> LLM:
    llm = LLM.load(folder)
    draw, drawn = llm.sample, dict[int, int]()

    def sample(logits_V: Any, params: SamplingParams, seed: int, position: int) -> tuple[int, float]:
        drawn[seed] = drawn.get(seed, 0) + 1
        if seed in BAD_SEEDS and drawn[seed] % 3 == 0:
            raise RuntimeError("a broken sampler")
        return draw(logits_V, params, seed, position)

    llm.sample = sample
    return llm


def together(served: Served, *asked: tuple[str, Any]) -> list[Any]:
    async def work() -> list[Any]:
        async with served.http() as client:
            return await asyncio.gather(*(client.post(path, json=body) for path, body in asked))

    return served.do(work)


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: value if isinstance(value, str) else "")
def test_who_fails_gets_500_and_its_neighbours_their_answers(folder: Path, path: str, body: dict[str, Any]) -> None:
    with serving(failing(folder)) as served:
        good = {"messages": USER, "temperature": 1, "seed": 5, "max_tokens": 12, "return_token_ids": True}
        alone = served.post("/v1/chat/completions", good).json()["choices"][0]["token_ids"]
        *neighbours, failed = together(served, *[("/v1/chat/completions", good)] * 3, (path, body))
        assert [n.json()["choices"][0]["token_ids"] for n in neighbours] == [alone] * 3
        assert failed.status_code == 500 and failed.json()["error"]["message"] == SAYS
        assert failed.json()["error"]["code"] == "engine_failed"
        health = served.get("/health").json()
        assert health["engine_failures"] == 1 and health["queue"]["open"] == 0 and health["cache_blocks"]["held"] == 0
        assert served.post("/v1/chat/completions", good).json()["choices"][0]["token_ids"] == alone


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: value if isinstance(value, str) else "")
def test_in_a_stream_the_failure_is_an_event_of_the_dialect(folder: Path, path: str, body: dict[str, Any]) -> None:
    with serving(failing(folder)) as served:
        lines = served.post(path, {**body, "stream": True}).text.splitlines()
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    last = data[-1].get("error", data[-1])
    assert last["message"] == SAYS and last["code"] == "engine_failed"
    if path in ("/v1/messages", "/v1/responses"):
        assert lines[-3].startswith("event: error") or "event: error" in lines
    else:
        assert "data: [DONE]" in lines


@pytest.mark.parametrize("stream", [False, True])
def test_of_several_choices_only_the_one_that_failed_has_an_error(folder: Path, stream: bool) -> None:
    with serving(failing(folder)) as served:
        body = {**FAILING, "n": 3, "seed": SEED, "stream": stream}
        answer = served.post("/v1/chat/completions", body)
        raw = served.post("/v1/completions", {**REQUESTS[1][1], "n": 3, "seed": SEED})
    assert answer.status_code == raw.status_code == 200
    if stream:
        parts = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        choices = [c for part in parts for c in part["choices"] if c["finish_reason"]]
        assert "data: [DONE]" in answer.text
    else:
        choices = answer.json()["choices"]
    for listed in (sorted(choices, key=lambda c: c["index"]), raw.json()["choices"]):
        assert [c["finish_reason"] == "error" for c in listed] == [False, True, False]
        assert [c.get("error", {}).get("message") for c in listed] == [None, SAYS, None]


def test_a_padded_vocabulary_is_served(tmp_path: Path) -> None:
    """Its padding is neither sampled nor listed; in a prompt it is refused, and of itself it is no
    text."""
    with serving(LLM.load(tiny.write(tmp_path / "m", padding=64))) as served:
        tokens = served.llm.vocab_size - 64
        body = {"prompt": [5, 6], "max_tokens": 40, "temperature": 1, "n": 8, "logprobs": 5, "return_token_ids": True}
        answer = served.post("/v1/completions", body)
        assert answer.status_code == 200
        assert all(i < tokens for choice in answer.json()["choices"] for i in choice["token_ids"])
        chat = {"messages": USER, "max_tokens": 9, "logprobs": True, "top_logprobs": 20}
        assert served.post("/v1/chat/completions", chat).status_code == 200
        for path, asked in (
            ("/v1/completions", {"prompt": [5, tokens]}),
            ("/v1/chat/completions", {"prompt_token_ids": [tokens]}),
        ):
            refused = served.post(path, {**asked, "max_tokens": 2})
            assert refused.status_code == 400 and f"from 0 to {tokens - 1}" in refused.json()["error"]["message"]
        assert served.post("/detokenize", {"tokens": [tokens, 5]}).json()["prompt"] == served.llm.tokenizer.decode([5])
        assert served.post("/v1/completions", {"prompt": "ab", "echo": True, "logprobs": 5}).status_code == 200

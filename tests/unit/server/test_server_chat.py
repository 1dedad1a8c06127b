"""/v1/chat/completions through the openai client and by hand: what comes out, streamed or not, is
one message."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi.engine.sampler import seed_of
from tests.unit.server.scripted_engine import CALCULATOR, TOK, call, chunks, ids, saying, serving

USER: Any = [{"role": "user", "content": "What is 12 + 30?"}]
TWO_CALLS = (
    "<think>I compute.</think>Let me see.[calls]"
    + call("calc", '{"e": "12 + 30"}')
    + call("calc", '{"e":"1"}', 1)
    + "[/calls][end]"
)


def put_together(stream: list[dict[str, Any]], at: int = 0) -> dict[str, Any]:
    """What a client makes of a stream: text of each kind, calls by index, ids, finish."""
    out: dict[str, Any] = {"content": "", "reasoning_content": "", "reasoning": "", "calls": {}, "finish": None}
    out |= {"token_ids": [], "logprobs": [], "ended_by": None}
    for chunk in stream:
        for choice in chunk["choices"]:
            if choice["index"] != at:
                continue
            delta = choice["delta"]
            for kind in ("content", "reasoning_content", "reasoning"):
                out[kind] += delta.get(kind) or ""
            for piece in delta.get("tool_calls", []):
                made = out["calls"].setdefault(piece["index"], {"id": piece.get("id"), "name": "", "arguments": ""})
                made["name"] += piece["function"].get("name", "")
                made["arguments"] += piece["function"].get("arguments", "")
            out["token_ids"] += choice.get("token_ids", [])
            out["logprobs"] += (choice.get("logprobs") or {}).get("content", [])
            out["finish"] = choice["finish_reason"] or out["finish"]
            out["ended_by"] = choice.get("thinking_ended_by") or out["ended_by"]
    return out


def test_a_message_with_thought_text_and_calls_through_the_openai_client() -> None:
    with serving(saying(TWO_CALLS)) as server:

        async def ask() -> Any:
            return await server.openai().chat.completions.create(
                model="tiny", messages=USER, tools=[CALCULATOR], max_tokens=400, seed=1, temperature=0.5
            )

        answer = server.do(ask)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me see."
    assert choice.message.reasoning_content == choice.message.reasoning == "I compute."
    assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("calc", '{"e": "12 + 30"}'),
        ("calc", '{"e":"1"}'),
    ]
    made = [c.id for c in choice.message.tool_calls]
    assert len(set(made)) == 2 and all(i.startswith("call_") and len(i) == 37 for i in made)
    assert answer.model == "tiny" and answer.system_fingerprint.startswith("abruzzi-")
    assert answer.usage.completion_tokens == len(ids(TWO_CALLS))
    assert answer.usage.completion_tokens_details.reasoning_tokens == len(ids("I compute."))
    assert answer.usage.prompt_tokens == len(server.llm.prompts[0])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_through_the_openai_client() -> None:
    with serving(saying(TWO_CALLS)) as server:

        async def ask() -> Any:
            async with server.openai().chat.completions.stream(
                model="tiny", messages=USER, tools=[CALCULATOR], stream_options={"include_usage": True}
            ) as stream:
                async for _ in stream:
                    pass
                return await stream.get_final_completion()

        answer = server.do(ask)
    message = answer.choices[0].message
    assert message.content == "Let me see." and answer.choices[0].finish_reason == "tool_calls"
    assert [c.function.arguments for c in message.tool_calls] == ['{"e": "12 + 30"}', '{"e":"1"}']
    assert answer.usage.completion_tokens == len(ids(TWO_CALLS))


PIECES = [
    "<think>Hmm, 你好 ",
    "naïve 🙂",
    "</think>",
    "The ",
    "answer: 42",
    "\n\n",
    "[calls]",
    call("f.x-y", '{"a": "é"}'),
]
PIECES += [
    call("calc", "{broken", 7),
    "[/calls]",
    "[end]",
    "<think>",
    " STOP here",
    "ST",
    "[call]",
    "[args]",
    "[/call]",
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(0, 2**32), st.booleans())
def test_all_splits_of_a_stream_give_the_message(pieces: list[str], seed: int, stops: bool) -> None:
    """Whatever the model says and however many tokens come at once."""
    text, rng = "".join(pieces), random.Random(seed)
    body = {"messages": USER, "tools": [CALCULATOR], "return_token_ids": True, "logprobs": True}
    body |= {"stop": ["STOP", "42\n"]} if stops else {}
    with serving(saying(text), constrained=False) as server:
        whole = server.post("/v1/chat/completions", body).json()
    with serving(saying(text, per_step=lambda: rng.choice((1, 1, 2, 3, 7, 50))), constrained=False) as server:
        stream = chunks(server.post("/v1/chat/completions", {**body, "stream": True}))
    choice, got = whole["choices"][0], put_together(stream)
    message = choice["message"]
    assert got["content"] == (message["content"] or "")
    assert got["reasoning"] == got["reasoning_content"] == message.get("reasoning_content", "")
    calls = message.get("tool_calls", [])
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        (got["calls"][n]["name"], got["calls"][n]["arguments"]) for n in range(len(calls))
    ]
    assert len(got["calls"]) == len(calls) == len({c["id"] for c in got["calls"].values()})
    assert got["token_ids"] == choice["token_ids"] and got["logprobs"] == choice["logprobs"]["content"]
    assert (got["finish"], got["ended_by"]) == (choice["finish_reason"], choice["thinking_ended_by"])
    assert stream[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert whole["usage"]["completion_tokens"] == len(choice["token_ids"])
    said = message["content"] or ""
    runs = [""]  # of text: one that a call interrupts is not searched across it
    for delta in (c["delta"] for chunk in stream for c in chunk["choices"]):
        if delta.get("tool_calls"):
            runs.append("")
        runs[-1] += delta.get("content") or ""
    assert not stops or not any(s in run for run in runs for s in ("STOP", "42\n"))
    for field in (said, message.get("reasoning_content") or "", *(c["function"]["arguments"] for c in calls)):
        assert not any(name in field for name in TOK.control)


def test_order_in_the_stream_and_its_ends() -> None:
    with serving(saying(TWO_CALLS)) as server:
        body = {"messages": USER, "tools": [CALCULATOR], "stream": True, "stream_options": {"include_usage": True}}
        stream = chunks(server.post("/v1/chat/completions", body))
    assert stream[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(c["usage"] is None for c in stream[:-1]) and stream[-1]["choices"] == []
    assert stream[-1]["usage"]["completion_tokens"] == len(ids(TWO_CALLS))
    kinds = [k for c in stream[:-1] for k in c["choices"][0]["delta"] if k in ("reasoning_content", "content")]
    assert kinds.index("reasoning_content") > 0 and "reasoning_content" not in kinds[kinds[1:].index("content") + 1 :]
    starts = [p for c in stream[:-1] for p in c["choices"][0]["delta"].get("tool_calls", []) if "id" in p]
    assert [(p["index"], p["function"]) for p in starts] == [(n, {"name": "calc", "arguments": ""}) for n in (0, 1)]
    assert stream[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_n_choices_have_their_own_seeds_and_ids() -> None:
    with serving(saying("one[end]", "two[end]", TWO_CALLS)) as server:
        body = {"messages": USER, "n": 3, "seed": 5, "tools": [CALCULATOR]}
        answer = server.post("/v1/chat/completions", body).json()
        assert [c["message"]["content"] for c in answer["choices"]] == ["one", "two", "Let me see."]
        assert [s.params.seed for s in server.llm.submitted] == [5, seed_of(5, 1), seed_of(5, 2)]
        assert answer["usage"]["completion_tokens"] == sum(len(ids(t)) for t in ("one[end]", "two[end]", TWO_CALLS))
        stream = chunks(server.post("/v1/chat/completions", {**body, "stream": True}))
        assert [put_together(stream, at)["content"] for at in range(3)] == ["Let me see."] * 3


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_the_name_of_the_thought_can_be_chosen(field: str) -> None:
    with serving(saying("<think>a</think>b[end]"), reasoning_field=field) as server:
        message = server.post("/v1/chat/completions", {"messages": USER}).json()["choices"][0]["message"]
    assert {k for k in message if k.startswith("reasoning")} == {field}


@pytest.mark.parametrize("choice", ["none", None])
def test_no_call_comes_when_none_may(choice: str | None) -> None:
    """tool_choice none, or no tools: the turn ends in front of a call that the model begins all the
    same."""
    body: dict[str, Any] = {"messages": USER, "return_token_ids": True}
    body |= {"tools": [CALCULATOR], "tool_choice": choice} if choice else {}
    with serving(saying(TWO_CALLS)) as server:
        answer = server.post("/v1/chat/completions", body).json()["choices"][0]
        assert TOK.decode(server.llm.prompts[0]).count("Computes.") == 0
    assert answer["message"]["content"] == "Let me see." and "tool_calls" not in answer["message"]
    assert answer["finish_reason"] == "stop"
    assert answer["token_ids"] == ids("<think>I compute.</think>Let me see.")


def test_exact_prompt_ids_go_in_and_come_out() -> None:
    prompt = [*ids("<|im_assistant|>assistant<|im_middle|><think>I"), *ids(" compute")]
    with serving(saying(" more</think>done[end]")) as server:
        body = {"prompt_token_ids": prompt, "return_token_ids": True, "max_tokens": 30}
        answer = server.post("/v1/chat/completions", body).json()
        assert server.llm.prompts[0] == prompt == answer["prompt_token_ids"]
    message = answer["choices"][0]["message"]
    assert message["content"] == "done" and message["reasoning_content"] == " more"
    assert answer["choices"][0]["token_ids"] == ids(" more</think>done[end]")


def test_the_likeliest_tokens_at_each_place() -> None:
    with serving(saying("ab[end]")) as server:

        async def ask() -> Any:
            return await server.openai().chat.completions.create(
                model="tiny", messages=USER, logprobs=True, top_logprobs=2
            )

        entries = server.do(ask).choices[0].logprobs.content
        assert [e.token for e in entries] == ["a", "b", "<|im_end|>"]
        assert [(t.token, t.logprob) for t in entries[0].top_logprobs] == [("a", -0.5), ("z", -3.0)]
        old = server.post("/v1/completions", {"prompt": "x", "logprobs": 2}).json()["choices"][0]["logprobs"]
        assert old["top_logprobs"][1] == {"b": -0.5, "z": -3.0} and old["token_logprobs"] == [-0.5] * 3
        plain = server.post("/v1/completions", {"prompt": "x", "logprobs": 0}).json()["choices"][0]["logprobs"]
        assert plain["top_logprobs"] is None and plain["tokens"] == ["a", "b", "<|im_end|>"]


@pytest.mark.parametrize("per_step", [1, 3, 50])
def test_logprobs_of_a_bare_completion_say_where_each_token_is(per_step: int) -> None:
    said = "ab 北京 😀 é[end]"
    with serving(saying(said, per_step=lambda: per_step)) as server:
        body = {"prompt": "né ", "logprobs": 2, "max_tokens": 40}
        choice = server.post("/v1/completions", body).json()["choices"][0]
        pieces = chunks(server.post("/v1/completions", {**body, "stream": True}))
    given = choice["logprobs"]
    streamed: dict[str, list[Any]] = {name: [] for name in given}
    for chunk in pieces:
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert streamed == given
    assert len(given["tokens"]) == len(ids(said)) == len(given["text_offset"])
    assert any(t.startswith("bytes:\\x") for t in given["tokens"])  # half a character
    for token, offset, top in zip(given["tokens"], given["text_offset"], given["top_logprobs"]):
        assert token in ("<|im_end|>",) or token[:5] == "bytes" or choice["text"].startswith(token, offset)
        assert top[token] == -0.5 == max(top.values())


def test_completions_continue_bare_prompts() -> None:
    with serving(saying("<think>raw[end]", "two words[end]")) as server:

        async def ask() -> Any:
            return await server.openai().completions.create(
                model="tiny", prompt=["ab", "cd"], echo=True, max_tokens=30, extra_body={"return_token_ids": True}
            )

        answer = server.do(ask)
        assert [c.text for c in answer.choices] == ["ab<think>raw", "cdtwo words"]
        assert server.llm.prompts == [TOK.encode("ab"), TOK.encode("cd")]
        assert answer.usage.completion_tokens == len(ids("<think>raw[end]two words[end]"))
        body = {"prompt": [5, 6, 7], "stream": True, "stop": "wor", "logprobs": 0}
        stream = chunks(server.post("/v1/completions", body))
        assert "".join(c["choices"][0]["text"] for c in stream) == "two "
        assert stream[-1]["choices"][0]["finish_reason"] == "stop"


def test_what_this_server_is() -> None:
    with serving(saying("a[end]")) as server:
        listed = server.get("/v1/models").json()
        assert listed["data"][0]["id"] == "tiny" and listed["data"][0]["max_model_len"] == 4096
        assert server.get("/v1/models/tiny").json()["object"] == "model"
        assert server.get("/v1/models/other").status_code == 404
        health = server.get("/health").json()
        assert (health["status"], health["isa"], health["model"], health["context"]) == ("ok", "avx2", "tiny", 4096)
        made = server.post("/tokenize", {"prompt": "Hi <think>"}).json()
        assert made["tokens"] == TOK.encode("Hi <think>") and made["count"] == len(made["tokens"])
        assert server.post("/detokenize", {"tokens": made["tokens"]}).json()["prompt"] == "Hi <think>"
        server.post("/v1/chat/completions", {"messages": USER})
        prompt = server.post("/tokenize", {"messages": USER}).json()["tokens"]
        assert prompt == server.llm.prompts[-1]
        text = server.get("/metrics").text
    assert 'abruzzi_requests_total{path="/v1/chat/completions",status="200"} 1' in text
    assert f'abruzzi_tokens_total{{kind="prompt"}} {len(prompt)}' in text
    assert "abruzzi_ttft_seconds_count 1" in text and "abruzzi_aborts_total 0" in text

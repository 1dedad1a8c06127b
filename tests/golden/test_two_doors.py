"""One way to an answer: the same tokens give the same message through `LLM.chat` and through the
HTTP server.

The sampler is scripted. Where a grammar forbids the script's next id, the lowest allowed one comes
in its place, so both doors meet the same proposals and differ only if their constraints, limits or
readings of a turn do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.llm import LLM
from abruzzi.engine.step.native import NativeRunner
from abruzzi.tokenizer import generation_prefix
from abruzzi.types import ContentDelta, MessageEnd, ReasoningDelta, SamplingParams, ToolCallDelta
from tests import tiny
from tests.unit.server.scripted_engine import CALCULATOR, TOK, call, ids, serving

ASK = [{"role": "user", "content": "Hi"}]
SEARCH: dict[str, Any] = {  # a keyword that no grammar has: left out, as the tool is not strict
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "propertyNames": {"maxLength": 3}},
    },
}
TOOLS = (CALCULATOR, SEARCH)
SCHEMAS = {
    t["function"]["name"]: {k: v for k, v in t["function"]["parameters"].items() if k != "propertyNames"} for t in TOOLS
}
NUMBER: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
GOOD = call("calc", '{"e": "1 + 1"}')
LONG = "x" * 400


@dataclass(frozen=True)
class Turn:
    """A turn that the model would like to take, and what was asked for."""

    name: str
    says: str
    max_tokens: int | None = 120
    budget: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    effort: str | None = None
    schema: dict[str, Any] | None = None
    thinking: bool | None = None
    only: bool | None = None  # True: with tools only; False: without only


TURNS = (
    Turn("a plain answer", "<think>Hm.</think>The answer is 4.[end]"),
    Turn("no thought", "The answer is 4.[end]"),
    Turn("thinking off", "The answer is 4.[end]", thinking=False),
    Turn("a thought that ends the turn", "<think>I know it.[end]The answer is 4.[end]"),
    Turn("a thought that ends the turn twice", "<think>I know it.[end]<think>More.[end]So 4.[end]"),
    Turn("a thought that ends the turn with two tokens left", "<think>ab[end]4[end]", max_tokens=5),
    Turn("a thought that ends the turn with one token left", "<think>ab[end]4[end]", max_tokens=4, budget=3),
    Turn("a thought that ends the turn, then a call", "<think>I know it.[end][calls]" + GOOD + "[/calls][end]"),
    Turn("a thought that ends at a stop id", "<think>I know it.", stop_ids=(TOK.encode(".")[0],)),
    Turn("cut in its thought", "<think>" + LONG, max_tokens=9),
    Turn("cut in its answer", "<think>Hm.</think>" + LONG, max_tokens=40),
    Turn("cut in a call", "[calls]" + call("calc", '{"e": "' + LONG), max_tokens=60),
    Turn("max_tokens of one", "<think>Hm.", max_tokens=1),
    Turn("max_tokens of two", "<think>Hm.", max_tokens=2),
    Turn("max_tokens of three", "<think>Hm.", max_tokens=3),
    Turn("an endless thought and no limit", "<think>" + "x" * 4000, max_tokens=None),
    Turn("a budget", "<think>" + LONG + "</think>4[end]", budget=7),
    Turn("a budget of nothing", "<think>" + LONG, budget=0),
    Turn("a budget beyond the answer's share", "<think>" + LONG, budget=1000),
    Turn("an effort", "<think>" + LONG, effort="low", max_tokens=80),
    Turn("a stop string", "<think>Hm.</think>one STOP two[end]", stop=("STOP",)),
    Turn("a stop string that the thought says too", "<think>STOP</think>one ST STOP two[end]", stop=("STOP", "two")),
    Turn("a stop string that does not come", "<think>Hm.</think>one STO[end]", stop=("STOP",)),
    Turn("a stop string in front of a call", "ab[calls]" + GOOD + "[/calls][end]", stop=("ab",)),
    Turn("a call", "<think>Hm.</think>I ask.[calls]" + GOOD + "[/calls][end]"),
    Turn("two calls", "[calls]" + GOOD + call("search", '{"n": 3}', 1) + "[/calls][end]"),
    Turn("two calls where one is allowed", "[calls]" + GOOD + call("calc", "{}", 1), parallel=False, only=True),
    Turn("a call inside the thought", "<think>Hm.[calls]" + GOOD + "[/calls][end]"),
    Turn("a call without a section", "ok" + GOOD + "[end]"),
    Turn("a call of a tool that was not offered", "ok[calls]" + call("rm", '{"path": "/"}') + "[/calls][end]"),
    Turn("broken arguments", "[calls]" + call("calc", '{"e": oops') + "[/calls][end]"),
    Turn("arguments that break their schema", "[calls]" + call("calc", '{"f": 1}') + "[/calls][end]"),
    Turn("text behind the calls", "[calls]" + GOOD + "[/calls]and more[end]"),
    Turn("a forced call that says text", "<think>Hm.</think>I would rather not.[end]", choice="required", only=True),
    Turn("a forced call", "<think>Hm.</think>[calls]" + GOOD + "[/calls][end]", choice="required", only=True),
    Turn("a forced call of one tool", "[calls]" + GOOD + "[/calls][end]", choice="search", only=True),
    Turn("a forced call with little room", "<think>" + LONG, choice="required", max_tokens=70, only=True),
    Turn("calls forbidden", "ok[calls]" + GOOD + "[/calls][end]", choice="none", only=True),
    Turn("a JSON answer", '<think>Hm.</think>{"answer": 4}[end]', schema=NUMBER),
    Turn("a JSON answer that the model does not give", "<think>Hm.</think>It is 4.[end]", schema=NUMBER),
    Turn("a JSON answer behind a thought that ends the turn", '<think>Hm.[end]{"answer": 4}[end]', schema=NUMBER),
    Turn("a JSON answer with little room", "<think>" + LONG, schema=NUMBER, max_tokens=40),
    Turn("a JSON answer or a call", "[calls]" + GOOD + "[/calls][end]", schema=NUMBER),
)
CASES = [(t, offered) for t in TURNS for offered in (True, False) if t.only is None or t.only is offered]


@dataclass(frozen=True)
class Said:
    """What a door gave: of the message, why it ended, the generated tokens, the usage."""

    thought: str
    content: str
    calls: list[tuple[str, str]]
    finish: str
    ids: list[int]
    sampled: list[bool]
    logprobs: list[float]
    usage: tuple[int, int, int, int]


class Script:
    """A sampler that proposes the ids of a text one after the other, then the end of the turn for
    ever."""

    def __init__(self, text: str) -> None:
        self._proposals: Iterator[int] = iter(ids(text))
        self._count = 0

    def __call__(self, logits_V: np.ndarray, params: SamplingParams, seed: int, position: int) -> tuple[int, float]:
        wanted = next(self._proposals, TOK.control["<|im_end|>"])
        self._count += 1
        chosen = wanted if np.isfinite(logits_V[wanted]) else int(np.flatnonzero(np.isfinite(logits_V))[0])
        return chosen, -self._count / 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m", context=1024)


@pytest.fixture(scope="module")
def runner(folder: Path) -> NativeRunner:
    with open_checkpoint(folder) as checkpoint:
        return NativeRunner.load(checkpoint)


def engine(runner: NativeRunner, turn: Turn) -> LLM:
    return LLM(runner.config, runner, TOK, "tiny", 4096, sample=Script(turn.says))


def in_process(llm: LLM, turn: Turn, tools: tuple[dict[str, Any], ...]) -> Said:
    events = list(
        llm.chat(
            ASK,
            tools,
            tool_choice=turn.choice,
            parallel_tool_calls=turn.parallel,
            response_schema=turn.schema,
            effort=turn.effort,
            thinking=turn.thinking,
            max_tokens=turn.max_tokens,
            thinking_budget=turn.budget,
            stop=turn.stop,
            stop_token_ids=turn.stop_ids,
        )
    )
    end = events[-1]
    assert isinstance(end, MessageEnd)
    message, usage = end.message, end.usage
    assert message.content == "".join(e.text for e in events if isinstance(e, ContentDelta))
    assert (message.reasoning_content or "") == "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    for number, made in enumerate(message.tool_calls):
        told = "".join(e.text for e in events if isinstance(e, ToolCallDelta) and e.position == number)
        assert made.arguments == told
    header = len(generation_prefix(llm.tokenizer, thinking=turn.thinking is not False))
    assert message.ids is not None and message.sampled is not None
    return Said(
        message.reasoning_content or "",
        message.content or "",
        [(c.name, c.arguments) for c in message.tool_calls],
        end.finish_reason,
        list(message.ids[header:]),
        list(message.sampled[header:]),
        list(end.logprobs),
        (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens),
    )


def served(llm: LLM, turn: Turn, tools: tuple[dict[str, Any], ...]) -> Said:
    body: dict[str, Any] = {"messages": ASK, "return_token_ids": True, "logprobs": True}
    named = {"type": "function", "function": {"name": turn.choice}}
    fields = {
        "tools": list(tools),
        "tool_choice": turn.choice if turn.choice in ("auto", "required", "none") else named,
        "parallel_tool_calls": turn.parallel,
        "response_format": turn.schema
        and {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": turn.schema}},
        "reasoning_effort": turn.effort,
        "thinking": None if turn.thinking is None else {"type": "enabled" if turn.thinking else "disabled"},
        "max_tokens": turn.max_tokens,
        "thinking_token_budget": turn.budget,
        "stop": list(turn.stop) or None,
        "stop_token_ids": list(turn.stop_ids) or None,
    }
    with serving(llm) as server:
        answer = server.post("/v1/chat/completions", body | {k: v for k, v in fields.items() if v is not None})
    assert answer.status_code == 200, answer.text
    (choice,), usage = answer.json()["choices"], answer.json()["usage"]
    message = choice["message"]
    return Said(
        message.get("reasoning_content") or "",
        message["content"] or "",
        [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []],
        choice["finish_reason"],
        choice.get("token_ids", []),  # a turn that began with a call that was not offered has none
        choice.get("sampled", []),
        [t["logprob"] for t in (choice["logprobs"] or {"content": []})["content"]],
        (
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            usage["completion_tokens"],
            usage["completion_tokens_details"]["reasoning_tokens"],
        ),
    )


@pytest.mark.parametrize(("turn", "offered"), CASES, ids=[f"{t.name}, {'tools' if o else 'none'}" for t, o in CASES])
def test_both_doors_give_the_same_answer(runner: NativeRunner, turn: Turn, offered: bool) -> None:
    tools = TOOLS if offered else ()
    here = in_process(engine(runner, turn), turn, tools)
    assert here == served(engine(runner, turn), turn, tools)
    assert len(here.ids) == len(here.sampled) == len(here.logprobs) == here.usage[2]
    assert turn.budget is None or here.usage[3] <= turn.budget
    # What is promised of both doors: calls are of tools that were offered, and whole calls fit
    # their schemas.
    whole = here.calls if here.finish == "tool_calls" else here.calls[:-1]
    assert not here.calls or (offered and turn.choice != "none")
    for name, arguments in whole:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    if turn.schema is not None and here.finish == "stop":
        jsonschema.validate(json.loads(here.content), turn.schema)
    if "[end]" in turn.says and turn.name.startswith("a thought that ends the turn, "):
        assert here.thought == "I know it." and bool(here.calls) is offered


def test_a_thought_that_ends_the_turn_is_answered_in_process(runner: NativeRunner) -> None:
    turn = next(t for t in TURNS if t.name == "a thought that ends the turn")
    said = in_process(engine(runner, turn), turn, ())
    assert (said.thought, said.content, said.finish) == ("I know it.", "The answer is 4.", "stop")


def test_a_call_that_was_not_offered_is_dropped_in_process(runner: NativeRunner) -> None:
    turn = next(t for t in TURNS if t.name.startswith("a call of a tool"))
    said = in_process(engine(runner, turn), turn, ())
    assert (said.content, said.calls, said.finish) == ("ok", [], "stop")
    offered = in_process(engine(runner, turn), turn, TOOLS)
    assert offered.calls and all(name in SCHEMAS for name, _ in offered.calls)

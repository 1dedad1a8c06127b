"""Recorded generations: the parse that vLLM's tests expect, and the same at every split."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from abruzzi.tokenizer import ChatParser, Tokenizer, load, parse
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


@pytest.fixture(scope="module")
def kimi(k2_data: Path) -> Tokenizer:
    return load(k2_data / "kimi_tokenizer")


@pytest.fixture(scope="module")
def cases(k2_data: Path) -> list[dict[str, Any]]:
    lines = (k2_data / "tool_call_parse_cases.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 9
    return [json.loads(line) for line in lines]


def merged(events: list[ParserEvent]) -> Message:
    """A message from streamed events, as a client merges deltas by position."""
    texts: dict[type, str] = {ContentDelta: "", ReasoningDelta: ""}
    names: list[str] = []
    arguments: list[str] = []
    for event in events:
        if isinstance(event, (ContentDelta, ReasoningDelta)):
            texts[type(event)] += event.text
        elif isinstance(event, ToolCallStart):
            assert event.position == len(names)
            names.append(event.name)
            arguments.append("")
        elif isinstance(event, ToolCallDelta):
            arguments[event.position] += event.text
        else:
            assert isinstance(event, ToolCallEnd)
    calls = tuple(map(ToolCall, names, arguments))
    return Message("assistant", texts[ContentDelta], texts[ReasoningDelta] or None, calls)


def variants(case: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """The case behind a thought, inside one that was never closed, ended, and cut short."""
    raw = case["raw"]
    section = raw.find("<|tool_calls_section_begin|>")
    unclosed = f"<think>{raw}" if section < 0 else f"<think>{raw[:section]}{raw[section:]}"
    return {
        "as it is": (raw, None),
        "ended": (f"{raw}<|im_end|>", None),
        "behind a thought": (f"<think>Let me see: 你好 🙂</think>{raw}<|im_end|>", "Let me see: 你好 🙂"),
        "thought not closed": (unclosed, raw if section < 0 else raw[:section]),
    }


def test_recorded_generations(kimi: Tokenizer, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        for name, (text, reasoning) in variants(case).items():
            message = parse(kimi, kimi.encode(text, allow_special=True))
            got = [(c.name, c.arguments, f"functions.{c.name}:{c.index}") for c in message.tool_calls]
            want = [(c["name"], c["arguments"], c["id"]) for c in case["expected_calls"]]
            assert got == want, (case["name"], name)
            content = "" if name == "thought not closed" else case["expected_content"]
            assert (message.content, message.reasoning_content) == (content, reasoning), (case["name"], name)


def test_every_split_point_gives_the_result_without_streaming(kimi: Tokenizer, cases: list[dict[str, Any]]) -> None:
    points = 0
    for case in cases:
        for text, _ in variants(case).values():
            ids = kimi.encode(text, allow_special=True)
            whole = parse(kimi, ids)
            parser, events = ChatParser(kimi), []
            for at in range(len(ids) + 1):
                resumed = copy.deepcopy(parser)
                rest = resumed.feed_all(ids[at:]) + resumed.finish()
                assert resumed.message() == whole, (case["name"], at)
                got = merged(events + rest)
                assert (got.content, got.reasoning_content) == (whole.content, whole.reasoning_content)
                assert [(c.name, c.arguments) for c in got.tool_calls] == [
                    (c.name, c.arguments) for c in whole.tool_calls
                ]
                points += 1
                if at < len(ids):
                    events += parser.feed(ids[at])
    assert points > 1000

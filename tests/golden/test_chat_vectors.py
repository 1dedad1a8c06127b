"""Kimi's own vectors: token ids of texts, and K2-Thinking's template as text and as ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abruzzi.tokenizer import ChatDefaults, Tokenizer, load, parse, render
from abruzzi.types import Message


@pytest.fixture(scope="module")
def kimi(k2_data: Path) -> Tokenizer:
    return load(k2_data / "kimi_tokenizer")


@pytest.fixture(scope="module")
def chats(k2_data: Path) -> list[dict[str, Any]]:
    vectors = json.loads((k2_data / "chat_template_vectors.json").read_text(encoding="utf-8"))
    assert len(vectors) >= 7
    return vectors


def test_ids_of_texts(kimi: Tokenizer, k2_data: Path) -> None:
    vectors = json.loads((k2_data / "tokenizer_vectors.json").read_text(encoding="utf-8"))
    assert len(vectors) >= 16
    for vector in vectors:
        text = vector["text"]
        assert kimi.encode(text) == vector["ids_special_as_text"], text
        assert kimi.encode(text, allow_special=True) == vector["ids_special_allowed"], text
        assert kimi.decode(vector["ids_special_as_text"]) == text
        assert kimi.decode(vector["ids_special_allowed"]) == text


def test_control_tokens_have_kimis_ids(kimi: Tokenizer) -> None:
    assert kimi.vocab_size == 163_840
    assert kimi.control_ids == frozenset(range(163_584, 163_840))
    assert kimi.defaults == ChatDefaults(kimi.format.system)
    known = {"[BOS]": 163584, "<|im_end|>": 163586, "<|im_system|>": 163594, "<think>": 163606, "[PAD]": 163839}
    assert {name: kimi.id_of(name) for name in known} == known
    assert kimi.id_of("<|reserved_token_163589|>") == 163_589
    assert kimi.end_ids == {163_585, 163_586, 163_593}


def test_rendered_chats(kimi: Tokenizer, chats: list[dict[str, Any]]) -> None:
    for vector in chats:
        rendered = render(kimi, vector["messages"], vector["tools"], vector["add_generation_prompt"])
        assert kimi.decode(rendered.ids) == vector["rendered"], vector["name"]
        assert rendered.ids == vector["token_ids"], vector["name"]


def test_rendered_chats_whatever_ids_the_client_gave_the_calls(kimi: Tokenizer, chats: list[dict[str, Any]]) -> None:
    """OpenAI's and Anthropic's ids, and those of clients that number from 0 in each turn."""
    renamed_calls = 0
    for rename in (lambda n: f"call_{n:024x}", lambda n: f"toolu_01{n}", lambda n: f"functions.wrong:{90 - n}"):
        for vector in chats:
            text = json.dumps(vector["messages"])
            given = [c["id"] for m in vector["messages"] for c in m.get("tool_calls") or ()]
            for number, call_id in enumerate(given):
                text = text.replace(json.dumps(call_id), json.dumps(rename(number)))
                renamed_calls += 1
            rendered = render(kimi, json.loads(text), vector["tools"], vector["add_generation_prompt"])
            assert rendered.ids == vector["token_ids"], vector["name"]
    assert renamed_calls >= 12


def test_a_conversation_of_spliced_messages_gives_the_same_ids(kimi: Tokenizer, chats: list[dict[str, Any]]) -> None:
    """Every assistant turn as it was sampled, with its own ids: K2's template again, thoughts
    dropped from ids."""
    spliced_turns = 0
    for vector in chats:
        messages: list[Message] = []
        for given in map(Message.from_openai, vector["messages"]):
            if given.role == "assistant":
                prompt = render(kimi, messages, vector["tools"], preserve_thinking=True).ids
                whole = render(kimi, [*messages, given], vector["tools"], False, preserve_thinking=True).ids
                assert whole[: len(prompt)] == prompt
                sampled = parse(kimi, whole[len(prompt) :])
                assert sampled.reasoning_content == given.reasoning_content
                calls = tuple(replace(c, id=g.id) for c, g in zip(sampled.tool_calls, given.tool_calls))
                assert [(c.name, c.arguments) for c in calls] == [(g.name, g.arguments) for g in given.tool_calls]
                given = replace(sampled, content=None, reasoning_content=None, tool_calls=calls)  # ids alone count
                spliced_turns += 1
            messages.append(given)
        rendered = render(kimi, messages, vector["tools"], vector["add_generation_prompt"])
        assert rendered.ids == vector["token_ids"], vector["name"]
    assert spliced_turns >= 5

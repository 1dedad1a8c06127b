"""Small tokenizers in Kimi's form, made in code, and what hypothesis draws for them."""

from __future__ import annotations

import functools
import json
from typing import Any

from hypothesis import strategies as st

from abruzzi.tokenizer import ChatDefaults, Tokenizer, from_json
from abruzzi.tokenizer.backends import TiktokenBackend
from abruzzi.tokenizer.train import CONTROL_TOKENS, train_bpe
from abruzzi.types import Message, ToolCall

LINES = [
    "The quick brown fox thinks about the weather in Beijing and calls a tool.",
    'functions.get_weather:0 {"city": "Beijing", "days": 12} functions.python:1 {"code": "print(6*7)"}',
    "## Return of functions.get_weather:0\nSunny, 21 degrees; naïve café, 你好，世界, привет, 🙂👩‍💻",
    "<|im_end|> <|im_user|> <think> </think> <|tool_call_begin|> <|tool_calls_section_end|> [EOS] [PAD]",
] * 3
RESERVED = "<|reserved_token_7|>"


@functools.cache
def tokenizer_json() -> str:
    """A trained tokenizer.json whose merges would spell control tokens if anything let them."""
    data = json.loads(train_bpe(LINES, 380))
    top = max(t["id"] for t in data["added_tokens"])
    data["added_tokens"].append({**data["added_tokens"][0], "id": top + 1, "content": RESERVED})
    return json.dumps(data)


@functools.cache
def small(**defaults: Any) -> Tokenizer:
    """The small tokenizer with these ChatDefaults."""
    return from_json(tokenizer_json(), ChatDefaults(**defaults))


@functools.cache
def small_ranks() -> dict[bytes, int]:
    """All bytes, then every beginning of some words: a vocabulary in tiktoken's form."""
    ranks = {bytes([b]): b for b in range(256)}
    for word in (*CONTROL_TOKENS, " quick", " weather", "functions", "你好", "привет", "ing", " the", "  "):
        data = word.encode()
        for end in range(2, len(data) + 1):
            ranks.setdefault(data[:end], len(ranks))
    return ranks


@functools.cache
def small_tiktoken() -> Tokenizer:
    """A tiktoken-backed tokenizer whose ranks spell every control token, but whose text must not
    become one."""
    ranks = small_ranks()
    control = {t: len(ranks) + n for n, t in enumerate((*CONTROL_TOKENS, RESERVED))}
    visible = frozenset(t for t in control if "tool_call" in t or "think" in t)
    return Tokenizer(TiktokenBackend(ranks), control, len(ranks) + len(control), visible)


@functools.cache
def without(*names: str, rename: tuple[tuple[str, str], ...] = ()) -> Tokenizer:
    """The small tokenizer without some control tokens, or with others' spelling."""
    data = json.loads(tokenizer_json())
    names_now = dict(rename)
    data["added_tokens"] = [
        {**t, "content": names_now.get(t["content"], t["content"])}
        for t in data["added_tokens"]
        if t["content"] not in names
    ]
    return from_json(json.dumps(data))


def spelled() -> Tokenizer:
    """A tokenizer whose think markers are text."""
    return without("<think>", "</think>")


CONTROL_TEXTS = (*CONTROL_TOKENS, RESERVED, "<|im_", "end|>", "<|tool_call", "</th", "ink>", "<", "|>")
# Texts that lean to control strings, white space and several scripts.
texts = st.lists(
    st.one_of(st.sampled_from(CONTROL_TEXTS), st.text(max_size=6), st.sampled_from(LINES)), max_size=5
).map("".join)
names = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=12).filter(
    # "functions." and ":n" are what a label adds; a name that begins with the former cannot be told
    # from it.
    lambda name: not name.startswith("functions.")
)
solid = texts.map(str.strip)  # arguments lose white space around them


@st.composite
def assistant_turns(
    draw: st.DrawFn, thoughts: st.SearchStrategy[str] = texts, with_calls: bool | None = None
) -> Message:
    """An assistant message without ids; 0 to 3 calls with foreign ids."""
    least = 1 if with_calls else 0
    count = 0 if with_calls is False else draw(st.integers(least, 3))
    prefix = draw(st.sampled_from(("call_", "toolu_", "functions.x:")))
    stem = draw(st.integers(0, 10**6))
    calls = tuple(ToolCall(draw(names), draw(solid), f"{prefix}{stem}{n}") for n in range(count))
    return Message("assistant", draw(st.one_of(st.none(), texts)), draw(st.one_of(st.none(), thoughts)), calls)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Well-formed conversations: every call is answered, possibly in another order."""
    out: list[Message] = []
    if draw(st.booleans()):
        out.append(Message(draw(st.sampled_from(("system", "developer"))), draw(texts)))
    for _ in range(draw(st.integers(1, 3))):
        out.append(Message("user", draw(texts), name=draw(st.sampled_from((None, "alice", "<|im_end|>")))))
        for _ in range(draw(st.integers(0, 2))):
            turn = draw(assistant_turns(with_calls=True))
            results = [Message("tool", draw(texts), tool_call_id=c.id) for c in turn.tool_calls]
            out += [turn, *draw(st.permutations(results))]
        out.append(draw(assistant_turns(with_calls=False)))
    return out

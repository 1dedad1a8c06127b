"""Random id streams, mostly control tokens: no control token in any field, and the same as a slow
twin."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from small import small

from abruzzi.tokenizer import ChatParser, Tokenizer
from abruzzi.types import ContentDelta, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart

# What control tokens are spelled with; no learned token of the streams holds these.
TELLTALE = frozenset("<>|[]")
S, E = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
C, A, X = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"


def streams(tok: Tokenizer, count: int, seed: int) -> Iterator[list[int]]:
    """`count` streams of 4 to 12 ids: half control tokens of the chat, some others, halves of
    characters."""
    rng = random.Random(seed)
    likely = [tok.control[t] for t in (S, E, C, A, X, "<think>", "</think>")] * 6 + sorted(tok.control_ids)
    learned = [i for i in range(tok.vocab_size) if i not in tok.control_ids]
    safe = [i for i in learned if TELLTALE.isdisjoint(tok.token_bytes(i).decode("utf-8", "replace"))]
    spaces = [i for i in safe if tok.token_bytes(i).isspace()]
    high = [i for i in safe if not tok.token_bytes(i).isascii()]
    bag = likely + rng.choices(safe, k=30) + rng.choices(spaces, k=8) + rng.choices(high, k=8)
    for _ in range(count):
        yield rng.choices(bag, k=rng.randint(4, 12))


def twin(tok: Tokenizer, ids: list[int]) -> tuple[str, str, list[tuple[str, str, bool]], int]:
    """Content, reasoning, calls (header, arguments, complete) and stray ids, from blocks of the
    whole stream."""
    name_of = tok.control_text
    text, think, section, header, arguments = "text", "think", "section", "header", "arguments"
    moves = {
        **{(text, "<think>"): think, (section, "<think>"): think, (think, "</think>"): text},
        **{(text, S): section, (think, S): section},
        **{(place, E): text for place in (section, header, arguments)},
        **{(place, C): header for place in (text, think, section, header, arguments)},
        **{(header, A): arguments, (header, X): section, (arguments, X): section},
    }
    blocks: list[list] = [[text, b"", ""]]  # place, bytes, the token that ended it
    stray = 0
    for at, i in enumerate(ids):
        place = blocks[-1][0]
        name = name_of.get(i)
        if name is None:
            blocks[-1][1] += tok.token_bytes(i)
        elif i in tok.end_ids:
            stray += len(ids) - at - 1
            break
        elif (place, name) in moves:
            blocks[-1][2] = name
            blocks.append([moves[place, name], b"", ""])
        else:
            stray += 1
    content = reasoning = ""
    calls: list[tuple[str, str, bool]] = []
    for number, (place, raw, ended) in enumerate(blocks):
        written = raw.decode("utf-8", "replace")
        if place == text:
            content += written
        elif place == section:
            content += written.rstrip()
        elif place == think:
            reasoning += written
        elif place == header and ended != A:
            calls.append((written.strip(), "", ended == X))
        elif place == arguments:
            label = blocks[number - 1][1].decode("utf-8", "replace").strip()
            calls.append((label, written.strip(), ended == X))
    return content, reasoning, calls, stray


def name_in(label: str) -> str:
    label = label.removeprefix("functions.")
    stem, colon, digits = label.rpartition(":")
    return stem if colon and digits.isascii() and digits.isdecimal() else label


def check(tok: Tokenizer, count: int, seed: int, against_twin: bool) -> int:
    """How many of the streams held a call, so that a fuzz of nothing is noticed."""
    seen = 0
    for ids in streams(tok, count, seed):
        parser = ChatParser(tok)
        events = parser.feed_all(ids) + parser.finish()
        message = parser.message()
        fields = [message.content or "", message.reasoning_content or ""]
        for call in message.tool_calls:
            fields += (call.name, call.arguments)
        assert TELLTALE.isdisjoint("".join(fields)), ids
        seen += bool(message.tool_calls)
        if not against_twin:
            continue
        content, reasoning, calls, stray = twin(tok, ids)
        expected = [content, reasoning] + [x for label, text, _ in calls for x in (name_in(label), text)]
        assert fields == expected, ids
        assert parser.stray == stray, ids
        assert [e.complete for e in events if isinstance(e, ToolCallEnd)] == [done for _, _, done in calls], ids
        assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == content, ids
        assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == reasoning, ids
        assert [e.name for e in events if isinstance(e, ToolCallStart)] == [name_in(label) for label, _, _ in calls]
        assert "".join(e.text for e in events if isinstance(e, ToolCallDelta)) == "".join(text for _, text, _ in calls)
    return seen


def test_a_hundred_thousand_streams_against_the_twin() -> None:
    assert check(small(), 100_000, seed=0, against_twin=True) > 30_000


@pytest.mark.slow
def test_a_million_streams_leak_no_control_token() -> None:
    assert check(small(), 1_000_000, seed=1, against_twin=False) > 300_000

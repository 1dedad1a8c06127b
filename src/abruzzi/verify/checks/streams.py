"""Checks of streams: well-formed chunks in the right order that say what the unstreamed answer
says; leaving."""

from __future__ import annotations

import json
import time
from typing import Any

from abruzzi.verify.asks import LONG, PERSON, SHORT, TOOLS, forced, response_format
from abruzzi.verify.probe import Probe, Unsupported, check
from abruzzi.verify.wire import Exchange

THINKING = ("reasoning_content", "reasoning")
MIN_STREAMED_CHARACTERS = 40
# An answer after clients left may take this much longer than one before: noise, not waiting in a
# queue.
CANCEL_SLACK_SECONDS = 2.0
CANCEL_SLACK_FACTOR = 3.0


def _deltas(exchange: Exchange) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(choice piece, delta) of every chunk, in order."""
    found = []
    for event in exchange.events:
        choices = event.get("choices")
        for piece in choices if isinstance(choices, list) else []:
            if isinstance(piece, dict):
                delta = piece.get("delta")
                found.append((piece, delta if isinstance(delta, dict) else {}))
    return found


@check("streams", "Chunks are well formed, one role, one end, [DONE]", required=True)
def stream_shape(p: Probe) -> None:
    reply = p.chat(LONG, max_tokens=48, stream=True)
    e = reply.exchange
    pieces = _deltas(e)
    ids = {event.get("id") for event in e.events}
    kinds = {event.get("object") for event in e.events}
    roles = [d["role"] for _, d in pieces if d.get("role")]
    ends = [i for i, (piece, _) in enumerate(pieces) if piece.get("finish_reason")]
    after = [d for _, d in pieces[ends[0] + 1 :] if any(d.get(k) for k in ("content", *THINKING))] if ends else []
    told = [d for _, d in pieces if any(d.get(k) for k in ("content", *THINKING))]
    expectations = [
        (e.content_type.startswith("text/event-stream"), f"content-type {e.content_type!r}, not text/event-stream"),
        (not e.odd_lines, f"lines that are neither events nor comments: {e.odd_lines[:2]}"),
        (e.done and not e.after_done, "the stream does not end with data: [DONE]"),
        (kinds == {"chat.completion.chunk"}, f"object is {sorted(map(str, kinds))}, expected chat.completion.chunk"),
        (len(ids) == 1 and None not in ids, f"{len(ids)} different ids in one stream"),
        (all(piece.get("index") == 0 for piece, _ in pieces), "a chunk's choice lacks index 0"),
        (roles == ["assistant"], f"expected the role once, as 'assistant', got {roles[:5]}"),
        (bool(pieces) and pieces[0][1].get("role") == "assistant", "the role is not in the first chunk"),
        (len(ends) == 1, f"{len(ends)} finish_reasons, expected 1"),
        (not after, "text comes after the finish_reason"),
    ]
    for condition, problem in expectations:
        p.ok(condition, problem, reply)
    length = len(reply.reasoning + reply.content)
    if length < MIN_STREAMED_CHARACTERS:
        p.skip(f"an answer of {length} characters is too short to see whether it comes in pieces")
    else:
        p.ok(len(told) > 2, f"{length} characters came in {len(told)} pieces: this is no streaming", reply)


@check("streams", "Thinking comes before text, text before calls")
def stream_order(p: Probe) -> None:
    order = {"thinking": 0, "content": 1, "call": 2}
    streams = [p.chat(LONG, stream=True)]
    if call := forced(p, TOOLS, "What is the weather in Oslo?", stream=True):
        streams.append(call)
    mixed = False
    for reply in streams:
        seen: list[str] = []
        for _, delta in _deltas(reply.exchange):
            kind = _kind(delta)
            if kind and seen[-1:] != [kind]:
                seen.append(kind)
        mixed = mixed or len(seen) > 1
        ranks = [order[k] for k in seen]
        p.ok(ranks == sorted(set(ranks)), f"the pieces came as {' then '.join(seen)}", reply)
    if not mixed:
        raise Unsupported("no stream mixed thinking, text and calls, so there is no order to judge")


def _kind(delta: dict[str, Any]) -> str | None:
    if any(delta.get(k) for k in THINKING):
        return "thinking"
    if isinstance(delta.get("content"), str) and delta["content"].strip():
        return "content"
    return "call" if delta.get("tool_calls") else None


@check("streams", "The stream says what the unstreamed answer says")
def stream_equals(p: Probe) -> None:
    p.need_repeats()
    requests: list[tuple[str, dict[str, Any]]] = [
        (SHORT, {}),
        (LONG, {"max_tokens": 64}),
        ("Invent a person.", {"response_format": response_format(PERSON)}),
        ("What is the weather in Oslo and in Rome?", {"tools": TOOLS, "tool_choice": "required"}),
    ]
    for prompt, fields in requests:
        exchange = p.raw(p.body(prompt, **fields))
        if exchange.refused:
            p.skip("refused without stream as well")
            continue
        whole, streamed = p.read(exchange), p.chat(prompt, stream=True, **fields)
        p.ok(whole.same_as(streamed), "the stream says something else than the unstreamed answer", whole, streamed)


@check("streams", "Each streamed call has its index, id and name first")
def stream_tool_calls(p: Probe) -> None:
    reply = forced(p, TOOLS, "What is the weather in Oslo and in Rome?", stream=True)
    if reply is None or not reply.calls:
        raise Unsupported("no tool call came in a stream")
    opened: list[int] = []
    problem = None
    for _, delta in _deltas(reply.exchange):
        given = delta.get("tool_calls")
        for piece in given if isinstance(given, list) else []:
            problem = problem or _bad_piece(piece, opened)
    p.ok(problem is None, problem or "", reply)
    p.ok(opened == list(range(len(opened))), f"calls have the indices {opened}, expected 0, 1, ...", reply)
    for call in reply.calls:
        if reply.finish == "length":
            p.skip("the call was cut by the budget")
        else:
            p.ok(_parses(call.arguments), f"joined arguments are no JSON: {call.arguments!r}", reply)


def _bad_piece(piece: Any, opened: list[int]) -> str | None:
    if not isinstance(piece, dict) or not isinstance(piece.get("index"), int):
        return f"a piece of a call has no index: {piece!r}"
    function = piece.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if piece["index"] not in opened:
        opened.append(piece["index"])
        if not isinstance(piece.get("id"), str) or not name:
            return f"the first piece of call {piece['index']} lacks its id or name"
    elif name:
        return f"a later piece of call {piece['index']} has a name again: two calls on one index"
    return None


def _parses(text: Any) -> bool:
    try:
        json.loads(text)
    except (ValueError, TypeError):
        return False
    return True


@check("streams", "include_usage gives one last chunk with the same usage")
def stream_usage(p: Probe) -> None:
    fields: dict[str, Any] = {"max_tokens": 24, "stream": True, "stream_options": {"include_usage": True}}
    streamed = p.feature("stream_options.include_usage", LONG, **fields)
    events = streamed.exchange.events
    carrying = [i for i, event in enumerate(events) if event.get("usage") is not None]
    if not p.ok(
        carrying == [len(events) - 1], f"usage in chunks {carrying} of {len(events)}, expected the last", streamed
    ):
        return
    p.ok(events[-1].get("choices") == [], "the chunk with usage has choices, expected []", streamed)
    whole = p.chat(LONG, max_tokens=24)
    if whole.same_as(streamed):
        counts = [
            {k: r.usage.get(k) for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
            for r in (whole, streamed)
        ]
        p.ok(counts[0] == counts[1], f"streamed usage {counts[1]}, unstreamed {counts[0]}", whole, streamed)
    else:
        p.skip("the streamed answer differs, so its usage cannot be compared")


@check("streams", "A client that leaves stops its answer", last=True)
def cancel(p: Probe) -> None:
    """Leave long answers one after the other, then ask something short. A server that goes on
    generating for nobody runs out of slots: the next answer waits. With more slots than we leave
    answers it is not seen."""
    before = max(_timed(p) for _ in range(3))
    limit = before * CANCEL_SLACK_FACTOR + CANCEL_SLACK_SECONDS
    story = p.body("Write a very long story about the sea.", max_tokens=2048)
    for leave in ("in mid-stream", "before an unstreamed answer"):
        waits = []
        for _ in range(4 if p.quick else 8):
            if leave == "in mid-stream":
                left = p.session.wire.drop("/chat/completions", {**story, "stream": True}, events=2)
                if left.status != 200:
                    p.read(left)
                waits.append(left.seconds)
            else:
                p.session.wire.post("/chat/completions", story, timeout=0.2)
            if waits and waits[-1] > limit:
                break
        if max(waits, default=0) <= limit:
            waits.append(_timed(p))
        held = p.ok(
            max(waits) <= limit,
            f"after clients left {leave} the next one waited {max(waits):.2f} s, before it was {before:.2f} s",
            p.session.wire.log[-1],
        )
        if not held:
            return  # what is still being generated for nobody would blur the next number


def _timed(p: Probe) -> float:
    started = time.monotonic()
    p.chat(SHORT, max_tokens=4)
    return time.monotonic() - started

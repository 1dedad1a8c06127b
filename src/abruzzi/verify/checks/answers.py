"""Checks of plain answers: their shape, thinking apart from text, sampling fields, token counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from abruzzi.verify.asks import LONG, RANDOM, SHORT, ids_of, offers_ids
from abruzzi.verify.markers import CONTROL_TOKEN, THINK_TAG
from abruzzi.verify.probe import Probe, Reply, Unsupported, check


@check("answers", "GET /v1/models lists the served model")
def models(p: Probe) -> None:
    exchange = p.session.wire.get("/models")
    if exchange.refused:
        raise Unsupported(f"GET /v1/models was refused ({exchange.outcome()})")
    data = exchange.body.get("data") if isinstance(exchange.body, dict) else None
    ids = [m.get("id") for m in data if isinstance(m, dict)] if isinstance(data, list) else None
    if p.ok(bool(ids), f"expected a list of models, got {exchange.outcome()}", exchange):
        p.ok(p.session.model in (ids or []), f"the served model {p.session.model!r} is not in the list", exchange)


@check("answers", "A plain question gets a well-formed answer", required=True)
def chat(p: Probe) -> None:
    reply = p.chat(SHORT)
    body = reply.exchange.body
    expectations: list[tuple[bool, str]] = [
        (isinstance(body.get("id"), str) and body["id"] != "", "id is no text"),
        (body.get("object") == "chat.completion", f"object is {body.get('object')!r}, expected 'chat.completion'"),
        (isinstance(body.get("created"), int), f"created is {body.get('created')!r}, expected seconds since 1970"),
        (isinstance(body.get("model"), str), "model is no text"),
        (len(body["choices"]) == 1, f"{len(body['choices'])} choices, expected 1"),
        (reply.choice.get("index") == 0, f"choices[0].index is {reply.choice.get('index')!r}"),
        (reply.message.get("role") == "assistant", f"role is {reply.message.get('role')!r}, expected 'assistant'"),
        (isinstance(reply.usage.get("prompt_tokens"), int), "usage.prompt_tokens is missing"),
        (isinstance(reply.usage.get("completion_tokens"), int), "usage.completion_tokens is missing"),
        (bool(reply.content or reply.reasoning), "the answer is empty"),
    ]
    for condition, problem in expectations:
        p.ok(condition, problem, reply)


@check("answers", "finish_reason is stop or length, as it was", required=True)
def finish_reason(p: Probe) -> None:
    for stream in (None, True):
        reply = p.chat(SHORT, stream=stream)
        if reply.finish == "length" and reply.usage.get("completion_tokens", p.session.budget) >= p.session.budget:
            p.skip("the short answer did not end within the budget")
        else:
            p.ok(reply.finish == "stop", f"finish_reason {reply.finish!r} for a finished answer, not 'stop'", reply)
        cut = p.chat(LONG, max_tokens=3, stream=stream)
        p.ok(cut.finish == "length", f"finish_reason {cut.finish!r} for an answer cut by max_tokens 3", cut)


@check("sampling", "max_tokens is exact", required=True)
def max_tokens(p: Probe) -> None:
    ids = {"return_token_ids": True} if offers_ids(p) else {}
    for limit in (1, 5, 16):
        for field in ("max_tokens", "max_completion_tokens"):
            fields = {"max_tokens": None, **ids, field: limit}
            if field == "max_tokens":
                reply = p.chat(LONG, **fields)
            else:
                exchange = p.raw(p.body(LONG, **fields))
                if exchange.refused:
                    p.skip("max_completion_tokens is refused")
                    continue
                reply = p.read(exchange)
            returned = ids_of(reply)
            count = len(returned[1]) if returned else reply.usage.get("completion_tokens", -1)
            fine = count == limit or (0 < count < limit and reply.finish == "stop")
            p.ok(fine, f"{field} {limit} gave {count} tokens (finish_reason {reply.finish!r})", reply)


@check("sampling", "Greedy answers repeat, alone and side by side")
def greedy_repeats(p: Probe) -> None:
    fields = {"max_tokens": 40}
    first = p.chat(LONG, **fields)
    for _ in range(2):
        again = p.chat(LONG, **fields)
        if not p.ok(first.same_as(again), "two greedy answers to one request differ", first, again):
            p.session.facts["repeats"] = False
    if p.quick:
        return
    with ThreadPoolExecutor(4) as pool:
        side_by_side = list(pool.map(lambda _: p.raw(p.body(LONG, **fields)), range(4)))
    for exchange in side_by_side:
        reply = p.read(exchange)
        p.ok(first.same_as(reply), "a greedy answer differs when others are answered beside it", first, reply)


@check("sampling", "Stop strings end the answer and are not in it")
def stop(p: Probe) -> None:
    p.need_repeats()
    base = p.chat(LONG)
    stop = _middle(base)
    if stop is None:
        raise Unsupported("the answer is too short to stop in the middle of it")
    before = base.content.split(stop)[0]
    for given in (stop, ["\u0001never\u0001", stop]):
        for stream in (None, True):
            reply = p.feature("stop", LONG, stop=given, stream=stream)
            if p.ok(stop not in reply.content, f"the stop string {stop!r} is in the answer", base, reply):
                p.ok(reply.content == before, f"stopped elsewhere than before the first {stop!r}", base, reply)
            p.ok(reply.finish == "stop", f"finish_reason {reply.finish!r} after a stop string", reply)


def _middle(reply: Reply) -> str | None:
    """Four letters out of the middle of a text, from within a word: no token ends just there."""
    text = reply.content
    for start in range(len(text) // 3, len(text) - 8):
        piece = text[start : start + 4]
        if piece.isalpha() and text[start - 1].isalpha() and text.find(piece) > 4 and piece not in reply.reasoning:
            return piece
    return None


@check("sampling", "A seed reproduces, another seed differs")
def seed(p: Probe) -> None:
    first, again, *others = [
        p.feature("seed", RANDOM, seed=s, temperature=1, max_tokens=32) for s in (11, 11, 12, 13, 14, 15)
    ]
    p.ok(first.same_as(again), "the same seed gave two different answers", first, again)
    differs = any(not first.same_as(o) for o in others)
    p.ok(differs, "five different seeds at temperature 1 gave one and the same answer", first, *others[:1])


@check("sampling", "n choices come, each with its index and end")
def n(p: Probe) -> None:
    for stream in (None, True):
        reply = p.feature("n = 3", RANDOM, n=3, temperature=1, max_tokens=16, stream=stream)
        choices = reply.exchange.body["choices"]
        indices = sorted(c.get("index", -1) for c in choices if isinstance(c, dict))
        p.ok(indices == [0, 1, 2], f"n = 3 gave choices with indices {indices}", reply)
        finished = sum(c.get("finish_reason") is not None for c in choices if isinstance(c, dict))
        p.ok(finished == len(choices), f"{finished} of {len(choices)} choices have a finish_reason", reply)


@check("usage", "usage counts the returned token ids")
def usage_ids(p: Probe) -> None:
    if not offers_ids(p):
        raise Unsupported("return_token_ids gives no token ids here")
    tool = {"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}}}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    requests: list[tuple[str, dict[str, Any]]] = [
        (SHORT, {}),
        (LONG, {"max_tokens": 9}),
        ("Was der Mond 🌒 is: 月亮?", {"max_tokens": 12, "tools": [tool]}),
        (LONG, {"max_tokens": 9, **streamed}),
    ]
    for prompt, fields in requests:
        reply = p.feature("return_token_ids", prompt, return_token_ids=True, **fields)
        ids = ids_of(reply)
        if not p.ok(ids is not None, "token ids are missing in this answer", reply):
            continue
        assert ids is not None
        for kind, given in (("prompt", ids[0]), ("completion", ids[1])):
            counted = reply.usage.get(f"{kind}_tokens")
            p.ok(counted == len(given), f"usage.{kind}_tokens is {counted}, but {len(given)} ids came", reply)


@check("usage", "usage.prompt_tokens is what /tokenize counts")
def usage_tokenize(p: Probe) -> None:
    texts = ["Hello world", "naïve 北京 😀 x\n\n  y", "def f(a):\n    return a[1:]  # ok"]
    for text in texts:
        body = {
            "model": p.session.model,
            "messages": [{"role": "user", "content": text}],
            "add_generation_prompt": True,
        }
        exchange = p.session.wire.post("//tokenize", body)
        # A server that does not know `messages` answers for an empty text, or refuses.
        count = _count(exchange.body) if exchange.status == 200 else None
        if count:
            reply = p.chat(text, max_tokens=1)
        else:
            count, exchange = _tokenize_text(p, text)
            completion = p.session.wire.post(
                "/completions", {"model": p.session.model, "prompt": text, "max_tokens": 1, "temperature": 0}
            )
            if completion.refused or not isinstance(completion.body, dict):
                raise Unsupported(f"/v1/completions is needed to compare and was refused ({completion.outcome()})")
            reply = Reply(completion, {}, {})
        counted = reply.usage.get("prompt_tokens")
        p.ok(counted == count, f"usage.prompt_tokens is {counted}, /tokenize counts {count}", exchange, reply)


def _tokenize_text(p: Probe, text: str) -> tuple[int, Any]:
    tried = []
    for fields in (
        {"model": p.session.model, "prompt": text},
        {"content": text, "add_special": True},
        {"model": p.session.model, "text": text},
    ):
        exchange = p.session.wire.post("//tokenize", fields)
        count = _count(exchange.body) if exchange.status == 200 else None
        if count:
            return count, exchange
        tried.append(exchange.outcome())
    raise Unsupported(f"no POST /tokenize ({tried[0]})")


def _count(body: Any) -> int | None:
    """How many tokens a /tokenize answer speaks of; None where it speaks of none."""
    if not isinstance(body, dict):
        return None
    for key in ("tokens", "token_ids", "ids"):
        if isinstance(body.get(key), list):
            return len(body[key]) or None
    return body.get("count") if isinstance(body.get("count"), int) else None


@check("answers", "Thinking comes in its own field, without think tags", last=True)
def reasoning_separated(p: Probe) -> None:
    p.chat("What is 17 * 23? Think first, then give the number.")
    thought = tagged = False
    for reply in p.replies():
        both = [reply.message.get(k) for k in ("reasoning_content", "reasoning")]
        if all(isinstance(b, str) for b in both):
            p.ok(both[0] == both[1], "reasoning_content and reasoning differ", reply)
        fields = [reply.content, reply.reasoning, *(str(c.arguments) for c in reply.calls)]
        leak = next((m.group() for f in fields if (m := THINK_TAG.search(f))), None)
        thought, tagged = thought or bool(reply.reasoning), tagged or bool(leak)
        p.ok(not leak, f"{leak} in a field of the answer: thinking is not separated", reply)
        if reply.reasoning and reply.finish == "stop" and not reply.calls:
            p.ok(bool(reply.content.strip()), "finish_reason 'stop', reasoning, but no answer in content", reply)
    if not thought and not tagged:
        raise Unsupported("no answer carried reasoning_content or reasoning: this model does not think")


@check("answers", "No control token in any field of any answer", required=True, last=True)
def no_control_tokens(p: Probe) -> None:
    for reply in p.replies():
        fields = [reply.content, reply.reasoning]
        for call in reply.calls:
            fields += [str(call.name), str(call.arguments)]
        leak = next((m.group() for f in fields if (m := CONTROL_TOKEN.search(f))), None)
        p.ok(leak is None, f"control token {leak} in a field of the answer", reply)


@check("usage", "usage adds up in every answer", required=True, last=True)
def usage_sum(p: Probe) -> None:
    seen: set[int] = set()
    for reply in p.replies():
        if id(reply.exchange) in seen or (reply.exchange.streamed and not reply.usage):
            continue
        seen.add(id(reply.exchange))
        problem = _bad_usage(reply.usage)
        p.ok(problem is None, problem or "", reply)


def _bad_usage(usage: dict[str, Any]) -> str | None:
    prompt, completion, total = (usage.get(f"{k}_tokens") for k in ("prompt", "completion", "total"))
    if not all(isinstance(x, int) and x >= 0 for x in (prompt, completion, total)):
        return "usage lacks prompt_tokens, completion_tokens or total_tokens"
    assert isinstance(prompt, int) and isinstance(completion, int)
    if total != prompt + completion:
        return f"total_tokens {total} is not prompt_tokens {prompt} + completion_tokens {completion}"
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if cached > prompt:
        return f"cached_tokens {cached} exceeds prompt_tokens {prompt}"
    if reasoning > completion:
        return f"reasoning_tokens {reasoning} exceeds completion_tokens {completion}"
    return None

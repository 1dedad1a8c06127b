"""What one request does to others: to answers beside it, to a probe of health, to the prefix cache;
and what a tool that is deferred does to the prompt."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from abruzzi.verify.asks import TOOLS
from abruzzi.verify.probe import REPEATED, Broken, Probe, Unsupported, check
from abruzzi.verify.wire import Exchange

LARGE = 4_000_000  # bytes
SLOWEST = 1.0  # seconds that a probe of health may take, beside what it takes alone
# Legal or not, none of them may change a neighbour's answer.
ODD: tuple[dict[str, Any], ...] = (
    {"temperature": 1e-46},
    {"temperature": 2, "top_p": 1e-9},
    {"temperature": 1, "seed": -1, "top_k": 2**63},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": '(?=a)[^"\\\\]*'}}}},
    {"stop": ["a" * 1000, "\u0000"], "max_tokens": 1},
)


@check("others", "an answer is the same beside odd requests as alone", suites=("full",))
def neighbour_isolated(p: Probe) -> None:
    p.need_repeats()
    alone = p.chat(REPEATED, max_tokens=24)
    odd = [p.body("Hello.", **{"max_tokens": 8, **fields}) for fields in ODD]
    mine = p.body(REPEATED, max_tokens=24)
    with ThreadPoolExecutor(len(ODD) + 2) as pool:
        for _ in range(2):
            asked = [pool.submit(p.raw, body) for body in (*odd[:3], mine, *odd[3:], mine)]
            beside = [future.result() for future in asked if future.result().sent is mine]
            for exchange in beside:
                said = None if exchange.status != 200 else p.read(exchange)
                same = said is not None and said.same_as(alone)
                p.ok(same, f"beside odd requests: {'another answer' if said else exchange.outcome()}", exchange)


@check("others", "health is told while a large body is handled", suites=("full",))
def health_under_load(p: Probe) -> None:
    path = _health(p)
    idle = max(p.session.wire.get(path).seconds for _ in range(3))
    body = p.body("word " * (LARGE // 5), max_tokens=1)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(p.session.wire.post, "/chat/completions", body)
        time.sleep(0.05)
        probes = [p.session.wire.get(path)]
        while not large.done() and len(probes) < 500:
            probes.append(p.session.wire.get(path))
            time.sleep(0.02)
        answered = large.result()
    worst = max(probes, key=lambda e: e.seconds if e.status == 200 else float("inf"))
    p.ok(
        worst.status == 200 and worst.seconds <= idle + SLOWEST,
        f"{path} took {worst.seconds:.1f} s ({worst.outcome()}) beside {LARGE / 1e6:.0f} MB, {idle:.2f} s alone",
        worst,
    )
    p.ok(answered.status is not None and answered.status < 500, f"the large body: {answered.outcome()}", answered)


@check("others", "a second turn takes its prefix from the cache", suites=("full",))
def prefix_reused(p: Probe) -> None:
    first = p.body("Remember these words: " + "river stone lamp " * 150 + "Say yes.", max_tokens=24)
    p.read(p.raw(first))
    again = p.read(p.raw(first))
    if _cached(again.exchange) is None:
        raise Unsupported("usage does not tell prompt_tokens_details.cached_tokens")
    if not _cached(again.exchange):
        raise Unsupported("the same prompt twice has no cached tokens: there is no prefix cache, or it is off")
    whole = again.usage.get("prompt_tokens", 0)
    thought = {"reasoning_content": again.reasoning} if again.reasoning else {}
    turns = [*first["messages"], {"role": "assistant", "content": again.content, **thought}]
    reply = p.chat([*turns, {"role": "user", "content": "And now?"}], max_tokens=8)
    cached = _cached(reply.exchange) or 0
    p.ok(2 * cached >= whole, f"the second turn has {cached} cached tokens, the first had {whole} in all", reply)


@check("others", "a tool that is deferred stays out of the prompt (Anthropic's dialect)", suites=("full",))
def deferred_tools(p: Probe) -> None:
    function = TOOLS[0]["function"]
    tool = {"name": function["name"], "description": "word " * 50, "input_schema": function["parameters"]}

    def count(*tools: dict[str, Any]) -> tuple[int, Exchange]:
        body = {"model": p.session.model, "messages": [{"role": "user", "content": "Hello."}]}
        exchange = p.session.wire.post("/messages/count_tokens", {**body, **({"tools": [*tools]} if tools else {})})
        if exchange.refused:
            raise Unsupported(f"/v1/messages/count_tokens was refused ({exchange.outcome()})")
        said = exchange.body.get("input_tokens") if isinstance(exchange.body, dict) else None
        if exchange.status != 200 or not isinstance(said, int):
            p.ok(False, f"expected input_tokens, got {exchange.outcome()}", exchange)
            raise Broken("no count of tokens")
        return said, exchange

    without, _ = count()
    loaded, evidence = count(tool)
    p.ok(loaded >= without + 50, f"a tool of 50 words takes {loaded - without} tokens", evidence)
    deferred, evidence = count({**tool, "defer_loading": True})
    p.ok(deferred < without + 50, f"it takes {deferred - without} tokens where it is deferred", evidence)


def _health(p: Probe) -> str:
    """The path that tells health; /models where there is none."""
    return "//health" if p.session.wire.get("//health").status == 200 else "/models"


def _cached(exchange: Exchange) -> int | None:
    usage = exchange.body.get("usage") if isinstance(exchange.body, dict) else None
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return cached if isinstance(cached, int) else None

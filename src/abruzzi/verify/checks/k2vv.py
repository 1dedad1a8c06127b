"""Checks of K2-Vendor-Verifier's two measures (verify/k2vv.py): schema_accuracy and
tool_call_f1."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from abruzzi.verify.k2vv import Counts, Request, count, finish_reason, generated, load, valid_calls
from abruzzi.verify.probe import Probe, Unsupported, check
from abruzzi.verify.wire import Exchange

QUICK_REQUESTS = 8


@check("tools", "K2VV: calls satisfy their tools' schemas")
def schema_accuracy(p: Probe) -> None:
    for request, exchange, finish, valid in _run(p):
        if finish == "tool_calls":
            p.ok(valid, f"{request.where}: a call does not satisfy its tool's schema", exchange)
        else:
            p.skip("no call")
    counts: Counts = p.session.facts["counts"]
    if counts.schema_accuracy is None:
        raise Unsupported("no answer ended in tool_calls")
    p.note(f"{counts.valid} of {counts.tool_calls} answers with calls are valid: {counts.schema_accuracy:.2%}")


@check("tools", "K2VV: tools are called when they should be", judges="model")
def tool_call_f1(p: Probe) -> None:
    """Passes where F1 reaches the limit, so single misses are told but not counted against the
    server."""
    outcomes = _run(p)
    counts: Counts = p.session.facts["counts"]
    if counts.tool_call_f1 is None:
        raise Unsupported("the requests have no known right behaviour; hint: a results file with finish_reason")
    misses = [
        (f"{r.where}: ended in {finish or 'an error'}, expected {r.truth}", e)
        for r, e, finish, _ in outcomes
        if r.truth is not None and (finish == "tool_calls") != (r.truth == "tool_calls")
    ]
    f1, limit = counts.tool_call_f1, p.session.min_f1
    p.note(f"F1 {f1:.2%} (limit {limit:.0%}), TP {counts.tp} FP {counts.fp} FN {counts.fn} TN {counts.tn}")
    if f1 >= limit:
        p.ok(True, "", *[e for _, e, _, _ in outcomes[:1]])
        for problem, _ in misses:
            p.note(problem)
        return
    for problem, exchange in misses:
        p.ok(False, f"{problem}; F1 {f1:.2%} is under {limit:.0%}", exchange)
    for _ in range(counts.tp + counts.tn):
        p.ok(True, "")


def _run(p: Probe) -> list[tuple[Request, Exchange, str | None, bool]]:
    """Send every request once a session; both checks read it."""
    if "k2vv" not in p.session.facts:
        path = p.session.requests
        requests = load(path) if path else generated(p.session.budget)
        if p.quick:
            requests = requests[:QUICK_REQUESTS]
        with ThreadPoolExecutor(p.session.concurrency) as pool:
            exchanges = list(pool.map(lambda r: p.raw({"model": p.session.model, **r.body}), requests))
        outcomes = []
        for request, exchange in zip(requests, exchanges):
            finish = finish_reason(exchange)
            valid = finish == "tool_calls" and valid_calls(exchange.body, request.body.get("tools") or [])
            outcomes.append((request, exchange, finish, valid))
        p.session.facts["k2vv"] = outcomes
        p.session.facts["counts"] = count([(r, f, v) for r, _, f, v in outcomes])
    return p.session.facts["k2vv"]

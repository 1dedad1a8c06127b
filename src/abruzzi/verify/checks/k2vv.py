"""schema_accuracy and tool_call_f1 as K2-Vendor-Verifier defines them (github.com/MoonshotAI/K2-Vendor-Verifier).

schema_accuracy: of the answers with finish_reason "tool_calls", the part in which every call names a declared
tool and has arguments that parse and satisfy its schema by jsonschema. An answer counts once, however many
calls it holds; a tool whose schema is absent or empty counts as wrong, as it does there.

tool_call_f1: did the answer end in "tool_calls" where the truth did? 2PR / (P + R) over all requests; every
other end, also a failed request, counts as no call. Truth is the official API's finish_reason (a results
file: {"request", "finish_reason"} a line), or, for generated requests, whether the tool is asked for.
A file of bare request bodies has no truth, so it gives no F1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abruzzi.verify.probe import Check, Probe, Unsupported
from abruzzi.verify.wire import Exchange

QUICK_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """A request body without `model`, and the finish_reason that is right (None: not known)."""

    where: str
    body: dict[str, Any]
    truth: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """What both measures are made of."""

    tool_calls: int = 0
    valid: int = 0
    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @property
    def schema_accuracy(self) -> float | None:
        """None where no answer ended in tool_calls."""
        return self.valid / self.tool_calls if self.tool_calls else None

    @property
    def tool_call_f1(self) -> float | None:
        """None where no truth is known, or neither truth nor any answer has a call (0 / 0)."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fp + self.fn else None


def load(path: Path) -> list[Request]:
    """Requests of a JSON-lines file: bodies, or K2VV's results. Raises ValueError that names the line."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error
        is_result = isinstance(given, dict) and isinstance(given.get("request"), dict)
        body = given["request"] if is_result else given
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise ValueError(
                f"{path}:{number} is no request; expected an object with messages (and tools), "
                'or {"request": {...}, "finish_reason": "..."} a line'
            )
        truth = (given.get("finish_reason") or "stop") if is_result else None
        found.append(Request(f"{path.name}:{number}", _prepared(body), truth))
    if not found:
        raise ValueError(f"{path} holds no request; hint: one request body a line")
    return found


def _prepared(body: dict[str, Any]) -> dict[str, Any]:
    """As K2VV sends it: the role `_input` is a system message; the model is the one under test."""
    messages = [
        {**m, "role": "system"} if isinstance(m, dict) and m.get("role") == "_input" else m for m in body["messages"]
    ]
    return {**{k: v for k, v in body.items() if k != "model"}, "messages": messages}


# name, description, properties, a request that needs it, a request that does not.
_SUBJECTS: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("get_weather", "The weather of a city now.", {"city": {"type": "string"}},
     "Use the tool: what is the weather in Oslo right now?", "Say hello in French."),
    ("convert_currency", "Convert an amount of money at today's rate.",
     {"amount": {"type": "number"}, "source": {"type": "string"}, "target": {"type": "string"}},
     "Convert 250 euros into yen at today's currency rate.", "Write one sentence about autumn."),
    ("search_flights", "Find flights of a day.",
     {"origin": {"type": "string"}, "destination": {"type": "string"}, "date": {"type": "string"}},
     "Search flights from Rome to Lisbon on 2027-03-04.", "Thank you, that was all. Say goodbye."),
    ("set_timer", "Start a timer.", {"minutes": {"type": "integer", "minimum": 1}},
     "Set a timer of 12 minutes for the pasta.", "What is the plural of the word mouse?"),
    ("read_file", "Read a file of the project.", {"path": {"type": "string"}},
     "Read the file notes/todo.txt and tell me what it says.", "Translate 'good night' into German."),
    ("query_orders", "Orders of a customer, by state.",
     {"customer": {"type": "string"}, "state": {"enum": ["open", "shipped", "returned"]}},
     "Query the open orders of the customer Bianchi.", "Name two animals that can fly."),
    ("send_mail", "Send an e-mail.",
     {"to": {"type": "string"}, "subject": {"type": "string"}, "text": {"type": "string"}},
     "Send a mail to anna@example.org with the subject Lunch and the text 'At noon?'.", "What colour is snow?"),
    ("play_music", "Play a piece of music.",
     {"title": {"type": "string"}, "options": {"type": "object", "properties": {"loop": {"type": "boolean"}}}},
     "Play the music titled Clair de lune.", "How many days has a week?"),
]  # fmt: skip


def generated(budget: int) -> list[Request]:
    """Pairs of requests with several tools on offer: one that needs a tool, one that plainly does not."""
    tools = []
    for name, description, properties, _, _ in _SUBJECTS:
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        tools.append({"type": "function", "function": {"name": name, "description": description, "parameters": schema}})
    found = []
    for i, (name, _, _, needs, idle) in enumerate(_SUBJECTS):
        offered = [tools[i], tools[(i + 3) % len(tools)]]
        for truth, prompt in (("tool_calls", needs), ("stop", idle)):
            body = {
                "messages": [{"role": "user", "content": prompt}],
                "tools": offered,
                "temperature": 0,
                "max_tokens": budget,
            }
            found.append(Request(f"generated {name} {truth}", body, truth))
    return found


def valid_calls(body: dict[str, Any], tools: Sequence[Any]) -> bool:
    """Whether every call of the answer's first choice satisfies its tool's schema."""
    calls = body["choices"][0]["message"].get("tool_calls") or []
    return isinstance(calls, list) and all(_valid(call, tools) for call in calls)


def _valid(call: Any, tools: Sequence[Any]) -> bool:
    import jsonschema

    try:
        function = call["function"]
        schema = next((t["function"]["parameters"] for t in tools if t["function"]["name"] == function["name"]), None)
        if not schema:
            return False
        arguments = function["arguments"]
        jsonschema.validate(json.loads(arguments) if isinstance(arguments, str) else arguments, schema)
    except Exception:  # as there: whatever goes wrong, the call is not valid
        return False
    return True


def finish_reason(exchange: Exchange) -> str | None:
    """The answer's end; "stop" where it names none, as K2VV has it; None for a failed request."""
    if exchange.status != 200 or not isinstance(exchange.body, dict):
        return None
    choices = exchange.body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0].get("message"), dict):
        return None
    return choices[0].get("finish_reason") or "stop"


def count(outcomes: Sequence[tuple[Request, str | None, bool]]) -> Counts:
    """Counts of (request, finish_reason, all calls valid)."""
    calls = [(r, finish == "tool_calls", valid) for r, finish, valid in outcomes]
    known = [(r.truth == "tool_calls", called) for r, called, _ in calls if r.truth is not None]
    return Counts(
        tool_calls=sum(called for _, called, _ in calls),
        valid=sum(called and valid for _, called, valid in calls),
        tp=known.count((True, True)),
        fp=known.count((False, True)),
        fn=known.count((True, False)),
        tn=known.count((False, False)),
    )


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


def tool_call_f1(p: Probe) -> None:
    """Passes where F1 reaches the limit, so single misses are told but not counted against the server."""
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


CHECKS = (
    Check("schema_accuracy", "tools", "K2VV: calls satisfy their tools' schemas", schema_accuracy),
    Check("tool_call_f1", "tools", "K2VV: tools are called when they should be", tool_call_f1, judges="model"),
)

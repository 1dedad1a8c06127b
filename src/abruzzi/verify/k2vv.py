"""The metrics schema_accuracy and tool_call_f1 of K2-Vendor-Verifier
(github.com/MoonshotAI/K2-Vendor-Verifier).

schema_accuracy: of the answers with finish_reason "tool_calls", the part in which every call names
a declared tool and has arguments that parse and satisfy its schema by jsonschema. An answer counts
once, however many calls it holds; a tool whose schema is absent or empty counts as wrong, as it
does there.

tool_call_f1: did the answer end in "tool_calls" where the truth did? 2PR / (P + R) over all
requests; every other end, also a failed request, counts as no call. Truth is the official API's
finish_reason (a results file: {"request", "finish_reason"} a line), or, for generated requests,
whether the tool is asked for. A file of bare request bodies has no truth, so it gives no F1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abruzzi.verify.wire import Exchange

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
    """Requests of a JSON-lines file: bodies, or K2VV's results. Raises ValueError that names the
    line."""
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


def generated(budget: int) -> list[Request]:
    """Pairs of requests with several tools on offer: one that needs a tool, one that plainly does
    not."""
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

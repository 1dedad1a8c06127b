"""Check, Probe and Result: what a check of `abruzzi verify` is, what it may ask, and what it leaves
behind.

A check gets a Probe: it sends requests, says what it expected (`ok`), and every expectation counts.
Three ends are possible: pass, fail, and unsupported (the server says that it lacks the feature, or
there is nothing to judge). Unsupported is never counted as passed. Accepting a field and ignoring
it is a fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from abruzzi.verify.wire import Exchange, Wire

MAX_FAILURES_SHOWN = 3
MAX_TEXT_SHOWN = 1500
MAX_EVENTS_SHOWN = 30
REPEATED = "List three colours and say where each is seen."  # whose answers are compared with each other

Status = Literal["pass", "fail", "unsupported"]


class Unsupported(Exception):
    """The server does not offer what the check is about. The text says how it said so."""


class Broken(Exception):
    """An answer so wrong that the check cannot go on; it has been counted as a failure already."""


@dataclass(frozen=True, slots=True)
class Check:
    """One property of an endpoint.

    title:    the property as a sentence that is true of a good server.
    judges:   "server", or "model" where a weak model fails it behind a perfect server.
    required: an endpoint that does not support this is not ok.
    suites:   the suites that it runs in.
    last:     runs after all others, because it reads every answer of the run, leaves connections open or makes
              mistakes on purpose.
    """

    name: str
    group: str
    title: str
    run: Callable[[Probe], None]
    judges: Literal["server", "model"] = "server"
    required: bool = False
    suites: tuple[str, ...] = ("quick", "full")
    last: bool = False


def check(
    group: str,
    title: str,
    *,
    judges: Literal["server", "model"] = "server",
    required: bool = False,
    suites: tuple[str, ...] = ("quick", "full"),
    last: bool = False,
) -> Callable[[Callable[[Probe], None]], Check]:
    """A decorator: the function below becomes a Check of its name. What the arguments mean: see
    Check."""
    return lambda run: Check(run.__name__, group, title, run, judges, required, suites, last)


@dataclass(slots=True)
class Result:
    """What became of one check. passed of total expectations held; skipped: why some were not
    judged -> count."""

    check: Check
    status: Status = "pass"
    passed: int = 0
    total: int = 0
    reason: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Result:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
        if said["status"] not in ("pass", "fail", "unsupported") or said["judges"] not in ("server", "model"):
            raise ValueError(f"status {said['status']!r}, judges {said['judges']!r}")
        check = Check(
            said["name"], said["group"], said["title"], _not_run, judges=said["judges"], required=bool(said["required"])
        )
        return cls(
            check,
            said["status"],
            said["passed"],
            said["total"],
            said["reason"],
            dict(said["skipped"]),
            list(said["notes"]),
            list(said["examples"]),
            float(said["seconds"]),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.check.name,
            "group": self.check.group,
            "title": self.check.title,
            "judges": self.check.judges,
            "required": self.check.required,
            "status": self.status,
            "passed": self.passed,
            "total": self.total,
            "reason": self.reason,
            "skipped": self.skipped,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "examples": self.examples,
        }


def _not_run(_: Probe) -> None:
    raise RuntimeError("a check that was read from a report cannot be run")


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of an answer, as it came."""

    id: Any
    name: Any
    arguments: Any
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice of a chat answer, read without judging: fields of the wrong type come out
    empty."""

    exchange: Exchange
    message: dict[str, Any]
    choice: dict[str, Any]

    @property
    def content(self) -> str:
        return _text(self.message.get("content"))

    @property
    def reasoning(self) -> str:
        return _text(self.message.get("reasoning_content")) or _text(self.message.get("reasoning"))

    @property
    def finish(self) -> str | None:
        return self.choice.get("finish_reason")

    @property
    def usage(self) -> dict[str, Any]:
        given = self.exchange.body.get("usage")
        return given if isinstance(given, dict) else {}

    @property
    def calls(self) -> list[Call]:
        given = self.message.get("tool_calls")
        found = []
        for call in given if isinstance(given, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                found.append(Call(call.get("id"), function.get("name"), function.get("arguments"), call))
        return found

    def same_as(self, other: Reply) -> bool:
        """Same thought, text, calls (ids aside) and end."""
        return self._essence() == other._essence()

    def _essence(self) -> tuple[Any, ...]:
        return self.reasoning, self.content, [(c.name, c.arguments) for c in self.calls], self.finish


@dataclass(slots=True)
class Session:
    """One run against one endpoint: what all checks share. budget: tokens that an answer may
    take."""

    wire: Wire
    model: str
    suite: str
    budget: int
    schemas: Sequence[tuple[str, Any]] = ()
    requests: Path | None = None
    concurrency: int = 1
    min_f1: float = 0.73
    facts: dict[str, Any] = field(default_factory=dict)


class Probe:
    """What a check asks with, and where it puts what it found."""

    def __init__(self, session: Session, result: Result) -> None:
        self.session, self.result = session, result
        self._sample: dict[str, Any] | None = None

    @property
    def quick(self) -> bool:
        return self.session.suite == "quick"

    # Asking

    def body(self, messages: str | Sequence[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """A chat request: greedy and bounded unless `fields` say otherwise; a field of None is left
        out."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {
            "model": self.session.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": self.session.budget,
            **fields,
        }
        return {k: v for k, v in body.items() if v is not None}

    def raw(self, body: dict[str, Any]) -> Exchange:
        """Send a chat request and judge nothing."""
        return self.session.wire.post("/chat/completions", body)

    def chat(self, messages: str | Sequence[dict[str, Any]], **fields: Any) -> Reply:
        """A chat request that any server must answer; else the check has failed. Raises Broken."""
        return self.read(self.raw(self.body(messages, **fields)))

    def feature(self, what: str, messages: str | Sequence[dict[str, Any]], **fields: Any) -> Reply:
        """A chat request that a server may refuse. Raises Unsupported for a refusal, Broken for
        worse."""
        exchange = self.raw(self.body(messages, **fields))
        if exchange.refused:
            self.sample(exchange)
            raise Unsupported(f"{what} was refused ({exchange.outcome()})")
        return self.read(exchange)

    def read(self, exchange: Exchange, position: int = 0) -> Reply:
        """The answer's choice at `position`. Raises Broken where there is none."""
        problem = self._not_an_answer(exchange, position)
        if problem:
            self.ok(False, problem, exchange)
            raise Broken(problem)
        choice = exchange.body["choices"][position]
        self.sample(exchange)
        return Reply(exchange, choice["message"], choice)

    def _read_or_none(self, exchange: Exchange) -> Reply | None:
        if self._not_an_answer(exchange, 0):
            return None
        return Reply(exchange, exchange.body["choices"][0]["message"], exchange.body["choices"][0])

    @staticmethod
    def _not_an_answer(exchange: Exchange, position: int) -> str | None:
        if exchange.status != 200:
            return f"expected an answer, got {exchange.outcome()}"
        if exchange.problem:
            return f"the answer broke off: {exchange.problem}"
        if not isinstance(exchange.body, dict):
            return "the answer is no JSON object"
        choices = exchange.body.get("choices")
        if not isinstance(choices, list) or len(choices) <= position:
            what = exchange.error["message"] if exchange.error else "no such choice"
            return f"the answer has no choices[{position}] ({what})"
        choice = choices[position]
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            return f"choices[{position}] has no message object"
        return None

    # Judging

    def ok(self, condition: bool, problem: str, *evidence: Reply | Exchange) -> bool:
        """Count one expectation; `problem` says what is wrong where it does not hold."""
        self.result.total += 1
        if condition:
            self.result.passed += 1
            for piece in evidence:
                self.sample(_exchange(piece))
            return True
        if self.result.total - self.result.passed <= MAX_FAILURES_SHOWN:
            self.result.examples.append({"problem": problem, **shown(map(_exchange, evidence))})
        return False

    def skip(self, why: str) -> None:
        """One thing could not be judged; counted apart, neither passed nor failed."""
        self.result.skipped[why] = self.result.skipped.get(why, 0) + 1

    def note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.notes.append(text)

    def sample(self, exchange: Exchange) -> None:
        """Remember one exchange to show where nothing failed."""
        self._sample = shown([exchange])

    def close(self, reason: str | None) -> None:
        """Set the status. reason: why the check is unsupported, or None."""
        r = self.result
        r.status = "fail" if r.passed < r.total else "pass"
        if r.status == "pass" and (reason or not r.total):
            r.status = "unsupported"
            r.reason = reason or "; ".join(f"{n} x {why}" for why, n in r.skipped.items()) or "nothing to judge"
        if not r.examples and self._sample:
            r.examples.append({"problem": None, **self._sample})

    # Facts that several checks need; each is found out once.

    def repeats(self) -> bool:
        """Whether two greedy requests alone give the same answer: without that, nothing can be
        compared."""
        if "repeats" not in self.session.facts:
            replies = [self._read_or_none(self.raw(self.body(REPEATED, max_tokens=40))) for _ in range(2)]
            first, second = replies
            self.session.facts["repeats"] = bool(first and second and first.same_as(second))
        return self.session.facts["repeats"]

    def need_repeats(self) -> None:
        """Raises Unsupported on a server whose greedy answers differ from one another."""
        if not self.repeats():
            raise Unsupported("greedy answers of this server do not repeat, so two of them cannot be compared")

    def replies(self) -> Iterable[Reply]:
        """Every well-formed chat choice of the session so far."""
        for exchange in self.session.wire.log:
            if exchange.path == "/chat/completions" and exchange.status == 200 and not exchange.cut_by_us:
                body = exchange.body if isinstance(exchange.body, dict) else {}
                choices = body.get("choices")
                for choice in choices if isinstance(choices, list) else []:
                    if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
                        yield Reply(exchange, choice["message"], choice)


def shown(exchanges: Iterable[Exchange]) -> dict[str, Any]:
    """Requests and answers as a report shows them: `exchanges`, long texts cut with a mark."""
    return {"exchanges": [_show(e) for e in exchanges]}


def _show(e: Exchange) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": e.status, "seconds": round(e.seconds, 3)}
    if e.problem:
        answer["problem"] = e.problem
    if e.streamed and e.status == 200:
        events = [_cut(event) for event in e.events]
        if len(events) > MAX_EVENTS_SHOWN:
            half = MAX_EVENTS_SHOWN // 2
            events = [*events[:half], f"... {len(events) - 2 * half} more events ...", *events[-half:]]
        answer.update(events=events, done=e.done)
        if e.odd_lines:
            answer["odd_lines"] = _cut(e.odd_lines[:5])
    elif e.body is not None:
        answer["body"] = _cut(e.body)
    elif e.text:
        answer["text"] = _cut(e.text)
    return {"request": {"method": e.method, "path": e.path, "body": _cut(e.sent)}, "response": answer}


def _cut(value: Any, depth: int = 0) -> Any:
    """The value with long texts and lists cut; what is cut is said."""
    if isinstance(value, str):
        more = len(value) - MAX_TEXT_SHOWN
        return value if more <= 0 else f"{value[:MAX_TEXT_SHOWN]}... ({more} more characters)"
    if depth > 12:
        return _cut(json.dumps(value, ensure_ascii=False)) if isinstance(value, (dict, list)) else value
    if isinstance(value, list):
        kept = [_cut(v, depth + 1) for v in value[:40]]
        return kept if len(value) <= 40 else [*kept, f"... {len(value) - 40} more"]
    if isinstance(value, dict):
        kept = {k: _cut(v, depth + 1) for k, v in list(value.items())[:40]}
        return kept if len(value) <= 40 else {**kept, "...": f"{len(value) - 40} more"}
    return value


def _exchange(piece: Reply | Exchange) -> Exchange:
    return piece.exchange if isinstance(piece, Reply) else piece


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

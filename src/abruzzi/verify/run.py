"""The conformance run of `abruzzi verify`: does any endpoint serve a reasoning, tool-calling model
correctly?

A check is a decorated function in checks/, which asks through a Probe (probe.py). asks.py holds
what several of them ask, json_judge.py and k2vv.py how answers are judged; wire.py speaks raw HTTP,
report.py writes the page.

Not judged here: whether answers are clever (evals/run.py does that), speed, other dialects than
chat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abruzzi.agent.client import EndpointError
from abruzzi.verify import json_judge, k2vv
from abruzzi.verify.checks import CHECKS
from abruzzi.verify.probe import Broken, Check, Probe, Result, Session, Unsupported
from abruzzi.verify.wire import Wire

SUITES = ("quick", "full")


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found out."""

    base_url: str
    model: str
    suite: str
    results: tuple[Result, ...]
    schema_accuracy: float | None
    tool_call_f1: float | None
    requests: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing of the server's failed, and all that is required is there. What a weak model
        fails behind a perfect server is told apart (`of_model`)."""
        server = [r for r in self.results if r.check.judges == "server"]
        return all(r.status != "fail" and (r.status == "pass" or not r.check.required) for r in server)

    @property
    def of_model(self) -> tuple[Result, ...]:
        """Failed checks that judge the model."""
        return tuple(r for r in self.results if r.status == "fail" and r.check.judges == "model")

    def to_json(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "model": self.model,
            "suite": self.suite,
            "ok": self.ok,
            "passed": sum(r.status == "pass" for r in self.results),
            "failed": sum(r.status == "fail" for r in self.results) - len(self.of_model),
            "failed_by_model": len(self.of_model),
            "unsupported": sum(r.status == "unsupported" for r in self.results),
            "schema_accuracy": self.schema_accuracy,
            "tool_call_f1": self.tool_call_f1,
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "checks": [r.to_json() for r in self.results],
        }


def from_json(said: Any) -> Report:
    """A report from what `Report.to_json` gave. Raises ValueError for anything else."""
    try:
        results = tuple(Result.from_json(check) for check in said["checks"])
        return Report(
            base_url=str(said["base_url"]),
            model=str(said["model"]),
            suite=str(said["suite"]),
            results=results,
            schema_accuracy=said["schema_accuracy"],
            tool_call_f1=said["tool_call_f1"],
            requests=int(said["requests"]),
            seconds=float(said["seconds"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"this is no report of abruzzi verify ({what}); hint: write one with --json") from error


def verify(
    wire: Wire,
    model: str,
    *,
    suite: str = "full",
    schemas: Path | None = None,
    requests: Path | None = None,
    budget: int = 512,
    min_f1: float = 0.73,
    concurrency: int = 1,
    only: Sequence[str] = (),
    progress: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Run the checks of a suite, in order. only: names of checks, instead of the whole suite.

    Raises EndpointError when the server is not there or refuses the key, ValueError for bad
    arguments."""
    chosen = _choose(suite, only)
    if not (budget > 0 and concurrency > 0 and math.isfinite(min_f1) and 0 <= min_f1 <= 1):
        raise ValueError("budget and concurrency must be at least 1, min_f1 between 0 and 1")
    if requests is not None:
        k2vv.load(requests)  # a bad file is told before anything is sent
    session = Session(wire, model, suite, budget, concurrency=concurrency, requests=requests, min_f1=min_f1)
    session.schemas = json_judge.load(schemas) if schemas else ()
    _reach(wire, session)
    started = time.monotonic()
    results = []
    for check in chosen:
        results.append(_judge(session, check))
        progress(results[-1])
    counts = session.facts.get("counts", k2vv.Counts())
    return Report(
        base_url=wire.base_url,
        model=model,
        suite=suite,
        results=tuple(results),
        schema_accuracy=counts.schema_accuracy,
        tool_call_f1=counts.tool_call_f1,
        requests=len(wire.log),
        seconds=time.monotonic() - started,
    )


def only_model(wire: Wire) -> str:
    """The one model that the server offers. Raises EndpointError with the choice where there are
    more."""
    exchange = wire.get("/models")
    if exchange.status is None:
        raise EndpointError(f"{wire.base_url} cannot be reached ({exchange.problem}); hint: is the server running?")
    if exchange.status in (401, 403):
        raise EndpointError(f"{wire.base_url} answered {exchange.outcome()}; hint: check --api-key")
    data = exchange.body.get("data") if isinstance(exchange.body, dict) else None
    ids = (
        [m["id"] for m in data if isinstance(m, dict) and isinstance(m.get("id"), str)]
        if isinstance(data, list)
        else []
    )
    if len(ids) != 1:
        listed = f": {', '.join(ids[:10])}" if ids else ""
        raise EndpointError(f"{wire.base_url} offers {len(ids)} models; hint: choose one with --served-model{listed}")
    return ids[0]


def _choose(suite: str, only: Sequence[str]) -> list[Check]:
    if suite not in SUITES:
        raise ValueError(f"suite {suite!r} is unknown; expected one of {', '.join(SUITES)}")
    unknown = set(only) - {c.name for c in CHECKS}
    if unknown:
        raise ValueError(f"no check is called {sorted(unknown)[0]!r}; hint: " + ", ".join(c.name for c in CHECKS))
    return [c for c in CHECKS if (c.name in only if only else suite in c.suites)]


def _reach(wire: Wire, session: Session) -> None:
    probe = Probe(session, Result(CHECKS[0]))
    exchange = probe.raw(probe.body("Hi", max_tokens=1))
    if exchange.status is None:
        raise EndpointError(f"{wire.base_url} cannot be reached ({exchange.problem}); hint: is the server running?")
    if exchange.status in (401, 403):
        raise EndpointError(f"{wire.base_url} answered {exchange.outcome()}; hint: check --api-key")


def _judge(session: Session, check: Check) -> Result:
    result = Result(check)
    probe = Probe(session, result)
    started = time.monotonic()
    reason = None
    try:
        check.run(probe)
    except Unsupported as unsupported:
        reason = str(unsupported)
    except Broken:
        pass  # counted where it was raised
    except Exception as error:
        # Whatever an odd answer does to a check, the others still run and the report is written.
        probe.ok(False, f"the answer could not be read ({type(error).__name__}: {error})", session.wire.log[-1])
    result.seconds = time.monotonic() - started
    probe.close(reason)
    return result

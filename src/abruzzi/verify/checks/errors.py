"""Checks of error handling: a 4xx with an error object that says what is wrong; never a 500, never
silence."""

from __future__ import annotations

import json
import re
from typing import Any

from abruzzi.verify.asks import SHORT, response_format
from abruzzi.verify.probe import Probe, Unsupported, check
from abruzzi.verify.wire import Exchange

# A silently accepted mistake may start an endless answer: leave after so long.
ERROR_TIMEOUT = 60.0
OVERFLOW = re.compile(r"maximum context length|context_length_exceeded|prompt is too long|exceeds? the context", re.I)
MAX_CONTEXT_PROBED = {"quick": 16_384, "full": 140_000}


def _refused(p: Probe, what: str, exchange: Exchange) -> None:
    """Count two expectations: refused as the client's mistake; with an error object."""
    if exchange.status == 200:
        problem = f"{what}: accepted silently"
    elif exchange.status is None:
        problem = f"{what}: no answer ({exchange.problem})"
    else:
        problem = f"{what}: expected a 4xx, got {exchange.outcome()}"
    if p.ok(exchange.refused and exchange.status != 501, problem, exchange):
        message = exchange.error["message"] if exchange.error else ""
        p.ok(bool(message.strip()), f"{what}: {exchange.status} without an error object with a message", exchange)


def _send(p: Probe, body: dict[str, Any]) -> Exchange:
    return p.session.wire.post("/chat/completions", body, timeout=ERROR_TIMEOUT)


def _altered(p: Probe, **fields: Any) -> dict[str, Any]:
    return {**p.body(SHORT, max_tokens=4), **fields}


@check("errors", "An unknown model is refused", last=True)
def error_unknown_model(p: Probe) -> None:
    for stream in (False, True):
        _refused(p, "an unknown model", _send(p, _altered(p, model="no-such-model-8f1c", stream=stream)))


@check("errors", "A body that is no JSON object is refused", required=True, last=True)
def error_malformed_json(p: Probe) -> None:
    good = json.dumps(_altered(p))
    for what, text in (
        ("JSON that is cut off", good[:-9]),
        ("a list instead of an object", f"[{good}]"),
        ("an empty body", ""),
        ("text that is no JSON", "hello"),
    ):
        _refused(p, what, p.session.wire.post("/chat/completions", None, raw=text, timeout=ERROR_TIMEOUT))


@check("errors", "Fields of the wrong type are refused", required=True, last=True)
def error_wrong_types(p: Probe) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("messages is text", {"messages": "hello"}),
        ("messages is empty", {"messages": []}),
        ("a message is text", {"messages": ["hello"]}),
        ("a role is unknown", {"messages": [{"role": "wizard", "content": "hi"}]}),
        ("content is a number", {"messages": [{"role": "user", "content": 5}]}),
        ("temperature is text", {"temperature": "hot"}),
        ("max_tokens is text", {"max_tokens": "many"}),
        ("stream is text", {"stream": "yes"}),
        ("stop is a number", {"stop": 5}),
        ("tools is an object", {"tools": {"name": "f"}}),
        ("tool_choice is unknown", {"tools": [_ping()], "tool_choice": "sometimes"}),
        ("response_format is unknown", {"response_format": {"type": "yaml"}}),
    ]
    for what, fields in wrong:
        _refused(p, what, _send(p, _altered(p, **fields)))
    body = _altered(p)
    del body["messages"]
    _refused(p, "messages is missing", _send(p, body))


def _ping() -> dict[str, Any]:
    return {"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}}}


@check("errors", "Unknown fields are refused, not ignored", last=True)
def error_unknown_fields(p: Probe) -> None:
    for name in ("no_such_field", "max_token", "temprature"):
        _refused(p, f"the unknown field {name!r}", _send(p, _altered(p, **{name: 1})))


@check("errors", "Values out of range are refused", last=True)
def error_out_of_range(p: Probe) -> None:
    for name, value in (
        ("temperature", -1),
        ("temperature", 100),
        ("top_p", -0.5),
        ("top_p", 1.5),
        ("max_tokens", -5),
        ("n", 0),
    ):
        _refused(p, f"{name} {value}", _send(p, _altered(p, **{name: value})))
    _refused(p, "top_logprobs 100000", _send(p, _altered(p, logprobs=True, top_logprobs=100_000)))


@check("errors", "A schema that is none is refused", last=True)
def error_bad_schema(p: Probe) -> None:
    probe = p.raw(p.body(SHORT, max_tokens=4, response_format=response_format({"type": "boolean"})))
    if probe.refused:
        raise Unsupported(f"response_format json_schema is refused ({probe.outcome()})")
    for what, schema in (
        ("a schema with an unknown type", {"type": "nonsense"}),
        ("a schema with properties that are no object", {"type": "object", "properties": 5}),
        ("a schema with a dangling $ref", {"$ref": "#/$defs/absent"}),
    ):
        _refused(p, what, _send(p, _altered(p, response_format=response_format(schema))))


@check("errors", "A prompt longer than the context is refused, not cut", last=True)
def error_context(p: Probe) -> None:
    limit = _context_length(p)
    if limit is None:
        raise Unsupported("neither /v1/models nor /props says how long the context is")
    if limit > MAX_CONTEXT_PROBED[p.session.suite]:
        raise Unsupported(f"a context of {limit} tokens is too long to overfill in the suite {p.session.suite}")
    for stream in (False, True):
        # Every word is at least one token.
        body = _altered(p, messages=[{"role": "user", "content": "word " * (limit + 64)}], stream=stream)
        _refused(p, f"a prompt longer than the context of {limit} tokens", _send(p, body))


@check("errors", "Clients recognise what is said of an overflow", last=True)
def overflow_wording(p: Probe) -> None:
    """Agents compact their history when they know the sentence (LiteLLM, LangChain, pi), and die
    otherwise."""
    limit = _context_length(p)
    if limit is None or limit > MAX_CONTEXT_PROBED[p.session.suite]:
        raise Unsupported("the context's length is not known, or too long to overfill")
    exchange = _send(p, _altered(p, messages=[{"role": "user", "content": "word " * (limit + 64)}]))
    if not exchange.refused:
        raise Unsupported(f"an overflow is not refused ({exchange.outcome()})")
    said = str(exchange.error["message"] if exchange.error else exchange.text)
    code = str(exchange.error.get("code")) if exchange.error else ""
    known = "context_length_exceeded" in (code, *said.split()) or OVERFLOW.search(said) is not None
    p.ok(known, f"an overflow is told in words that clients do not know: {said[:160]!r}", exchange)


def _context_length(p: Probe) -> int | None:
    exchange = p.session.wire.get("/models")
    data = exchange.body.get("data") if isinstance(exchange.body, dict) else None
    for model in data if isinstance(data, list) else []:
        if isinstance(model, dict) and model.get("id") == p.session.model:
            for key in ("max_model_len", "context_length", "max_context_length", "context_window"):
                if isinstance(model.get(key), int):
                    return model[key]
    props = p.session.wire.get("//props").body
    settings = props.get("default_generation_settings") if isinstance(props, dict) else None
    found = settings.get("n_ctx") if isinstance(settings, dict) else None
    return found if isinstance(found, int) and found > 0 else None


@check("errors", "After all mistakes the server still answers", required=True, last=True)
def alive(p: Probe) -> None:
    for stream in (None, True):
        reply = p.chat(SHORT, stream=stream)
        p.ok(bool(reply.content or reply.reasoning), "after the mistakes, a plain answer is empty", reply)

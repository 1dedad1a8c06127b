"""Checks of structured answers: json_object, json_schema, many schemas, large ones."""

from __future__ import annotations

from typing import Any

from abruzzi.verify.asks import PERSON, response_format
from abruzzi.verify.json_judge import cases, judge_cases, judge_json
from abruzzi.verify.probe import Probe, check


@check("structure", "response_format json_object gives a JSON object")
def json_object(p: Probe) -> None:
    prompt = "Answer as JSON: an object with the keys name and age of an invented person."
    for stream in (None, True):
        reply = p.feature("response_format json_object", prompt, response_format={"type": "json_object"}, stream=stream)
        judge_json(p, reply, reply.content, None, "the content")


@check("structure", "response_format json_schema gives JSON by the schema")
def json_schema(p: Probe) -> None:
    for stream in (None, True):
        reply = p.feature(
            "response_format json_schema", "Invent a person.", response_format=response_format(PERSON), stream=stream
        )
        judge_json(p, reply, reply.content, PERSON, "the content")


@check("structure", "Every JSON-Schema case is answered by its schema")
def schema_cases(p: Probe) -> None:
    bodies = [
        p.body("Give one example that fits.", response_format=response_format(s), max_tokens=_cap(p))
        for _, s in cases(p)
    ]
    judge_cases(p, bodies, [(w, s, lambda reply: [reply.content]) for w, s in cases(p)])


@check("structure", "Large and deep schemas work or are refused", suites=("full",))
def schema_large(p: Probe) -> None:
    """Large and deep schemas: valid or refused, never an error of the server's or a hang."""
    names = [f"colour_{i}" for i in range(500)]
    wide = {f"field_{i}": {"type": "string", "maxLength": 9} for i in range(150)}
    deep: dict[str, Any] = {"type": "boolean"}
    for _ in range(24):
        deep = {"type": "object", "properties": {"in": deep}, "required": ["in"], "additionalProperties": False}
    large = [
        ("an enum of 500", {"enum": names}),
        ("150 optional properties", {"type": "object", "properties": wide, "additionalProperties": False}),
        ("24 levels", deep),
    ]
    bodies = [p.body("Give one example.", response_format=response_format(s), max_tokens=_cap(p)) for _, s in large]
    judge_cases(p, bodies, [(w, s, lambda reply: [reply.content]) for w, s in large])


def _cap(p: Probe) -> int:
    return min(p.session.budget, 256)

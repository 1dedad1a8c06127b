"""The check of logprobs: well formed, consistent with one another and with what was said.

Greedily chosen means the most likely, with one exception: a server that limits thinking closes the
thought itself, and that token has a log-probability but was not chosen. A server that tells which
ids it sampled is taken at its word; of the others, one end of a thought may be less likely than the
best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from abruzzi.verify.asks import LONG, offers_ids
from abruzzi.verify.markers import CONTROL_TOKEN, THINK_TAG
from abruzzi.verify.probe import Probe, Reply, check

# How far two printings of one logprob may be apart.
TOLERANCE = 1e-3


@check("sampling", "logprobs are well formed and consistent")
def logprobs(p: Probe) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 3, "max_tokens": 12}
    if p.raw(p.body(LONG, **fields)).refused:
        # Some servers know the chosen token's logprob only, and say so.
        p.note("top_logprobs are refused")
        fields["top_logprobs"] = None
    if offers_ids(p):
        fields["return_token_ids"] = True  # beside them, some tell which were sampled
    plain = p.feature("logprobs", LONG, **fields)
    streamed = p.feature("logprobs", LONG, stream=True, **fields)
    for reply in (plain, streamed):
        given = reply.choice.get("logprobs")
        entries = given.get("content") if isinstance(given, dict) else None
        if not p.ok(isinstance(entries, list) and bool(entries), "logprobs were accepted and did not come", reply):
            continue
        assert isinstance(entries, list)
        forced = _forced(reply, entries)
        for position, entry in enumerate(entries):
            problem = _bad(entry, fields["top_logprobs"] or 0, position == forced)
            p.ok(problem is None, f"logprobs.content[{position}]: {problem}", reply)
        if all(isinstance(e, dict) for e in entries):
            said = _spelt(_said(entries))
            # Servers give logprobs for the thinking as well, or for the content alone.
            fine = said in (_spelt(reply.reasoning + reply.content), _spelt(reply.content))
            p.ok(fine, f"the tokens of logprobs spell {said!r}, the answer says something else", reply)


def _forced(reply: Reply, entries: list[Any]) -> int | None:
    """The place of the one token that the server may have put there: the first end of a thought,
    unless the server says that it was sampled. One that is not shaped like a control token is never
    taken for forced."""
    flags = reply.choice.get("sampled")
    told = flags if isinstance(flags, list) and len(flags) == len(entries) else None
    for position, entry in enumerate(entries):
        text = entry.get("token") if isinstance(entry, dict) else None
        shaped = isinstance(text, str) and (THINK_TAG.fullmatch(text.strip()) or CONTROL_TOKEN.fullmatch(text.strip()))
        if shaped and (told is None or told[position] is False):
            return position
    return None


def _spelt(text: str) -> str:
    """Text without control tokens and white space, which servers trim."""
    return "".join(CONTROL_TOKEN.sub("", THINK_TAG.sub("", text)).split())


def _said(entries: list[dict[str, Any]]) -> str:
    if all(isinstance(e.get("bytes"), list) for e in entries):
        return bytes(b for e in entries for b in e["bytes"]).decode("utf-8", "replace")
    return "".join(str(e.get("token")) for e in entries)


def _bad(entry: Any, expected: int, forced: bool) -> str | None:
    """What is wrong with the logprob of one greedily chosen (or forced) token with `expected`
    alternatives."""
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return "has no token text"
    chosen, top = entry.get("logprob"), entry.get("top_logprobs")
    if not isinstance(chosen, (int, float)) or isinstance(chosen, bool) or not chosen <= 1e-6:
        return f"logprob {chosen!r} is no number up to 0"
    if not expected:
        return None
    if not isinstance(top, list) or len(top) != expected:
        return f"{len(top) if isinstance(top, list) else 'no'} top_logprobs, expected {expected}"
    values = [v for t in top if isinstance(t, dict) and isinstance(v := t.get("logprob"), (int, float))]
    if len(values) != expected:
        return "top_logprobs have no logprob"
    total = sum(math.exp(v) for v in values)
    if total > 1 + TOLERANCE:
        return f"probabilities of top_logprobs add up to {total:.4f}"
    if values != sorted(values, reverse=True):
        return "top_logprobs are not sorted"
    if forced:
        return _bad_forced(entry["token"], chosen, top, values)
    if abs(values[0] - chosen) > TOLERANCE:
        return f"greedy, but the chosen token has {chosen:.4f} and the best {values[0]:.4f}"
    return None


def _bad_forced(token: str, chosen: float, top: list[Any], values: Sequence[float]) -> str | None:
    """A token that was not chosen is where its log-probability puts it: among the best, or below
    them all."""
    listed = [v for t, v in zip(top, values) if t.get("token") == token]
    if listed and min(abs(v - chosen) for v in listed) > TOLERANCE:
        return f"has {chosen:.4f} itself and {listed[0]:.4f} among its top_logprobs"
    if not listed and chosen > values[-1] + TOLERANCE:
        return f"has {chosen:.4f}, more than the last of its top_logprobs, and is not among them"
    return None

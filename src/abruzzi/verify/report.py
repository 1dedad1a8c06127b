"""The report of `abruzzi verify` as one HTML file: no script, nothing loaded, all foreign text
escaped."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from abruzzi.verify.probe import Result
from abruzzi.verify.run import Report

SIGN = {"pass": "✓ pass", "fail": "✗ fail", "unsupported": "– unsupported"}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --pass: #1a7f37; --fail: #cf222e; --dim: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --pass: #3fb950; --fail: #ff7b72; --dim: #9198a1; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; text-transform: capitalize; }
.dim { color: var(--dim); } .pass { color: var(--pass); } .fail { color: var(--fail); }
.unsupported { color: var(--dim); }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; } dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; }
details { border-top: 1px solid var(--line); padding: .45rem 0; }
summary { display: grid; grid-template-columns: 8rem 1fr auto; gap: .75rem; cursor: pointer; align-items: baseline; }
summary code { color: var(--dim); font-size: .85rem; } .status { font-weight: 600; font-size: .9rem; }
.body { margin: .5rem 0 .5rem 8.75rem; } .problem { font-weight: 600; }
pre { overflow-x: auto; max-height: 24rem; padding: .6rem; border: 1px solid var(--line); border-radius: 6px;
  font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) { summary { grid-template-columns: 1fr auto; } .status { grid-column: 1 / -1; }
  .body { margin-left: 0; } }
"""


def to_html(report: Report) -> str:
    """A self-contained page: verdict, measures, every check with what was sent and what came
    back."""
    groups: dict[str, list[Result]] = {}
    for result in report.results:
        groups.setdefault(result.check.group, []).append(result)
    body = "".join(f"<h2>{escape(group)}</h2>{''.join(map(_result, results))}" for group, results in groups.items())
    verdict = '<span class="pass">ok</span>' if report.ok else '<span class="fail">not ok</span>'
    said = report.to_json()
    numbers = {
        "passed": said["passed"],
        "failed": said["failed"],
        "failed by the model": said["failed_by_model"],
        "unsupported": said["unsupported"],
        "schema_accuracy": percent(report.schema_accuracy),
        "tool_call_f1": percent(report.tool_call_f1),
        "requests": report.requests,
        "seconds": round(report.seconds),
    }
    facts = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in numbers.items())
    csp = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{csp}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>abruzzi verify: {escape(report.model)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(report.model)}: {verdict}</h1>\n"
        f'<p class="dim">{escape(report.base_url)}, suite {escape(report.suite)}, by abruzzi verify</p>\n'
        f"<dl>{facts}</dl>\n{body}\n</body></html>\n"
    )


def percent(part: float | None) -> str:
    """A measure for people; a dash where it was not measured."""
    return "–" if part is None else f"{part:.2%}"


def _result(r: Result) -> str:
    opened = " open" if r.status == "fail" else ""
    judges = "" if r.check.judges == "server" else ' <span class="dim">(judges the model, not the server)</span>'
    lines = [f'<p class="dim">{escape(text)}</p>' for text in ([r.reason] if r.reason else []) + r.notes]
    lines += [f'<p class="dim">not judged: {n} × {escape(why)}</p>' for why, n in r.skipped.items()]
    lines += [_example(e) for e in r.examples]
    return (
        f'<details{opened}><summary><span class="status {r.status}">{SIGN[r.status]}</span>'
        f"<span>{escape(r.check.title)}{judges} <code>{escape(r.check.name)}</code></span>"
        f'<span class="dim">{r.passed}/{r.total}</span></summary><div class="body">{"".join(lines)}</div></details>\n'
    )


def _example(example: dict[str, Any]) -> str:
    problem = example["problem"]
    head = f'<p class="problem fail">{escape(problem)}</p>' if problem else '<p class="dim">for example</p>'
    parts = []
    for exchange in example["exchanges"]:
        request, response = exchange["request"], exchange["response"]
        parts.append(f"<p><code>{escape(request['method'])} {escape(request['path'])}</code></p>")
        if request["body"] is not None:
            parts.append(f"<pre>{escape(_pretty(request['body']))}</pre>")
        parts.append(f"<pre>{escape(_pretty(response))}</pre>")
    return head + "".join(parts)


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)

"""`abruzzi verify`: the conformance run against an endpoint, as a table, JSON and a page."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from abruzzi.cli.exit_codes import ERROR, OK

if TYPE_CHECKING:
    from abruzzi.verify.probe import Result
    from abruzzi.verify.run import Report

HELP = """Check an OpenAI-compatible endpoint: tool calls, thinking, streams, token counts, errors.

Exit code 0 when it is ok, 1 when not. Fails show the request and what came back (--json, --html).

Example: abruzzi verify --base-url http://127.0.0.1:8420 --suite quick --json > report.json
abruzzi verify --from report.json --html report.html
"""
COLOUR = {"pass": "green", "fail": "red", "unsupported": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", help=HELP)(verify)


def verify(
    base_url: str = typer.Option(None, "--base-url", metavar="URL", help="With or without /v1."),
    served_model: str = typer.Option(None, "--served-model", metavar="NAME", help="Default: the only one offered."),
    api_key: str = typer.Option(None, "--api-key", help="Default: OPENAI_API_KEY."),
    suite: str = typer.Option("full", "--suite", help="quick or full."),
    schemas: Path = typer.Option(None, "--schemas", metavar="FILE_OR_DIR", help="JSON Schemas, one a line."),
    requests: Path = typer.Option(
        None, "--requests", metavar="FILE", help="K2-Vendor-Verifier's requests or results, one a line."
    ),
    only: list[str] = typer.Option([], "--only", metavar="CHECK", help="Only this check; may be given again."),
    budget: int = typer.Option(512, "--max-tokens", min=1, help="Tokens an answer may take, thinking included."),
    min_f1: float = typer.Option(0.73, "--min-f1", min=0, max=1, help="tool_call_f1 that passes (K2 Thinking: 0.73)."),
    concurrency: int = typer.Option(1, "--concurrency", min=1, help="Requests at once, of --schemas and --requests."),
    timeout: float = typer.Option(120.0, "--timeout", min=1, help="Seconds to wait for a piece of an answer."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    html: Path = typer.Option(None, "--html", metavar="FILE", help="Write a self-contained page."),
    kept: Path = typer.Option(None, "--from", metavar="FILE", help="Show a report that --json wrote; ask nobody."),
) -> int:
    from abruzzi.verify import run as run
    from abruzzi.verify.wire import Wire

    if html is not None and not html.parent.is_dir():
        raise ValueError(f"--html {html}: there is no directory {html.parent}")
    if kept is not None:
        if base_url is not None:
            raise ValueError("--from shows a report, --base-url makes one; give one of them")
        return _show(_read(kept), as_json, html)
    if base_url is None:
        raise typer.BadParameter("--base-url is missing; hint: or --from FILE, to show a report that was kept")
    wire = Wire(base_url, api_key or os.environ.get("OPENAI_API_KEY"), timeout=timeout)
    try:
        report = run.verify(
            wire,
            served_model or run.only_model(wire),
            suite=suite,
            schemas=schemas,
            requests=requests,
            budget=budget,
            min_f1=min_f1,
            concurrency=concurrency,
            only=only,
            progress=_progress,
        )
    finally:
        wire.close()
    return _show(report, as_json, html)


def _read(file: Path) -> Report:
    """A report that --json wrote. Raises OSError, or ValueError with the file's name."""
    from abruzzi.verify.run import from_json

    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--from {file}: {error}") from error


def _show(report: Report, as_json: bool, html: Path | None) -> int:
    from abruzzi.verify.report import to_html

    if html is not None:
        html.write_text(to_html(report), encoding="utf-8")
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        _table(report)
    return OK if report.ok else ERROR


def _progress(result: Result) -> None:
    if sys.stderr.isatty():
        print(f"{result.check.name}: {result.status} {result.passed}/{result.total}", file=sys.stderr)


def _table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from abruzzi.cli.terminal import safe
    from abruzzi.verify.report import SIGN, percent

    console = Console(file=sys.stdout, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check")
    table.add_column("", no_wrap=True)
    table.add_column("passed", justify="right", no_wrap=True)
    table.add_column("what came back")
    for r in report.results:
        failed = [e["problem"] for e in r.examples if e["problem"]]
        told = failed[0] if failed else r.reason or "; ".join(f"{n} x {why}" for why, n in r.skipped.items())
        table.add_row(
            r.check.name,
            Text(SIGN[r.status], style=COLOUR[r.status]),
            f"{r.passed}/{r.total}",
            Text(safe(told)[:240], style="" if failed else "dim"),
        )
    console.print(table)
    said = report.to_json()
    of_model = f" (and {said['failed_by_model']} by the model, not the server)" if report.of_model else ""
    console.print(
        f"\n{safe(report.model)} at {safe(report.base_url)}: {'ok' if report.ok else 'not ok'}; "
        f"{said['passed']} passed, {said['failed']} failed{of_model}, {said['unsupported']} unsupported; "
        f"schema_accuracy {percent(report.schema_accuracy)}, tool_call_f1 {percent(report.tool_call_f1)}",
        style="green" if report.ok else "red",
    )

"""The curve of a run: metrics.jsonl as one HTML page that needs nothing else, an SVG drawn by hand.

A run that was killed and resumed may hold a step twice; the later line counts. The page is dark
where the reader's system is.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 60, 16, 30, 34
# Key of metrics.jsonl, what it is called on the page, and whether its axis is logarithmic.
CHARTS = (
    (("loss", "sampled_loss"), "loss (nats per token)", False),
    (("lr",), "learning rate (Muon)", False),
    (("tok_s",), "tokens per second", False),
    (("max_logit",), "largest attention logit", True),
    (("expert_load_max_over_mean",), "largest expert load over the mean", False),
)
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #ddd; --a: #1769aa; --b: #c2570c; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #444; --a: #6db3f2; --b: #f2a365; } }
body { font: 15px/1.4 system-ui, sans-serif; max-width: 780px; margin: 2em auto; padding: 0 1em; }
svg { width: 100%; height: auto; } text { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--faint); } .a { stroke: var(--a); fill: var(--a); } .b { stroke: var(--b); fill: var(--b); }
polyline { fill: none !important; stroke-width: 1.6; } .legend { stroke: none; }
"""


def write_plot(metrics_file: Path, page: Path, title: str) -> bool:
    """Draw `metrics_file` into `page`; False when it holds no step yet (nothing is written
    then)."""
    steps = read_metrics(metrics_file)
    if not steps:
        return False
    page.write_text(plot_page(steps, title), encoding="utf-8")
    return True


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines by step, later lines for the same step in place of earlier ones; a torn last line
    is left out."""
    by_step: dict[int, dict[str, Any]] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            metrics = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # the process was killed while it wrote this
                break
            raise ValueError(f"{file}:{number} is no JSON; hint: remove the line") from error
        by_step[metrics["step"]] = metrics
    return [by_step[step] for step in sorted(by_step)]


def plot_page(steps: Sequence[dict[str, Any]], title: str) -> str:
    """The whole page. steps: lines of metrics.jsonl, ordered, at least one."""
    last = steps[-1]
    facts = f"step {last['step']:,}, {last['tokens']:,} tokens, loss {last['loss']:.4f}"
    charts = [
        f"<h2>{html.escape(name)}</h2>\n{_chart(steps, keys, logarithmic)}"
        for keys, name, logarithmic in CHARTS
        if any(_finite(m.get(key)) for m in steps for key in keys)
    ]
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n<p>{facts}</p>\n" + "\n".join(charts) + "\n</html>\n"
    )


def _chart(steps: Sequence[dict[str, Any]], keys: Sequence[str], logarithmic: bool) -> str:
    curves = {k: [(m["step"], float(m[k])) for m in steps if _finite(m.get(k))] for k in keys}
    curves = {k: drawable for k, ps in curves.items() if (drawable := [p for p in ps if p[1] > 0 or not logarithmic])}
    points = [p for curve in curves.values() for p in curve]
    if not points:
        return "<p>nothing above 0</p>"
    scale = math.log10 if logarithmic else float
    x_of = _axis([float(x) for x, _ in points], LEFT, WIDTH - RIGHT)
    y_of = _axis([scale(y) for _, y in points], HEIGHT - BOTTOM, TOP)
    drawn = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    low, high = min(scale(y) for _, y in points), max(scale(y) for _, y in points)
    for value in dict.fromkeys((low, (low + high) / 2, high)):
        y, label = y_of(value), 10**value if logarithmic else value
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label:.4g}</text>')
    ends = dict.fromkeys((steps[0]["step"], steps[-1]["step"]))
    drawn += [f'<text x="{x_of(n):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{n:,}</text>' for n in ends]
    for name, (key, curve) in zip("ab", curves.items()):
        line = " ".join(f"{x_of(x):.1f},{y_of(scale(y)):.1f}" for x, y in curve)
        drawn.append(f'<polyline class="{name}" points="{line}"/>' if len(curve) > 1 else _dot(name, line))
        if len(keys) > 1:
            at = LEFT + 8 + 130 * "ab".index(name)
            drawn.append(f'<text class="{name} legend" x="{at}" y="16">{html.escape(key)}</text>')
    return "\n".join([*drawn, "</svg>"])


def _dot(name: str, place: str) -> str:
    x, _, y = place.partition(",")
    return f'<circle class="{name}" cx="{x}" cy="{y}" r="3"/>'


def _axis(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Values -> pixels; one value alone stands in the middle."""
    low, span = min(values), max(values) - min(values)
    return lambda value: start + (end - start) * ((value - low) / span if span else 0.5)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)

"""The page of a run: every step once, in its place, and well-formed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from abruzzi.train.plot import HEIGHT, LEFT, TOP, WIDTH, read_metrics, write_plot


def lines(*pairs: tuple[int, float]) -> str:
    return "".join(json.dumps({"step": s, "tokens": 10 * s, "loss": x, "lr": 0.1}) + "\n" for s, x in pairs)


def test_points_stand_where_their_numbers_are(tmp_path: Path) -> None:
    file, page = tmp_path / "metrics.jsonl", tmp_path / "loss.html"
    file.write_text(lines((1, 4.0), (2, 3.0), (3, 2.0)) + lines((2, 2.5), (3, 2.0)) + '{"step": 4, "to')
    assert [(m["step"], m["loss"]) for m in read_metrics(file)] == [(1, 4.0), (2, 2.5), (3, 2.0)]
    assert write_plot(file, page, "nano <1>")
    text = page.read_text()
    assert "nano &lt;1&gt;" in text and "http" not in text.replace("http-equiv", "")
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, flags=re.S)]
    assert len(charts) == 2  # loss and rate; nothing is drawn of what was not measured
    (curve,) = charts[0].iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in curve.attrib["points"].split()]
    assert points[0] == (LEFT, TOP) and len(points) == 3
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)
    assert (points[1][1] - points[0][1]) / (points[2][1] - points[0][1]) == pytest.approx(0.75, abs=0.01)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_no_step_no_page_and_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert not write_plot(file, tmp_path / "p.html", "t") and not (tmp_path / "p.html").exists()
    file.write_text(lines((1, 4.0)))
    assert write_plot(file, tmp_path / "p.html", "t") and "<circle" in (tmp_path / "p.html").read_text()
    file.write_text("{\n" + lines((1, 4.0)))
    with pytest.raises(ValueError, match=r"metrics.jsonl:1 is no JSON; hint"):
        read_metrics(file)

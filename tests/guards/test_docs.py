"""The door stays a door: README is short, keeps private targets out, and every link in the
documentation resolves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_LINES = 110


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading: lower case, no punctuation, dashes for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(line.lstrip("#")) for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")}


def broken_links(page: Path, text: str) -> list[str]:
    """Links of `text` to files that are not there, or to headings that they do not have."""
    bad = []
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        file, _, fragment = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            bad.append(link)
    return bad


def test_readme_is_at_most_110_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=lambda p: p.name)
def test_targets_that_only_we_know_stay_in_the_log(page: Path) -> None:
    assert not re.search(r"\bwanted \d", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_resolves(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("link", ["docs/gone.md", "docs/measured.md#gone", "#gone"])
def test_the_guard_sees_a_link_that_rotted(link: str) -> None:
    assert broken_links(ROOT / "README.md", f"[there](docs/walk.md) and [not]({link})") == [link]

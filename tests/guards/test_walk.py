"""docs/walk.md and docs/change.md name `file:symbol`; each name resolves, so neither can rot."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "abruzzi"
NAMED = re.compile(r"`([\w/]+\.(?:py|cpp|h)):([\w.]+)`")


def symbols(path: Path) -> set[str]:
    """Functions, classes, methods and module-level names of a Python file; words of a C++ file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"\w+", text))
    found: set[str] = set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.parse(text).body:
        if isinstance(node, (*functions, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, functions)}
            found |= {
                f"{node.name}.{m.target.id}"
                for m in node.body
                if isinstance(m, ast.AnnAssign) and isinstance(m.target, ast.Name)
            }
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def unresolved(walk: str) -> list[str]:
    bad = []
    for file, symbol in NAMED.findall(walk):
        path = ROOT / file if file.startswith("csrc/") else SRC / file
        if not path.is_file() or symbol not in symbols(path):
            bad.append(f"{file}:{symbol}")
    return bad


@pytest.mark.parametrize("page", ["walk.md", "change.md"])
def test_every_name_resolves(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert len(NAMED.findall(text)) >= 10
    assert unresolved(text) == []


@pytest.mark.parametrize("wrong", ["`arch/config.py:Config.gone`", "`gone.py:load`", "`arch/config.py:Conf`"])
def test_the_guard_sees_a_name_that_rotted(wrong: str) -> None:
    assert unresolved(f"`arch/config.py:Config.load` then {wrong}") == [wrong.strip("`")]

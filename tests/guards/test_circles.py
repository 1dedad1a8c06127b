"""No import circles: the graph of modules is acyclic, also inside a room and for imports inside
functions.

A circle means that two files are one noun cut in half, and that whichever is imported first decides
whether it works. Counted are imports that run: at a module's top and inside functions. Those under
TYPE_CHECKING only name a type and are left out. Only what is written counts: that `import a.b` also
runs `a/__init__.py` is Python's doing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"

Graph = Mapping[str, set[str]]


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements at any depth, but for the bodies of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from statements(ast.Module([other], []))
        else:
            yield from statements(node)


def imported(source: str, module: str, is_package: bool, known: Iterable[str]) -> set[str]:
    """Modules of `known` that the source of `module` imports; `from p import m` names p.m where
    that is a module."""
    known = set(known)
    package = module.split(".") if is_package else module.split(".")[:-1]
    found: set[str] = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        else:
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for name in node.names:
                inner = f"{base}.{name.name}"
                found.add(inner if inner in known else base)
    return (found & known) - {module}


def graph_of(root: Path) -> dict[str, set[str]]:
    """Module -> modules that it imports, of all below `root`; a compiled module is known by its
    stub (.pyi)."""
    files = {module_of(path, root): path for path in sorted(root.rglob("*.py*")) if path.suffix in (".py", ".pyi")}
    return {
        module: imported(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", files)
        for module, path in files.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan, 1972), each sorted."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in graph:
        if module not in number:
            visit(module)
    return sorted(found)


def test_no_module_imports_its_way_back_to_itself() -> None:
    graph = graph_of(SRC)
    assert len(graph) > 100 and sum(map(len, graph.values())) > 300
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a/x.py": "from a import y", "a/y.py": "import a.z", "a/z.py": "def f():\n    from .x import g"}, ["xyz"]),
        ({"a/x.py": "from a.y import f", "a/y.py": "from a.x import g", "a/z.py": "from a import x"}, ["xy"]),
        ({"a/__init__.py": "from a.x import f", "a/x.py": "from a import y, f", "a/y.py": ""}, [" x"]),
        ({"a/x.py": "from a import y", "a/y.py": "if TYPE_CHECKING:\n    from a import x"}, []),
        ({"a/x.py": "try:\n    from . import y\nexcept ImportError:\n    pass", "a/y.py": "from . import x"}, ["xy"]),
        ({"a/x.py": "import a.y", "a/y.py": "from b import x", "b/x.py": "import a.z", "a/z.py": "import json"}, []),
    ],
)
def test_the_guard_sees_a_planted_circle(tmp_path: Path, files: dict[str, str], found: list[str]) -> None:
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    named = [["a" if letter == " " else f"a.{letter}" for letter in letters] for letters in found]
    assert circles(graph_of(tmp_path)) == named

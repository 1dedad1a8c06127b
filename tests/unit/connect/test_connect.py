"""Clients' configuration: what is written, merged into what is there, and taken back."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi.connect import CLIENTS, File, Places, Server, connection, undo, write
from abruzzi.connect.connection import ENTRY, Connection
from abruzzi.connect.document import ABSENT, parse
from abruzzi.types import UserError

SERVER = Server("http://127.0.0.1:8420", "org/a model", 32_768, "secret 'key'")
WITH_FILES = [name for name in CLIENTS if name not in ("openwebui",)]

# What somebody may have in these files already.
THEIRS = {
    "json": '{\n    "theme": "dark",\n    "env": {"HTTP_PROXY": "http://p:1"},\n'
    '    "permissions": {"deny": ["Bash(rm:*)"]},\n'
    '    "providers": {"mine": {"baseUrl": "http://other/v1", "models": []}},\n    "umlaut": "Pässe \\u2028"\n}\n',
    "toml": '# mine\nmodel = "gpt-5"  # the good one\n\n[model_providers.other]\nname = "o"   # spaced\n'
    'base_url = \'http://x\'\n\n[projects."/home/me"]\ntrust_level = "trusted"\n',
    "yaml": "# mine\ndark-mode: true  # at night\nmodel: 'gpt-5'\nread:\n  - CONVENTIONS.md\n",
    "list": "# mine\n- model_id: other\n  model_name: 'x'  # quoted\n",
}


def made_for(client: str, home: Path, server: Server = SERVER) -> Connection:
    return connection(client, server, Places(home, {}))


def theirs(file: File) -> str:
    return THEIRS["list" if any(key[0] == ENTRY for key in file.settings) else file.format]


def lay(made: Connection, change: Callable[[str], str] = str) -> dict[Path, bytes]:
    """Put files of somebody else's where the client has its own; their bytes."""
    laid = {}
    for file in made.files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_bytes(change(theirs(file)).encode())
        laid[file.path] = file.path.read_bytes()
    return laid


def as_read(file: File) -> Any:
    """By a reader that is not ours."""
    text = file.path.read_text()
    return {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[file.format](text)


@pytest.mark.parametrize("client", WITH_FILES)
@pytest.mark.parametrize("there", [False, True])
def test_what_is_written_is_read_and_what_was_there_stays(client: str, there: bool, tmp_path: Path) -> None:
    made = made_for(client, tmp_path)
    laid = lay(made) if there else {}
    before = {file.path: as_read(file) for file in made.files} if there else {}
    assert write(made, tmp_path / "ours")
    for file in made.files:
        now = as_read(file)
        for key, value in file.settings.items():
            node = now
            for name in key[:-1]:
                node = node[name]
            assert (value in node) if key[-1] == ENTRY else (node[key[-1]] == value)
        if there:
            ours = {key[0] for key in file.settings}
            old = before[file.path]
            if isinstance(old, list):
                assert now[: len(old)] == old
            else:
                assert all(now[name] == value for name, value in old.items() if name not in ours)
            for remark in ("# mine", "# the good one", "# spaced", "# at night", "# quoted"):
                assert (remark in file.path.read_text()) == (remark.encode() in laid[file.path])
        else:
            assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("client", WITH_FILES)
@pytest.mark.parametrize("change", [str, lambda t: t.replace("\n", "\r\n"), lambda t: t.rstrip("\n")])
def test_undo_gives_every_byte_back(client: str, change: Callable[[str], str], tmp_path: Path) -> None:
    made = made_for(client, tmp_path)
    laid = lay(made, change)
    write(made, tmp_path / "ours")
    assert any(path.read_bytes() != old for path, old in laid.items())
    undo(client, tmp_path / "ours")
    assert {path: path.read_bytes() for path in laid} == laid
    assert not list((tmp_path / "ours" / "connect").iterdir())


@pytest.mark.parametrize("client", WITH_FILES)
def test_undo_removes_files_that_were_not_there(client: str, tmp_path: Path) -> None:
    made = made_for(client, tmp_path)
    write(made, tmp_path / "ours")
    undo(client, tmp_path / "ours")
    assert not any(file.path.exists() for file in made.files)


@pytest.mark.parametrize("client", WITH_FILES)
def test_writing_twice_is_writing_once_and_another_server_replaces_the_first(client: str, tmp_path: Path) -> None:
    made = made_for(client, tmp_path)
    laid = lay(made)
    write(made, tmp_path / "ours")
    once = {path: path.read_bytes() for path in laid}
    assert write(made, tmp_path / "ours") == []
    assert {path: path.read_bytes() for path in laid} == once
    write(made_for(client, tmp_path, Server("http://h:1", "two", 9000, None)), tmp_path / "ours")
    assert b"8420" not in b"".join(path.read_bytes() for path in laid)
    undo(client, tmp_path / "ours")
    assert {path: path.read_bytes() for path in laid} == laid


def test_what_its_owner_changed_since_is_left_and_said(tmp_path: Path) -> None:
    made = made_for("codex", tmp_path)
    [path] = lay(made)
    write(made, tmp_path / "ours")
    edited = path.read_text().replace('model_provider = "abruzzi"', 'model_provider = "other"') + "\n[new]\nx = 1\n"
    path.write_text(edited)
    changes = undo("codex", tmp_path / "ours")
    now = tomllib.loads(path.read_text())
    assert now["model_provider"] == "other" and now["new"] == {"x": 1} and now["model"] == "gpt-5"
    assert "abruzzi" not in now["model_providers"] and "model_context_window" not in now
    assert [c.key for c in changes if not c.done] == [("model_provider",)]
    assert "# the good one" in path.read_text()


def test_what_its_owner_added_between_two_writes_outlives_undo(tmp_path: Path) -> None:
    made = made_for("codex", tmp_path)
    [path] = lay(made)
    write(made, tmp_path / "ours")
    path.write_text(path.read_text() + "\n[mine]\nx = 1\n")
    for server in (SERVER, Server("http://h:1", "two", 9000, None)):
        write(made_for("codex", tmp_path, server), tmp_path / "ours")
    undo("codex", tmp_path / "ours")
    assert tomllib.loads(path.read_text()) == tomllib.loads(THEIRS["toml"]) | {"mine": {"x": 1}}


@pytest.mark.parametrize("client", WITH_FILES)
def test_line_ends_stay_what_they_are(client: str, tmp_path: Path) -> None:
    made = made_for(client, tmp_path)
    laid = lay(made, lambda text: text.replace("\n", "\r\n"))
    write(made, tmp_path / "ours")
    for path in laid:
        assert b"\n" not in path.read_bytes().replace(b"\r\n", b"")


def test_an_entry_of_a_list_that_was_there_is_not_ours_to_take(tmp_path: Path) -> None:
    path = tmp_path / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text('{"permissions": {"deny": ["WebSearch"]}}')
    made = made_for("claude", tmp_path)
    write(made, tmp_path / "ours")
    settings_ = json.loads(path.read_text())
    settings_["mine"] = 1
    path.write_text(json.dumps(settings_))
    undo("claude", tmp_path / "ours")
    assert json.loads(path.read_text()) == {"permissions": {"deny": ["WebSearch"]}, "mine": 1}


@pytest.mark.parametrize(
    "client, text, told",
    [
        ("claude", '{"a": 1,', "it is no JSON: .*line 1"),
        ("claude", '{\n  // mine\n  "a": 1\n}', "it has comments, which would be lost"),
        ("claude", '{"env": "x"}', "env is no object"),
        ("claude", '{"permissions": {"deny": "x"}}', "permissions.deny is no list"),
        ("claude", "[]", "the file is no object"),
        ("claude", "3", "neither an object nor a list"),
        ("codex", "a = \n", "it is no TOML: .*line 1"),
        ("codex", "model_providers = 3\n", "model_providers is no object"),
        ("aider", "a: [\n", "it is no YAML: .*line"),
        ("llm", "a: 1\n", "the file is no list"),
    ],
)
def test_a_file_that_cannot_be_merged_is_refused_with_its_place_and_nothing_is_written(
    client: str, text: str, told: str, tmp_path: Path
) -> None:
    made = made_for(client, tmp_path)
    path = made.files[0].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        write(made, tmp_path / "ours")
    assert str(path) in str(caught.value) and "nothing was written" in str(caught.value)
    assert path.read_text() == text and not any(f.path.exists() for f in made.files[1:])
    assert not (tmp_path / "ours").exists()


def test_a_symbolic_link_and_a_mode_stay(tmp_path: Path) -> None:
    made = made_for("codex", tmp_path)
    real, link = tmp_path / "dotfiles.toml", made.files[0].path
    real.write_text(THEIRS["toml"])
    real.chmod(0o640)
    link.parent.mkdir()
    link.symlink_to(real)
    write(made, tmp_path / "ours")
    assert link.is_symlink() and "abruzzi" in real.read_text() and real.stat().st_mode & 0o777 == 0o640
    undo("codex", tmp_path / "ours")
    assert link.is_symlink() and real.read_text() == THEIRS["toml"]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_for("codex", tmp_path)
    laid = lay(made)
    # Root may write everywhere, so access is denied here and not by the file's mode.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in laid)
    with pytest.raises(UserError, match=r"config\.toml cannot be written \(it is read-only\)"):
        write(made, tmp_path / "ours")
    assert {path: path.read_bytes() for path in laid} == laid


def test_variables_move_the_files(tmp_path: Path) -> None:
    for client, variable in (("codex", "CODEX_HOME"), ("claude", "CLAUDE_CONFIG_DIR"), ("pi", "PI_CODING_AGENT_DIR")):
        made = connection(client, SERVER, Places(tmp_path, {variable: str(tmp_path / "elsewhere")}))
        assert made.files[0].path.parent == tmp_path / "elsewhere"


def test_undo_without_a_write_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was written for codex"):
        undo("codex", tmp_path)


names = st.text("abcü. -_0", max_size=4).map("k{}".format)
scalars = st.one_of(st.booleans(), st.integers(-9, 10**12), st.text(max_size=6))
trees = st.recursive(scalars, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)


@pytest.mark.parametrize("format", ["json", "toml", "yaml"])
@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(names, trees, max_size=3), path=st.lists(names, min_size=1, max_size=3), value=scalars)
def test_one_setting_goes_in_and_nothing_else_moves(
    format: Any, tree: dict[str, Any], path: list[str], value: Any
) -> None:
    import tomlkit

    dump = {"json": json.dumps, "toml": tomlkit.dumps, "yaml": yaml.safe_dump}[format]
    load = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[format]
    text = dump(tree)
    document, key = parse(text, format), tuple(path)
    before = document.get(key)
    node: Any = tree
    blocked = False
    for name in path[:-1]:
        node = node.get(name, {}) if isinstance(node, dict) else None
        blocked = blocked or not isinstance(node, dict)
    if blocked:
        with pytest.raises(UserError):
            document.set(key, value)
        return
    document.set(key, value)
    expected = json.loads(json.dumps(tree))
    node = expected
    for name in path[:-1]:
        node = node.setdefault(name, {})
    node[path[-1]] = value
    assert load(document.text()) == expected
    assert parse(document.text(), format).get(key) == value
    if before is not ABSENT:
        document.set(key, before)
        assert load(document.text()) == tree

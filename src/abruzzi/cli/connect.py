"""`abruzzi connect`: other people's clients on the running server."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.exit_codes import OK

if TYPE_CHECKING:
    from abruzzi.connect import Change, Connection

HELP = """Show how a client is told of the running server; --write tells it, --undo takes that back.

CLIENT is claude, codex, opencode, pi, qwen, cline, aider, llm or openwebui. The server is asked for its model
and context. --write merges into the client's own files, says what it changed and remembers it; --undo takes
exactly that back, and leaves what you changed since.

Examples: abruzzi connect codex --write

abruzzi connect claude --url http://127.0.0.1:8421
"""
URL = "http://127.0.0.1:8420"
HIDDEN = "..."  # where a credential stands


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("connect", help=HELP)(connect)


def connect(
    client: str = typer.Argument(..., metavar="CLIENT", help="The client's command, e.g. codex."),
    url: str = typer.Option(URL, "--url", help="Where the server listens, with or without /v1."),
    api_key: str = typer.Option(None, "--api-key", help="What it wants of clients (else ABRUZZI_API_KEY)."),
    model: str = typer.Option(None, "--model", help="One of those that it serves; default: the first."),
    write: bool = typer.Option(False, "--write", help="Put the settings into the client's files."),
    undo: bool = typer.Option(False, "--undo", help="Take out what --write put in."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> int:
    from abruzzi import connect as room
    from abruzzi.home import home_folder

    room.require(client)
    if write and undo:
        raise ValueError("--write puts settings in, --undo takes them out; give one of them")
    if undo:
        _tell_changes(client, room.undo(client, home_folder()), as_json, undone=True)
        return OK
    key = api_key or os.environ.get("ABRUZZI_API_KEY") or None
    made = room.connection(client, room.ask(url, key, model), room.Places.of_machine())
    if not write:
        _show(made, as_json, api_key)
        return OK
    if not made.files:
        raise ValueError(
            f"{made.title} keeps this in no file of ours to write; hint: abruzzi connect {client} shows what to run"
        )
    _tell_changes(client, room.write(made, home_folder()), as_json, typed=api_key)
    if not as_json:
        print(f"start it: {made.command}")
        _notes(made)
    return OK


def _show(made: Connection, as_json: bool, typed: str | None) -> None:
    """What would be written, in full."""
    from abruzzi.connect import Secret
    from abruzzi.connect.clients import shell_lines
    from abruzzi.connect.document import parse

    def told(value: Any) -> Any:
        return _told(value, isinstance(value, Secret), typed)

    files = []
    for file in made.files:
        document = parse("", file.format)
        for key, value in file.settings.items():
            document.set(key, told(value))
        files.append({"path": str(file.path), "text": document.text()})
    env = {name: told(value) for name, value in made.env.items()}
    if as_json:
        print(json.dumps({"client": made.client, "files": files, "env": env, "command": made.command}))
        return
    for file in files:
        print(f"# {file['path']}\n{file['text'].rstrip()}\n")
    if env:
        print(f"# {'or, ' if files else ''}in the shell that starts it")
        print("\n".join(shell_lines(env)) + "\n")
    print(f"# then\n{made.command}")
    if files:
        print(f"\nabruzzi connect {made.client} --write puts this there, beside what is there already.")
    _notes(made)


def _tell_changes(
    client: str, changes: list[Change], as_json: bool, undone: bool = False, typed: str | None = None
) -> None:
    from abruzzi.connect.journal import files_of

    changes = [
        replace(c, before=_told(c.before, c.secret, typed), after=_told(c.after, c.secret, typed)) for c in changes
    ]
    if as_json:
        told = [{**asdict(c), "path": str(c.path), "key": ".".join(c.key)} for c in changes]
        print(json.dumps({"client": client, "files": [str(p) for p in files_of(changes)], "changes": told}))
        return
    if not changes:
        print("nothing to change: it is there already")
    for path in files_of(changes):
        print(f"{path}:")
        for change in (c for c in changes if c.path == path):
            print("  " + _line(change, undone))


def _line(change: Change, undone: bool) -> str:
    name = ".".join(change.key)
    if not change.done:
        return f"{name}: left alone, {change.why}"
    before, after = (json.dumps(v, ensure_ascii=False) for v in (change.before, change.after))
    if undone:
        return f"{name}: {'removed' if change.after is None else f'{after} again'}"
    return f"{name} = {after}{'' if change.before is None else f' (was {before})'}"


def _notes(made: Connection) -> None:
    for note in made.notes:
        print(f"Note: {note}")


def _told(value: Any, secret: bool, typed: str | None) -> Any:
    """A value as it is shown: a credential only if it is none, or was typed here."""
    from abruzzi.connect.server import NO_KEY

    return HIDDEN if secret and value not in (None, NO_KEY, typed) else value

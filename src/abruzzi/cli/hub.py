"""`abruzzi pull`, `ls` and `rm`: checkpoints in the Hugging Face cache."""

from __future__ import annotations

import json
import sys

import typer

from abruzzi.cli.main import OK

PULL_HELP = """Fetch a checkpoint from a hub, or what is missing of it; what has arrived is never fetched again.

It lies in the Hugging Face cache, where other tools find it too. HF_ENDPOINT chooses the hub, HF_HOME the
place, HF_TOKEN opens private models. Only safetensors, never pickles or code.

Example: abruzzi pull moonshotai/Moonlight-16B-A3B-Instruct
"""
LS_HELP = """List the checkpoints that were pulled.

Example: abruzzi ls --json
"""
RM_HELP = """Delete a checkpoint from the cache.

Example: abruzzi rm moonshotai/Moonlight-16B-A3B-Instruct
"""
NAME = typer.Argument(..., metavar="ORG/NAME", help="As on the hub.")
AS_JSON = typer.Option(False, "--json", help="One JSON object per model on stdout.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("pull", help=PULL_HELP)(pull)
    app.command("ls", help=LS_HELP)(ls)
    app.command("rm", help=RM_HELP)(rm)


def pull(
    name: str = NAME,
    revision: str = typer.Option("main", "--revision", help="A branch, tag or commit."),
    as_json: bool = AS_JSON,
) -> int:
    # The library's own bars would stand beside ours, and on a pipe.
    from huggingface_hub.utils import disable_progress_bars

    from abruzzi.checkpoint import hub

    disable_progress_bars()
    path = hub.pull(name, revision, None if as_json or not sys.stderr.isatty() else _show)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    if as_json:
        print(json.dumps({"model": name, "path": str(path), "bytes": size}))
    else:
        print(f"{name}: {size / 1e9:.2f} GB in {path}")
    return OK


def ls(as_json: bool = AS_JSON) -> int:
    from abruzzi.checkpoint import hub

    for model in hub.cached():
        if as_json:
            print(json.dumps({"model": model.name, "path": str(model.path), "bytes": model.bytes}))
        else:
            print(f"{model.bytes / 1e9:8.2f} GB  {model.name}")
    return OK


def rm(name: str = NAME, as_json: bool = AS_JSON) -> int:
    from abruzzi.checkpoint import hub

    freed = hub.remove(name)
    print(json.dumps({"model": name, "bytes": freed}) if as_json else f"{name}: {freed / 1e9:.2f} GB freed")
    return OK


def _show(file: str, there: int, size: int) -> None:
    end = "\n" if there >= size else ""
    print(f"\r{file}: {there / 1e9:.2f} of {size / 1e9:.2f} GB ({there / size:.0%})", end=end, file=sys.stderr)

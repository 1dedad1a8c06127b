"""`abruzzi train RECIPE`: a run by name, stopped cleanly, resumed exactly."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from abruzzi.cli.main import LIMIT, OK

HELP = """Train a model by a recipe. Ctrl-C, SIGTERM and --time-limit stop it cleanly; --resume goes on exactly there.

DIR holds the state, metrics.jsonl and, when the last step is done, checkpoint/, which `abruzzi run --model`
takes. Several processes: torchrun --nproc-per-node 2 -m abruzzi.cli.main train RECIPE --threads 1 ...

Recipes: nano_cpu (the model that ships with abruzzi; hours on two cores), smoke (a minute).

Example: abruzzi train smoke --out runs/smoke
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", help=HELP)(train)


def train(
    recipe: str = typer.Argument(..., metavar="RECIPE", help="nano_cpu or smoke."),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Change the run, e.g. lr_muon=0.005."),
    out: Path = typer.Option(None, "--out", metavar="DIR", help="Where the run lives; default runs/RECIPE."),
    time_limit: str = typer.Option(None, "--time-limit", help="Stop cleanly after so long: 30s, 10m, 2h."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in DIR."),
    threads: int = typer.Option(0, "--threads", min=0, help="torch threads per process; 0 = all cores."),
) -> int:
    seconds = None if time_limit is None else parse_duration(time_limit)
    try:
        import torch
    except ImportError as error:
        raise ValueError("training needs torch; hint: pip install 'abruzzi[train]'") from error
    from abruzzi import recipes
    from abruzzi.train.loop import Trainer, append_metrics

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    if "RANK" in os.environ:  # set by torchrun
        torch.distributed.init_process_group("gloo")
    first = int(os.environ.get("RANK", "0")) == 0
    out = out or Path("runs") / recipe
    _check_place(out, resume)
    out.mkdir(parents=True, exist_ok=True)
    prepared = recipes.prepare(recipe, out)
    try:
        config = recipes.override(prepared.config, settings)
        trainer = Trainer(config, prepared.shard_of, out)
        if resume:
            trainer.resume()
        progress = _Progress(config.steps, append_metrics(out / "metrics.jsonl"))
        finished = trainer.train(seconds, progress)
        if first and finished:
            trainer.export(out / "checkpoint", prepared.chat_files)
    finally:
        prepared.close()
    if first:
        checkpoint = str(out / "checkpoint") if finished else None
        summary = {"recipe": recipe, "finished": finished, **progress.last, "out": str(out), "checkpoint": checkpoint}
        print(json.dumps(summary))
    return OK if finished else LIMIT


def parse_duration(text: str) -> float:
    """Seconds of "90", "30s", "10m" or "2h". Raises ValueError."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    number = text if unit is None else text[:-1]
    try:
        seconds = float(number) * (unit or 1.0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is no duration; expected for instance 30s, 10m or 2h")
    return seconds


def _check_place(out: Path, resume: bool) -> None:
    there = (out / "state.pt").exists()
    if there and not resume:
        raise ValueError(f"{out} holds a run already; hint: --resume goes on with it, --out DIR starts another")
    if resume and not there:
        raise ValueError(f"{out} holds no run to resume; hint: leave --resume out to start one")


class _Progress:
    """Every logged step into the file, and one line on a terminal."""

    def __init__(self, steps: int, write: Callable[[dict[str, Any]], None]) -> None:
        self.last: dict[str, Any] = {}
        self._steps, self._write = steps, write

    def __call__(self, metrics: dict[str, Any]) -> None:
        self._write(metrics)
        self.last = {k: metrics[k] for k in ("step", "tokens", "loss", "tok_s")}
        if sys.stderr.isatty():
            left = (self._steps - metrics["step"]) * metrics["tokens"] / metrics["step"] / metrics["tok_s"]
            line = f"step {metrics['step']}/{self._steps}  loss {metrics['loss']:.3f}  {metrics['tok_s']:.0f} tok/s"
            print(f"\r{line}  {left / 60:.0f} min left ", end="", file=sys.stderr)
            if metrics["step"] == self._steps:
                print(file=sys.stderr)

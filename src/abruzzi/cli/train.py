"""`abruzzi train RECIPE`: a run by name, stopped cleanly, resumed exactly."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.exit_codes import INTERRUPTED, LIMIT, OK
from abruzzi.cli.show import cores

if TYPE_CHECKING:
    from abruzzi.model import K2Model
    from abruzzi.recipes import Prepared
    from abruzzi.train.loop import RunConfig, Trainer

HELP = """Train a model by a recipe. Ctrl-C, SIGTERM and --time-limit stop it cleanly; --resume goes on exactly there.

DIR holds the state, the settings (run.json), metrics.jsonl, the ledger of what was spent (ledger.json), a page with
the curves (loss.html) and, when the last step is done, checkpoint/, which `abruzzi run --model` takes. Several
processes: torchrun --nproc-per-node 2 -m abruzzi.cli.main train RECIPE --threads 1 ...; a clean stop is status 0
there, and 3 otherwise.

Recipes: nano_cpu (a small model from nothing; hours on two cores), smoke (a minute), mini_h200 (the larger one that
ships with abruzzi; minutes on one H200), sft (fine-tune a checkpoint on your own conversations: OpenAI-shaped JSON
lines, tools included).

Examples: abruzzi train smoke --out runs/smoke

abruzzi train sft --data mine.jsonl --from nano --show 2

abruzzi train sft --data mine.jsonl --from nano --out runs/mine
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", help=HELP)(train)


@dataclass(slots=True)
class Job:
    """A prepared run and how its checkpoint is written. notes: what run.json says beside the
    settings."""

    prepared: Prepared
    model: K2Model | None = None
    int4: bool = True
    dtype: str = "bfloat16"
    notes: dict[str, Any] = field(default_factory=dict)


def train(
    recipe: str = typer.Argument(..., metavar="RECIPE", help="nano_cpu, smoke, mini_h200 or sft."),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Change the run, e.g. lr_muon=0.005."),
    out: Path = typer.Option(None, "--out", metavar="DIR", help="Where the run lives; default runs/RECIPE."),
    time_limit: str = typer.Option(None, "--time-limit", help="Stop cleanly after so long: 30s, 10m, 2h."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in DIR."),
    threads: int = typer.Option(0, "--threads", min=0, help="torch threads per process; 0 = all cores."),
    device: str = typer.Option(None, "--device", metavar="cpu|cuda", help="Default: the recipe's."),
    peak_tflops: str = typer.Option(
        None, "--peak-tflops", metavar="X", help="What one process's device can do: model FLOP utilisation; or measure."
    ),
    usd_per_hour: float = typer.Option(None, "--usd-per-hour", min=0, help="Of one core or GPU, for the ledger."),
    data: Path = typer.Option(None, "--data", metavar="FILE", help="sft: conversations, one JSON object per line."),
    source: str = typer.Option(None, "--from", metavar="MODEL", help="sft: the checkpoint to begin with."),
    show: int = typer.Option(0, "--show", min=0, metavar="N", help="sft: print N conversations with what is trained."),
) -> int:
    seconds = None if time_limit is None else parse_duration(time_limit)
    try:
        import torch
    except ImportError as error:
        raise ValueError("training needs torch; hint: pip install 'abruzzi[train]'") from error
    from abruzzi.cli import sft

    if recipe != "sft" and (data is not None or source is not None or show):
        raise ValueError(f"--data, --from and --show go with recipe sft, not with {recipe!r}")
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device={device!r} is out of range; expected cpu or cuda")
    if show:
        given = sft.material(data, source, sft.number_in(settings, "row_length"))
        sft.show(given, show, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
        return OK
    torch.set_num_threads(threads or cores())
    if "RANK" in os.environ:  # set by torchrun
        join_processes()
    first = int(os.environ.get("RANK", "0")) == 0
    out = out or Path("runs") / recipe
    _check_place(out, resume)
    job = _job(recipe, out, settings, data, source, resume)
    try:
        config = _settled(job.prepared.config, settings, device)
        from abruzzi.train.loop import Trainer

        trainer = Trainer(config, job.prepared.shard_of, out, job.model, _peak(peak_tflops, config))
        if resume:
            trainer.resume()
        report = _Report(trainer, recipe, out, usd_per_hour) if first else None
        if report is not None:
            _write_settings(out, recipe, config, job.notes)
        finished = trainer.train(seconds, report)
        if report is not None:
            report.close()
            if finished:
                files = {**job.prepared.chat_files, "README.md": report.card(job.notes)}
                trainer.export(out / "checkpoint", files, int4=job.int4, dtype=job.dtype)
    finally:
        job.prepared.close()
    if report is not None:
        checkpoint = str(out / "checkpoint") if finished else None
        print(json.dumps(report.summary(finished) | {"out": str(out), "checkpoint": checkpoint}))
    # torchrun takes every status but 0 for a crash and would print one; "finished" says what it
    # was.
    if trainer.interrupted and not finished and "RANK" not in os.environ:
        return INTERRUPTED
    return OK if finished or "RANK" in os.environ else LIMIT


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


def join_processes() -> None:
    """Become one of torchrun's processes: NCCL between GPUs, gloo between CPUs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        torch.distributed.init_process_group("gloo")


def _job(recipe: str, out: Path, settings: list[str], data: Path | None, source: str | None, resume: bool) -> Job:
    from abruzzi import model, recipes

    if recipe != "sft":
        if recipe in recipes.names():  # an unknown one leaves no directory behind
            out.mkdir(parents=True, exist_ok=True)
        return Job(recipes.prepare(recipe, out))
    from abruzzi.cli import sft

    given = sft.material(data, source, sft.number_in(settings, "row_length"))
    notes = given.notes()
    if resume and (out / "run.json").exists():
        sft.check_same(json.loads((out / "run.json").read_text(encoding="utf-8")), notes, out)
    prepared = sft.prepare(given, settings)
    out.mkdir(parents=True, exist_ok=True)
    return Job(prepared, model.load(given.source), given.config.int4 is not None, given.dtype, notes)


def _settled(config: RunConfig, settings: list[str], device: str | None) -> RunConfig:
    from abruzzi import recipes
    from abruzzi.train.run_config import on_device

    return recipes.override(config if device is None else on_device(config, device), settings)


def _peak(text: str | None, config: RunConfig) -> float | None:
    """FLOP per second of one process's device: given, measured, or not known."""
    if text is None:
        return None
    if text == "measure":
        import torch

        from abruzzi.train.meter import measured_peak

        return measured_peak(config.device, torch.bfloat16 if config.autocast else torch.float32)
    try:
        peak = float(text) * 1e12
    except ValueError:
        peak = 0.0
    if not 0 < peak < float("inf"):
        raise ValueError(f"--peak-tflops {text!r}; expected TFLOP/s of one device, for instance 989, or measure")
    return peak


def _check_place(out: Path, resume: bool) -> None:
    there = (out / "state.pt").exists()
    if there and not resume:
        raise ValueError(f"{out} holds a run already; hint: --resume goes on with it, --out DIR starts another")
    if resume and not there:
        raise ValueError(f"{out} holds no run to resume; hint: leave --resume out to start one")


def _write_settings(out: Path, recipe: str, config: RunConfig, notes: Mapping[str, Any]) -> None:
    """The resolved settings, beside the run."""
    resolved = {**asdict(config), "model": config.model.to_dict()}
    text = json.dumps({"recipe": recipe, **notes, "config": resolved}, indent=1, ensure_ascii=False)
    (out / "run.json").write_text(text + "\n", encoding="utf-8")


class _Report:
    """Every logged step: into metrics.jsonl and the ledger, and as one line on a terminal."""

    def __init__(self, trainer: Trainer, recipe: str, out: Path, usd_per_hour: float | None) -> None:
        from abruzzi.cost.ledger import Ledger, Recorder
        from abruzzi.train.loop import append_metrics

        self._trainer, self._recipe, self._out = trainer, recipe, out
        self._write = append_metrics(out / "metrics.jsonl")
        self._start = (trainer.tokens, trainer.flop)
        self._last: dict[str, Any] = {}
        self.ledger = Ledger.load(out / "ledger.json")
        self._recorder = Recorder(self.ledger, what=f"train {recipe}", **_hardware(trainer, usd_per_hour))

    def __call__(self, metrics: dict[str, Any]) -> None:
        self._record()
        metrics["cost_usd"] = round(self.ledger.usd, 6)
        self._write(metrics)
        self._last = metrics
        if sys.stderr.isatty():
            print("\r" + _line(metrics, self._trainer.config.steps), end="", file=sys.stderr, flush=True)

    def _record(self) -> None:
        self._recorder.update(self._trainer.tokens - self._start[0], self._trainer.flop - self._start[1])
        self.ledger.save(self._out / "ledger.json")

    def close(self) -> None:
        """The last numbers, and the page with the curves."""
        from abruzzi.train.plot import write_plot

        self._record()
        if self._last and sys.stderr.isatty():
            print(file=sys.stderr)
        write_plot(self._out / "metrics.jsonl", self._out / "loss.html", f"abruzzi train {self._recipe}")

    def summary(self, finished: bool) -> dict[str, Any]:
        """One object for stdout."""
        numbers = {k: self._last[k] for k in ("step", "tokens", "loss", "tok_s", "cost_usd") if k in self._last}
        return {"recipe": self._recipe, "finished": finished, **numbers}

    def card(self, notes: Mapping[str, Any]) -> str:
        """README.md of the checkpoint: where it comes from and what it cost."""
        origin = f", from `{Path(notes['from']).name}` and `{Path(notes['data']).name}`" if notes else ""
        loss = f"Final loss {self._last['loss']:.4f} at step {self._trainer.step}.\n\n" if self._last else ""
        return (
            f"# Trained by `abruzzi train {self._recipe}`{origin}\n\n{loss}## What it took\n\n{self.ledger.to_text()}\n"
        )


def _hardware(trainer: Trainer, usd_per_hour: float | None) -> dict[str, Any]:
    """What the ledger says of the machine: its name, how many units of it this run holds, at what
    price."""
    import time

    import torch

    from abruzzi.cost.energy import meter
    from abruzzi.cost.prices import HourPrice, hour_price

    if trainer.config.device == "cuda":
        unit, units, name = "gpu", trainer.processes, torch.cuda.get_device_name()
    else:
        held = torch.get_num_threads() * trainer.processes
        unit, units, name = "core", min(held, cores()), _processor()
    if usd_per_hour is not None:
        price = HourPrice(unit, usd_per_hour, "given by --usd-per-hour", time.strftime("%Y-%m-%d"))
    elif unit == "core":
        price = hour_price("core")
    else:
        # "NVIDIA H200" -> h200; another GPU has no stated price, and none is guessed.
        words = name.lower().replace("-", " ").split()
        price = hour_price(next((w for w in words if w in ("h100", "h200", "h800")), name))
    return {"hardware": name, "unit": unit, "units": units, "price": price, "meter": meter(unit, units)}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if names:
        return names[0]
    import platform

    return platform.processor() or platform.machine()


def _line(metrics: Mapping[str, Any], steps: int) -> str:
    """bar, loss, rate, utilisation, time left, money so far."""
    done = round(20 * metrics["step"] / steps)
    minutes = metrics["eta_s"] / 60
    left = f"{minutes:.0f} min left" if minutes >= 2 else f"{metrics['eta_s']:.0f} s left"
    mfu = f"  MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    return (
        f"[{'#' * done}{'.' * (20 - done)}] {metrics['step']}/{steps}  loss {metrics['loss']:.3f}  "
        f"{metrics['tok_s']:.0f} tok/s{mfu}  {left}  ${metrics['cost_usd']:.4f} "
    )

"""`abruzzi`: the command line's entry point. Each command imports its rooms only when it runs.

The exit codes are in exit_codes.py. A person's mistake (ValueError, OSError) is one line on stderr
with a hint, never a traceback; ABRUZZI_DEBUG=1 shows one.
"""

from __future__ import annotations

import os
import sys

from abruzzi.cli import interrupts  # first: from here on Ctrl-C ends with 130

# isort: split
import typer

from abruzzi import __version__
from abruzzi.cli import streams
from abruzzi.cli.exit_codes import ERROR, INTERRUPTED, OK

# What a package that is not installed belongs to.
EXTRAS = {
    **dict.fromkeys(("starlette", "uvicorn", "tomlkit", "ruamel"), "serve"),
    "torch": "train",
    "reasoning_gym": "tasks",
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A reasoning agent that you own: run, act, train and measure models of Kimi K2's architecture.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"abruzzi {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The options before a command's name."""


def main() -> None:
    """The console script. Turns errors into one line and an exit code."""
    try:
        code = _run()
        interrupts.leave_at_once()
    except KeyboardInterrupt:  # once more, while the first was dealt with
        code = INTERRUPTED
    sys.exit(INTERRUPTED if interrupts.seen() else code)


def _run() -> int:
    try:
        streams.occupy()
        _register(app)
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): not an error, but nothing more may be
        # written.
        code = OK
    except Exception as error:
        code = INTERRUPTED if interrupts.seen() else _explain(error)
    streams.give_up_stdout()
    return code if isinstance(code, int) else OK


def _register(app: typer.Typer) -> None:
    """Add every command, in the order of `--help`."""
    from abruzzi.cli import bench, connect, cost, fit, hub, quantize, run, serve, show, tasks, train, verify

    for group in (run, hub, cost, fit, bench, quantize, show, tasks, train, serve, connect, verify):
        group.register(app)


def _explain(error: Exception) -> int:
    if os.environ.get("ABRUZZI_DEBUG") == "1":
        raise error
    # typer may carry a click of its own, so its exceptions are known by what they can do.
    show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is not None and isinstance(exit_code, int):
        show()
        return exit_code
    if isinstance(exit_code, int):
        return exit_code
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    text = " ".join(str(error).split()) or type(error).__name__
    extra = EXTRAS.get((error.name or "").partition(".")[0]) if isinstance(error, ImportError) else None
    if extra:
        text = f"this needs {getattr(error, 'name', '')}, which is not installed; hint: pip install 'abruzzi[{extra}]'"
    elif not isinstance(error, (ValueError, OSError)):
        text = f"unexpected {type(error).__name__}: {text}; hint: ABRUZZI_DEBUG=1 shows where"
    print(f"abruzzi: {text}", file=sys.stderr)
    return ERROR


if __name__ == "__main__":  # torchrun -m abruzzi.cli.main
    main()

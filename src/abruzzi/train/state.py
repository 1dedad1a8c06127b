"""Training state for an exact resume: written whole or not at all, the save before the last one
kept.

`state.pt` in the run's directory: weights, optimizer, random numbers, position in the data. It lies
beside the checkpoints, never inside one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"
PREVIOUS = "state.previous.pt"  # the save before the last


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Replace `out`/state.pt. At every moment a whole one is there, whatever is killed or runs
    full.

    Raises OSError when it cannot be written; what was there before stays."""
    out.mkdir(parents=True, exist_ok=True)
    temporary, path, previous = (out / name for name in (STATE + ".tmp", STATE, PREVIOUS))
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer hides a full disk in a RuntimeError
        temporary.unlink(missing_ok=True)
        kept = f"the state saved before is kept in {path}" if path.exists() else "nothing was saved before"
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            f"{path} cannot be written at step {state['step']} ({type(error).__name__}: {reason}); {kept}; "
            "hint: make room on the disk, then go on with --resume"
        ) from error
    if path.exists():  # a second name for the old state, so that at every moment a whole one is there
        previous.unlink(missing_ok=True)
        os.link(path, previous)
    temporary.replace(path)
    _flush(out)


def read_state(out: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """What `write_state` wrote, on the CPU; None when there is nothing.

    shapes: of the model's tensors by name. Raises ValueError for a damaged state, naming the one
    before it, and for one of another model."""
    path, older = out / STATE, out / PREVIOUS
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        hint = f"rename {older} to {path.name} to go on from the save before it" if older.exists() else "start anew"
        raise ValueError(f"{path} is damaged ({type(error).__name__}); hint: {hint}") from error
    found = {n: tuple(t.shape) for n, t in state["model"].items()}
    if found != shapes:
        name = next(n for n in (*shapes, *found) if found.get(n) != shapes.get(n))
        raise ValueError(
            f"{path} holds another model: {name} is {found.get(name)} there and {shapes.get(name)} here; "
            "hint: use the settings that the run was started with"
        )
    return state


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

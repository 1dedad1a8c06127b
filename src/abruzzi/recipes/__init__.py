"""Training runs by name: data, tokenizer, model and schedule of each, in one readable file.

A recipe prepares everything that `train.loop.Trainer` needs; `abruzzi train NAME` runs it. What a
user changes with --set goes through `override`, which refuses what it does not know.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from abruzzi.train.loop import RunConfig, ShardOf

_MODULES = {"nano_cpu": "nano", "smoke": "smoke", "mini_h200": "mini_h200", "sft": "sft"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can start. chat_files: what lies beside the weights of its checkpoint. close: ends
    helpers."""

    config: RunConfig
    shard_of: ShardOf
    chat_files: Mapping[str, str | bytes]
    close: Callable[[], None]


def names() -> dict[str, str]:
    """Every recipe with its description."""
    return {name: " ".join((_module(name).__doc__ or "").split("\n\n")[0].split()) for name in _MODULES}


def prepare(name: str, out: Path) -> Prepared:
    """The run called `name`, with its files in `out`. Raises ValueError that names the nearest
    recipe."""
    if name not in _MODULES:
        raise ValueError(f"recipe {name!r} is unknown{nearest(name, _MODULES)}; expected one of {', '.join(_MODULES)}")
    return _module(name).prepare(out)


def override(config: RunConfig, settings: Iterable[str]) -> RunConfig:
    """Apply "lr_muon=0.01" or "model.hidden_size=256" to a run. Raises ValueError that names what
    is wrong."""
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ValueError(f"--set {setting!r}; expected KEY=VALUE, for instance lr_muon=0.005")
        config = _replaced(config, path.split("."), text, path)
    return config


def nearest(given: str, known: Iterable[str]) -> str:
    """ "; did you mean x?" or nothing."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _module(name: str) -> Any:
    return import_module(f"abruzzi.recipes.{_MODULES[name]}")


def _replaced(target: Any, path: list[str], text: str, whole: str) -> Any:
    known = {f.name for f in dataclasses.fields(target)}
    key, *deeper = path
    if key not in known:
        raise ValueError(
            f"--set {whole}: {key!r} is unknown{nearest(key, known)}; expected one of {', '.join(sorted(known))}"
        )
    old = getattr(target, key)
    if dataclasses.is_dataclass(old) != bool(deeper):
        raise ValueError(f"--set {whole}: {key!r} is {'a group, name a key in it' if not deeper else 'no group'}")
    new = _replaced(old, deeper, text, whole) if deeper else _parsed(text, get_type_hints(type(target))[key], whole)
    return dataclasses.replace(target, **{key: new})


def _parsed(text: str, kind: Any, whole: str) -> Any:
    """JSON of the field's own type; an int may stand for a float."""
    wanted = kind if isinstance(kind, type) else getattr(kind, "__args__", (object,))
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    takes_float = wanted is float or (isinstance(wanted, tuple) and float in wanted and int not in wanted)
    if isinstance(value, int) and not isinstance(value, bool) and takes_float:
        value = float(value)
    right = isinstance(value, wanted) and (not isinstance(value, bool) or wanted is bool)
    if not right:
        raise ValueError(
            f"--set {whole}={text}: expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}"
        )
    return value

"""`abruzzi show MODEL`, `abruzzi doctor`: a summary of this checkpoint, of this machine."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from abruzzi import __version__
from abruzzi.cli.exit_codes import ERROR, OK

if TYPE_CHECKING:
    from abruzzi.arch import ModelConfig
    from abruzzi.checkpoint import Checkpoint

SHOW_HELP = """What a checkpoint is: shape, parameters, storage, tokenizer. Reads headers, not weights.

Example: abruzzi show nano
"""
DOCTOR_HELP = """What this machine is and whether abruzzi works on it.

Example: abruzzi doctor --json
"""
AS_JSON = typer.Option(False, "--json", help="One JSON object on stdout.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("show", help=SHOW_HELP)(show)
    app.command("doctor", help=DOCTOR_HELP)(doctor)


def show(model: str = typer.Argument("nano", help="`nano` or a checkpoint directory."), as_json: bool = AS_JSON) -> int:
    from abruzzi.checkpoint import open_checkpoint
    from abruzzi.cli.choose import checkpoint_path
    from abruzzi.cost.capacity import cache_bytes_per_token
    from abruzzi.engine.vocabulary import tokenizer_of

    path = checkpoint_path(model)
    with open_checkpoint(path) as checkpoint:
        c = checkpoint.config
        tok = tokenizer_of(path)
        facts = {
            "model": model,
            "model_type": c.model_type,
            **_parameters(c),
            "layers": c.num_hidden_layers,
            "hidden_size": c.hidden_size,
            "experts": f"{c.n_routed_experts} routed, {c.num_experts_per_tok} per token, {c.n_shared_experts} shared"
            if c.n_routed_experts
            else "none",
            "attention": c.attention_text,
            "context": c.max_position_embeddings,
            "vocab_size": c.vocab_size,
            "tokenizer_ids": tok.vocab_size,
            "chat_format": tok.format.title if not tok.format.missing(tok.control) else "none that is known",
            **(
                {"routed_experts_stored_as": "INT4, group 32" if c.int4 else "unquantized"}
                if c.n_routed_experts
                else {}
            ),
            "stored_as": _stored_as(checkpoint),
            "bytes": sum(Path(f).stat().st_size for f in checkpoint.files),
            "kv_bytes_per_token": cache_bytes_per_token(c),
        }
    _print(facts, as_json)
    return OK


def doctor(as_json: bool = AS_JSON) -> int:
    facts: dict[str, Any] = {
        "abruzzi": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gb": _memory_gb(),
    }
    problems = []
    try:
        from abruzzi import kernels

        facts["isa"], facts["isa_supported"] = kernels.isa(), list(kernels.supported_isas())
    except (ImportError, ValueError) as error:
        problems.append(f"kernels: {error}")
    import importlib.util

    facts["torch"] = importlib.util.find_spec("torch") is not None
    facts["problems"] = problems
    _print(facts, as_json)
    return ERROR if problems else OK


def _stored_as(checkpoint: Checkpoint) -> str:
    """The formats of its matrices, those with the most weights first."""
    weights: Counter[str] = Counter()
    for name in checkpoint.names():
        if len(checkpoint.shape(name)) == 2:
            weights[checkpoint.stored_dtype(name)] += checkpoint.tensor(name).size
    return ", ".join(f"{dtype} ({share / weights.total():.0%})" for dtype, share in weights.most_common())


def _parameters(c: ModelConfig) -> dict[str, int]:
    from abruzzi.cost.parameters import parameters

    counted = parameters(c)
    return {"parameters": counted.total, "active_parameters": counted.active}


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        print(f"{key:<{width}}  {shown if shown != [] else 'none'}")


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may use; macOS knows no affinity."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    import os

    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)

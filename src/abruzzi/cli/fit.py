"""`abruzzi fit MODEL`: will it run here, and how fast, before anything is loaded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from abruzzi.cli.main import OK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abruzzi.config import ModelConfig
    from abruzzi.cost.capacity import Capacity, Stored

HELP = """Will a checkpoint run on this machine: memory of its weights and cache, and how fast it could answer.

Reads config.json and the headers of the weights, no more; a directory that holds only config.json is enough.
decode_tok_s_estimate is the bytes that a token reads, divided by the memory bandwidth, which is measured on
the spot in about a second. Small models stay below it, because calls take time as well.

Example: abruzzi fit moonshotai/Moonlight-16B-A3B-Instruct --context 8192
"""
USUAL_CONTEXT = 4096
PROBE_BYTES = 256 << 20  # larger than any cache
PROBE_SECONDS = 0.7


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit", help=HELP)(fit)


def fit(
    model: str = typer.Argument("nano", metavar="MODEL", help="`nano`, a directory, or org/name that was pulled."),
    context: int = typer.Option(None, "--context", min=1, help="Tokens to hold; at most 4096 if not given."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> int:
    from abruzzi.cli.choose import checkpoint_path, is_url
    from abruzzi.config import ModelConfig
    from abruzzi.cost.capacity import available_memory, capacity

    if is_url(model):
        raise ValueError(f"{model} runs elsewhere; expected a model to run here: a directory, org/name or nano")
    path = checkpoint_path(model)
    config = ModelConfig.load(path)
    tensors, source = tensors_of(path, config)
    context = min(USUAL_CONTEXT, config.max_position_embeddings) if context is None else context
    found = capacity(config, tensors, context, available_memory())
    smaller = in_int4(config, tensors)
    size, bandwidth = probe_bandwidth(found.available_bytes)
    facts = {
        "model": model,
        "weights_bytes": found.weights_bytes,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "context": context,
        "max_context": found.max_context,
        # Weights that do not fit would come from the disk: no rate of the memory says anything about that.
        "decode_tok_s_estimate": bandwidth / found.bytes_per_token if found.weights_fit else None,
        "fits": found.fits,
        "needed_bytes": found.needed_bytes,
        "available_bytes": found.available_bytes,
        "bytes_per_token": found.bytes_per_token,
        "bandwidth_gb_s": bandwidth / 1e9,
        "method": "bytes_per_token / bandwidth; bandwidth: the fastest float32 matrix-vector product over "
        f"{size >> 20} MiB in {PROBE_SECONDS} s",
        "weights_from": source,
        "weights_bytes_in_int4": None if smaller is None else capacity(config, smaller, context, 0).weights_bytes,
    }
    print(json.dumps(facts) if as_json else "\n".join(_lines(model, found, facts)))
    return OK


def tensors_of(path: Path, config: ModelConfig) -> tuple[list[Stored], str]:
    """Every tensor as it is stored, and where that is known from: headers, or config.json where there are no weights.

    Raises what opening a checkpoint raises."""
    from abruzzi.checkpoint import open_checkpoint
    from abruzzi.checkpoint.layout import expected_tensors
    from abruzzi.cost.capacity import Stored

    if not any(path.glob("*.safetensors*")):
        planned = expected_tensors(config).items()
        return [Stored(n, t.shape, "int4" if t.int4 else "bfloat16") for n, t in planned], "config.json alone"
    with open_checkpoint(path) as checkpoint:
        names = checkpoint.names()
        return [Stored(n, checkpoint.shape(n), checkpoint.stored_dtype(n)) for n in names], "the headers of its files"


def in_int4(config: ModelConfig, tensors: list[Stored]) -> list[Stored] | None:
    """What `abruzzi quantize` would make of an unquantized checkpoint; None for one that is quantized, or cannot be."""
    from dataclasses import replace

    from abruzzi.checkpoint.layout import expected_tensors
    from abruzzi.config import Int4Scheme

    scheme = Int4Scheme()
    if (
        config.int4 is not None
        or config.hidden_size % scheme.group_size
        or config.moe_intermediate_size % scheme.group_size
    ):
        return None
    planned = expected_tensors(config.with_int4(scheme))
    return [replace(t, dtype="int4") if planned[t.name].int4 else t for t in tensors]


def probe_bandwidth(available: int) -> tuple[int, float]:
    """Bytes of the matrix that was read, and bytes per second: the fastest of the float32 matrix-vector products of
    PROBE_SECONDS, on as many threads as NumPy uses. Takes about a second, and an eighth of the available memory at
    most. The fastest, because whatever else runs at the moment can only slow one down."""
    import numpy as np

    width = 8192
    rows = max(1, min(PROBE_BYTES, available // 8) // (4 * width))
    matrix, vector = np.ones((rows, width), np.float32), np.ones(width, np.float32)
    seconds: list[float] = []
    end = time.perf_counter() + PROBE_SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        np.dot(matrix, vector)
        seconds.append(time.perf_counter() - start)
    return matrix.nbytes, matrix.nbytes / min(seconds)


def _lines(model: str, found: Capacity, facts: dict[str, object]) -> Iterator[str]:
    verdict = "fits" if found.fits else "does not fit"
    cache = found.context * found.kv_bytes_per_token
    yield f"{model} {verdict}, with a context of {found.context:,} tokens"
    yield f"weights  {_size(found.weights_bytes)} in memory (from {facts['weights_from']})"
    yield f"cache    {_size(cache)}, {found.kv_bytes_per_token:,} bytes per token"
    yield f"memory   {_size(found.needed_bytes)} of {_size(found.available_bytes)} that are available"
    if found.weights_fit:
        yield f"context  at most {found.max_context:,} tokens here: the cache gets half of what the weights leave free"
    smaller = facts["weights_bytes_in_int4"]
    if not found.fits and isinstance(smaller, int) and smaller < found.weights_bytes:
        yield f"hint     with routed experts in INT4 (`abruzzi quantize`) the weights take {_size(smaller)}"
    if facts["decode_tok_s_estimate"] is not None:
        yield (
            f"speed    at most {facts['decode_tok_s_estimate']:.3g} tok/s: {_size(found.bytes_per_token)} per token at "
            f"{facts['bandwidth_gb_s']:.1f} GB/s, measured just now"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

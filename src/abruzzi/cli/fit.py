"""`abruzzi fit MODEL`: will it run here, and how fast, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from abruzzi.arch.shapes import SHAPES
from abruzzi.cli.choose import PRECISION, WEIGHTS
from abruzzi.cli.exit_codes import OK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abruzzi.arch import ModelConfig
    from abruzzi.cost.capacity import Capacity, Stored

HELP = """Will a checkpoint run on this machine: memory of its weights and cache, and how fast it could answer.

Reads config.json and the headers of the weights, no more; a directory that holds only config.json is enough.
The names of shapes are those of `abruzzi bench`. The speed is that of a part of the model with random
weights, timed on the spot in some seconds: what one sequence decodes per second at its beginning, and with
--context tokens behind it.

Example: abruzzi fit moonshotai/Moonlight-16B-A3B-Instruct --context 8192
"""
NAMED = tuple(SHAPES)
USUAL_CONTEXT = 4096
METHOD = "decode steps timed on random weights: of the whole model up to 768 MiB, of some layers of a larger one"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit", help=HELP)(fit)


def fit(
    model: str = typer.Argument(
        "nano",
        metavar="MODEL",
        help=f"nano, {', '.join(SHAPES)}, a GGUF file, a directory, or org/name that was pulled.",
    ),
    context: int = typer.Option(None, "--context", min=1, help="Tokens to hold; at most 4096 if not given."),
    weights: str = WEIGHTS,
    precision: str = PRECISION,
    threads: int = typer.Option(None, "--threads", min=1, help="Default: ABRUZZI_THREADS, or every core."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> int:
    from abruzzi import kernels
    from abruzzi.arch import Int4Scheme
    from abruzzi.checkpoint import load_config
    from abruzzi.cli.choose import checkpoint_path, is_url
    from abruzzi.cost.capacity import available_memory, capacity
    from abruzzi.engine.weights.packing import check_modes
    from abruzzi.engine.weights.random_model import named_shape

    check_modes(weights, precision)
    if is_url(model):
        raise ValueError(f"{model} runs elsewhere; expected a model to run here: a directory, org/name or nano")
    if model in NAMED:
        config = named_shape(model).with_int4(Int4Scheme())
        tensors, source = planned(config), "its shape"
    else:
        path = checkpoint_path(model)
        config = load_config(path)
        tensors, source = tensors_of(path, config)
    if precision == "fast" and weights == "native" and config.int4 is None:
        raise ValueError(
            f"--precision fast has nothing to be fast with: {model} is unquantized; hint: --weights "
            "all-4-bit or int8-dense, or `abruzzi quantize`"
        )
    context = min(USUAL_CONTEXT, config.max_position_embeddings) if context is None else context
    threads = kernels.threads() if threads is None else threads
    found = capacity(config, tensors, context, available_memory(), weights)
    smaller = in_int4(config, tensors)
    # Weights that do not fit would come from the disk: no rate of the memory says anything about
    # that.
    fast = seconds(config, tensors, found, weights, precision, threads) if found.weights_fit else None
    facts = {
        "model": model,
        "weights": weights,
        "precision": precision,
        "threads": threads,
        "weights_bytes": found.weights_bytes,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "context": context,
        "max_context": found.max_context,
        "decode_tok_s_estimate": None if fast is None else 1 / fast[0],
        "decode_tok_s_at_context": None if fast is None else 1 / fast[1],
        "fits": found.fits,
        "needed_bytes": found.needed_bytes,
        "available_bytes": found.available_bytes,
        "bytes_per_token": found.bytes_per_token,
        "method": METHOD,
        "weights_from": source,
        "weights_bytes_in_int4": None
        if smaller is None
        else capacity(config, smaller, context, 0, weights).weights_bytes,
    }
    print(json.dumps(facts) if as_json else "\n".join(_lines(model, found, facts)))
    return OK


def tensors_of(path: Path, config: ModelConfig) -> tuple[list[Stored], str]:
    """Every tensor as it is stored, and where that is known from: headers, or config.json where
    there are no weights.

    Raises what opening a checkpoint raises."""
    from abruzzi.checkpoint import open_checkpoint
    from abruzzi.cost.capacity import Stored

    if path.is_dir() and not any(path.glob("*.safetensors*")):
        return planned(config), "config.json alone"
    with open_checkpoint(path) as checkpoint:
        names = checkpoint.names()
        stored = [Stored(checkpoint.tensor(n), checkpoint.stored_dtype(n)) for n in names]
        return _with_tied_head(stored), "the headers of its files"


def planned(config: ModelConfig) -> list[Stored]:
    """The tensors that a checkpoint of this shape would hold, in bfloat16 where not in INT4."""
    from abruzzi.checkpoint.layout import expected_tensors
    from abruzzi.cost.capacity import Stored

    return _with_tied_head(
        [Stored(t.tensor, "int4" if t.int4 else "bfloat16") for t in expected_tensors(config).values()]
    )


def _with_tied_head(tensors: list[Stored]) -> list[Stored]:
    """With the head that the engine makes of the embedding where the two are tied."""
    from dataclasses import replace

    from abruzzi.cost.capacity import Stored

    if any(t.tensor.role == "head" for t in tensors):
        return tensors
    embedding = next(t for t in tensors if t.tensor.role == "embedding")
    return [*tensors, Stored(replace(embedding.tensor, role="head", part="head"), embedding.dtype)]


def in_int4(config: ModelConfig, tensors: list[Stored]) -> list[Stored] | None:
    """What `abruzzi quantize` would make of an unquantized checkpoint; None for one that is
    quantized, or cannot be."""
    from dataclasses import replace

    from abruzzi.arch import Int4Scheme

    scheme = Int4Scheme()
    if (
        config.int4 is not None
        or not config.n_routed_experts
        or config.hidden_size % scheme.group_size
        or config.moe_intermediate_size % scheme.group_size
    ):
        return None
    quantized = planned(config.with_int4(scheme))
    return [replace(t, dtype="int4") if q.dtype == "int4" else t for t, q in zip(tensors, quantized, strict=True)]


def seconds(
    config: ModelConfig, tensors: list[Stored], found: Capacity, weights: str, precision: str, threads: int
) -> list[float]:
    """Of a decode step at the beginning, and at the end of the context. Raises ValueError for
    unknown modes."""
    from abruzzi.arch.modes import held_format
    from abruzzi.engine.measure.estimate import decode_seconds
    from abruzzi.engine.weights.packing import check_modes

    experts = (held_format("routed_experts", t.dtype, weights) for t in tensors if t.tensor.role == "routed_experts")
    return decode_seconds(
        config,
        (0, found.context - 1),
        found.weights_bytes,
        **check_modes(weights, precision),
        threads=threads,
        experts=next(experts, "int4"),
    )


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
            f"speed    {facts['decode_tok_s_estimate']:.3g} tok/s at first, {facts['decode_tok_s_at_context']:.3g} "
            f"with the context full ({facts['threads']} threads; a part of the model was timed just now)"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

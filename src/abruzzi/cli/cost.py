"""`abruzzi cost train` and `abruzzi cost serve`: what training and serving cost, before either is
done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.exit_codes import OK

if TYPE_CHECKING:
    from abruzzi.arch import ModelConfig
    from abruzzi.cost.training import TrainingCost

HELP = "What training or serving costs, from formulas that are held against published bills."
TRAIN_HELP = """What a training run would cost: GPU-hours, dollars, kWh.

Without --mfu, the utilisation is the one that DeepSeek-V3's published hours imply; without --usd-per-hour,
the newest price that is known for the GPU. The result is the price of renting the hardware for the final run.

Example: abruzzi cost train --config kimi-k2 --tokens 15.5T
"""
SERVE_HELP = """What serving would cost: tokens per second, dollars and watt-hours per million tokens.

A roofline of a node whose server reaches the given shares of bandwidth and arithmetic; not a measurement.

Example: abruzzi cost serve --config kimi-k2 --gpu h200 --gpus 8 --batch 64 --context 16384
"""
CONFIG = typer.Option(..., "--config", metavar="FILE", help="A config.json, its directory, or deepseek-v3 or kimi-k2.")
AS_JSON = typer.Option(False, "--json", help="One JSON object on stdout.")
USD = typer.Option(None, "--usd-per-hour", min=0.0, help="Dollars per GPU and hour.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP)
    group.command("train", help=TRAIN_HELP)(train)
    group.command("serve", help=SERVE_HELP)(serve)
    app.add_typer(group, name="cost")


def train(
    config: str = CONFIG,
    tokens: str = typer.Option(..., "--tokens", metavar="N", help="Tokens to train on: 300M, 2e9, 15.5T."),
    gpu: str = typer.Option("h800", "--gpu", help="h800, h100 or h200."),
    usd_per_hour: float = USD,
    mfu: float = typer.Option(None, "--mfu", help="FLOP utilisation, a share of the dense BF16 peak: 0.4."),
    context: int = typer.Option(
        None, "--context", min=1, help="Tokens per training sequence; at most 4096 if not given."
    ),
    as_json: bool = AS_JSON,
) -> int:
    from abruzzi.cost import hardware
    from abruzzi.cost.training import training_cost

    on = hardware.gpu(gpu)
    price, price_source = _price(on.name, usd_per_hour)
    count, shape = parse_tokens(tokens), _config(config)
    context = _context(shape, context, usual=4096)
    cost = training_cost(shape, count, on, price, mfu, context)
    assumed = {
        "tokens": count,
        "context": context,
        "mfu_source": "DeepSeek-V3's, from its published hours" if mfu is None else "given",
        "price_source": price_source,
        "watts_per_gpu": hardware.WATTS_PER_GPU,
        "pue": hardware.PUE,
    }
    if as_json:
        print(json.dumps({**asdict(cost), "assumed": assumed}))
    else:
        print("\n".join((*_training_lines(cost, assumed), "", *_training_scale(None if mfu is None else cost.mfu))))
    return OK


def _training_lines(cost: TrainingCost, assumed: dict[str, Any]) -> Iterator[str]:
    yield f"parameters  {_count(cost.params_total)}, of which a token uses {_count(cost.params_active)}"
    yield (
        f"arithmetic  {cost.flop_per_token:.4g} FLOP per token at {assumed['context']:,} tokens of context "
        f"({cost.attention_share:.0%} of it attention), {cost.flop:.4g} in all for {_tokens(assumed['tokens'])}"
    )
    yield (
        f"time        {_hours(cost.gpu_hours)} {cost.gpu.upper()} hours at {cost.mfu:.1%} of the BF16 peak "
        f"({assumed['mfu_source']})"
    )
    yield f"price       ${_money(cost.usd)} at ${cost.usd_per_hour:.2f} an hour ({assumed['price_source']})"
    yield (
        f"energy      {_energy(cost.kwh)}, at {assumed['watts_per_gpu']:.0f} W per GPU with its share of the host, "
        f"times {assumed['pue']} for cooling"
    )


def _training_scale(mfu: float | None) -> Iterator[str]:
    """What the two published runs cost. mfu: the one that was given, to be held against
    DeepSeek-V3's hours."""
    from abruzzi.cost import hardware, published
    from abruzzi.cost.training import k2_by_analogy, training_cost

    yield "This is the rent for the final run: no experiments, failed runs, data or people."
    yield "For scale:"
    v3 = f"  DeepSeek-V3, {_tokens(published.V3_TOKENS)}: {_hours(published.V3_PRETRAINING_HOURS)} H800 hours of "
    v3 += "pre-training, as published"
    if mfu is not None:
        ours = training_cost(published.DEEPSEEK_V3, published.V3_TOKENS, hardware.gpu("h800"), 2.0, mfu).gpu_hours
        v3 += f"; {_hours(ours)} by these formulas at {mfu:.1%}"
    yield v3
    k2 = k2_by_analogy()
    yield (
        f"  Kimi K2, {_tokens(published.K2_TOKENS)}: {_hours(k2.gpu_hours)} H800 hours, ${_money(k2.usd)} at "
        f"${k2.usd_per_hour:.2f}, if trained at DeepSeek-V3's throughput: an estimate by analogy"
    )
    yield "  of its base pre-training alone, not Moonshot's bill, which is not published"


def serve(
    config: str = CONFIG,
    gpu: str = typer.Option("h200", "--gpu", help="h800, h100 or h200."),
    gpus: int = typer.Option(8, "--gpus", min=1, help="How many serve together."),
    usd_per_hour: float = USD,
    batch: int = typer.Option(64, "--batch", min=1, help="Sequences that are decoded at once."),
    context: int = typer.Option(None, "--context", min=1, help="Tokens in each; at most 16384 if not given."),
    weights: str = typer.Option("native", "--weights", help="native (INT4 experts), bf16, int8-dense or all-4-bit."),
    bandwidth_share: float = typer.Option(0.6, "--bandwidth-share", help="Of the memory's peak, in decode."),
    compute_share: float = typer.Option(0.45, "--compute-share", help="Of the BF16 peak, in prefill."),
    overhead_ms: float = typer.Option(6.0, "--overhead-ms", help="Per step: launches, communication."),
    as_json: bool = AS_JSON,
) -> int:
    from abruzzi.cost import hardware
    from abruzzi.cost.prices import token_price
    from abruzzi.cost.serving import Node, serving_cost

    on = hardware.gpu(gpu)
    price, price_source = _price(on.name, usd_per_hour)
    node = Node(on, gpus, price, bandwidth_share, compute_share, overhead_ms / 1000)
    shape = _config(config)
    context = _context(shape, context, usual=16384)
    cost = serving_cost(shape, node, batch, context, weights)
    if as_json:
        assumed = {"gpu": on.name, "gpus": gpus, "usd_per_gpu_hour": price, "price_source": price_source}
        assumed |= {"batch": batch, "context": context, "weights": weights, "bandwidth_share": bandwidth_share}
        assumed |= {"compute_share": compute_share, "overhead_ms": overhead_ms, "watts": node.watts}
        print(json.dumps({**asdict(cost), "assumed": assumed}))
        return OK
    lists = [token_price(name) for name in ("kimi-k2-thinking", "deepseek-chat", "gpt-5.1")]
    lines = (
        f"node     {gpus} x {on.name.upper()}, ${node.usd_per_hour:.2f} an hour (${price:.2f} per GPU: {price_source})",
        f"memory   {cost.weights_bytes / 1e9:.1f} GB of weights ({weights}) and {cost.kv_bytes / 1e9:.1f} GB of cache "
        f"in {cost.memory_bytes / 1e9:.0f} GB; at most {cost.max_batch} sequences of {context:,} tokens",
        f"decode   {cost.tok_s:,.0f} tok/s, {cost.tok_s_per_user:.1f} for each of {batch} sequences, "
        f"bound by {cost.bound}",
        f"         ${cost.usd_per_mtok:.3g} and {cost.wh_per_mtok:,.0f} Wh per million tokens",
        f"prefill  {cost.prefill_tok_s:,.0f} tok/s, ${cost.usd_per_mtok_input:.3g} per million tokens",
        "",
        f"A roofline at {bandwidth_share:.0%} of the bandwidth, {compute_share:.0%} of the arithmetic and "
        f"{overhead_ms:g} ms per step; not a measurement.",
        "For scale, list prices per million tokens, in and out: "
        + "; ".join(f"{p.model} ${p.input:g} and ${p.output:g} ({p.date})" for p in lists),
    )
    print("\n".join(lines))
    return OK


def parse_tokens(text: str) -> float:
    """A count of tokens: "1000", "2e9", "300M", "14.8T". Raises ValueError."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    try:
        count = float(text if factor == 1.0 else text[:-1]) * factor
    except ValueError:
        count = -1.0
    if not 0 < count < float("inf"):
        raise ValueError(f"{text!r} is no number of tokens; expected for instance 300M, 2e9 or 15.5T")
    return count


def _config(given: str) -> ModelConfig:
    from abruzzi.arch import ModelConfig
    from abruzzi.cost.published import SHAPES

    if given in SHAPES:
        return SHAPES[given]
    if not Path(given).exists():
        raise FileNotFoundError(
            f"{given} does not exist; hint: --config takes a config.json, its directory, or one of {', '.join(SHAPES)}"
        )
    return ModelConfig.load(given)


def _context(config: ModelConfig, given: int | None, usual: int) -> int:
    """The context that was asked for, or the usual one as far as the model goes."""
    longest = config.max_position_embeddings
    if given is not None and given > longest:
        raise ValueError(f"--context {given} is more than the model's max_position_embeddings of {longest}")
    return min(usual, longest) if given is None else given


def _price(unit: str, given: float | None) -> tuple[float, str]:
    from abruzzi.cost.prices import hour_price

    if given is not None:
        return given, "given"
    stated = hour_price(unit)
    return stated.usd, f"{stated.source}, {stated.date}"


def _count(number: float) -> str:
    """1026.4 B, 3.2 M: parameters are counted in billions, however many."""
    for letter, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number:,.0f}"


def _tokens(number: float) -> str:
    return f"{number / 1e12:.1f} T tokens" if number >= 1e12 else f"{_count(number)} tokens"


def _hours(hours: float) -> str:
    return f"{hours / 1000:,.0f} thousand" if hours >= 100_000 else f"{hours:,.1f}"


def _money(usd: float) -> str:
    return f"{usd / 1e6:,.2f} M" if usd >= 1e6 else f"{usd:,.2f}"


def _energy(kwh: float) -> str:
    return f"{kwh / 1e6:.2f} GWh" if kwh >= 1e6 else f"{kwh:,.3g} kWh" if kwh < 1000 else f"{kwh:,.0f} kWh"

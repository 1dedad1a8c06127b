"""Training cost, before the run: FLOP, GPU-hours, dollars, kWh.

    GPU-hours = FLOP per token x tokens / (peak x utilisation x 3600)

It is the price of renting the hardware for the final run ("final-run rental-equivalent"), and no
more: experiments, failed runs, data and people are not in it. The utilisation decides everything,
so it is always stated; where none is given it is the one that DeepSeek-V3's published hours imply.
"""

from __future__ import annotations

from dataclasses import dataclass

from abruzzi.arch import ModelConfig
from abruzzi.cost import flops, published
from abruzzi.cost.hardware import PUE, WATTS_PER_GPU, Gpu, gpu
from abruzzi.cost.parameters import parameters


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """mfu: FLOP that the model needs per second, as a share of the dense BF16 peak. kwh: with
    cooling."""

    params_total: int
    params_active: int
    flop_per_token: float
    attention_share: float
    flop: float
    gpu: str
    mfu: float
    gpu_hours: float
    usd_per_hour: float
    usd: float
    kwh: float


def training_cost(
    config: ModelConfig,
    tokens: float,
    on: Gpu,
    usd_per_hour: float,
    mfu: float | None = None,
    context: int = published.PRETRAINING_CONTEXT,
) -> TrainingCost:
    """One run over `tokens` in sequences of `context`. mfu None: DeepSeek-V3's.

    Raises ValueError for numbers that cannot be."""
    mfu = v3_mfu() if mfu is None else mfu
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu={mfu}; expected a share of the peak, above 0 and up to 1; hint: 0.4 is 40 %")
    if not 0 < tokens < float("inf"):
        raise ValueError(f"tokens={tokens}; expected a number above 0")
    if not 0 <= usd_per_hour < float("inf"):
        raise ValueError(f"usd_per_hour={usd_per_hour}; expected a number, 0 or more")
    size, per_token = parameters(config), flops.training(config, context)
    flop = per_token.total * tokens
    hours = flop / (on.bf16_flop_s * mfu * 3600)
    return TrainingCost(
        params_total=size.total,
        params_active=size.active,
        flop_per_token=per_token.total,
        attention_share=per_token.attention / per_token.total,
        flop=flop,
        gpu=on.name,
        mfu=mfu,
        gpu_hours=hours,
        usd_per_hour=usd_per_hour,
        usd=hours * usd_per_hour,
        kwh=hours * WATTS_PER_GPU * PUE / 1000,
    )


def v3_mfu() -> float:
    """The utilisation that DeepSeek-V3's 2,664 thousand H800 hours of pre-training imply, of the
    BF16 peak (0.39; it computed in FP8, whose peak is twice that). Multi-token prediction is not
    counted as useful."""
    per_token = flops.training(published.DEEPSEEK_V3, published.PRETRAINING_CONTEXT).total
    flop_s = per_token * published.V3_TOKENS / (published.V3_PRETRAINING_HOURS * 3600)
    return flop_s / gpu("h800").bf16_flop_s


def k2_by_analogy(usd_per_hour: float = 2.0) -> TrainingCost:
    """Kimi K2's base pre-training at DeepSeek-V3's throughput: an estimate by analogy, not
    Moonshot's bill.

    About 4.6 million dollars at 2 dollars an hour, the figure that the press reported for K2
    Thinking and that Moonshot did not call official. It cannot contain K2 Thinking's reinforcement
    learning."""
    return training_cost(published.KIMI_K2, published.K2_TOKENS, gpu("h800"), usd_per_hour)

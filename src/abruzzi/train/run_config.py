"""Run configuration, and the schedule of its learning rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from abruzzi.arch import ModelConfig

DEVICES = ("cpu", "cuda")
OPTIMIZERS = ("muonclip", "adamw")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One training run. tokens_per_step = rows_per_step * row_length.

    optimizer: "muonclip", or "adamw" for every parameter (at lr_adamw), which is what MuonClip is
    compared with. lr_muon, lr_adamw: peak learning rates. warmup, decay: steps at the beginning and
    at the end of `steps`; the rate is constant between and falls linearly to a tenth at the end.
    context_weight: what a token that was not sampled but may be a target counts, against 1 of a
    sampled one, in the first `context_steps` steps, and 0 from then on: first learn the language of
    prompts and results as well, then only to answer. qat_steps: so many last steps with routed
    experts rounded to INT4 in the forward pass (train/qat.py). qk_clip_tau: the largest softmax
    input that a head may have before QK-Clip rescales it (K2: 100); None = off. bias_rate: step of
    the router's selection bias (auxiliary-loss-free balance, Moonlight's zero-mean form).
    sequence_loss_alpha: weight of DeepSeek-V3's sequence-wise balance loss (V3: 1e-4), see
    train/balance.py. autocast: products and Newton-Schulz in bfloat16; without instructions for it
    (`fast_bfloat16`) that is several times slower than float32. grad_accum_steps: microbatches that
    a step is computed in, one after the other: less memory, the same step.
    activation_checkpointing: keep only what enters each layer and compute the layer again in the
    backward pass: less memory for about a third more time, the same step. device: "cpu" or
    "cuda"."""

    model: ModelConfig
    steps: int
    rows_per_step: int
    row_length: int
    optimizer: str = "muonclip"
    lr_muon: float = 1e-2
    lr_adamw: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 50
    decay: int = 500
    context_weight: float = 0.0
    context_steps: int = 0
    qat_steps: int = 0
    qk_clip_tau: float | None = None
    bias_rate: float = 1e-3
    sequence_loss_alpha: float = 0.0
    seed: int = 0
    autocast: bool = True
    grad_accum_steps: int = 1
    activation_checkpointing: bool = False
    device: str = "cpu"
    log_every: int = 10
    save_every: int = 200

    def __post_init__(self) -> None:
        """Raises ValueError that names the field, what was given and what was expected."""
        for name in ("steps", "rows_per_step", "row_length", "grad_accum_steps", "log_every", "save_every"):
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("lr_muon", "lr_adamw", "bias_rate", "sequence_loss_alpha"):
            _expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        tau = self.qk_clip_tau
        _expect(tau is None or tau > 0, "qk_clip_tau", tau, "above 0, or null for off; K2 was trained with 100")
        _expect(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, " or ".join(OPTIMIZERS))
        _expect(self.device in DEVICES, "device", self.device, " or ".join(DEVICES))


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; where it does not, torch emulates it, ten
    times slower."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))


def on_device(config: RunConfig, device: str) -> RunConfig:
    """The run on another device than its recipe's, in bfloat16 where that one is fast at it."""
    if device == config.device:
        return config
    return replace(config, device=device, autocast=device == "cuda" or fast_bfloat16())


def rate(config: RunConfig, step: int) -> float:
    """The schedule's factor at `step` (from 0): warm-up, 1, then down to 0.1."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    left = config.steps - step
    return 1.0 if left > config.decay else 0.1 + 0.9 * left / config.decay


def _expect(right: bool, name: str, given: object, expected: str) -> None:
    if not right:
        raise ValueError(f"{name}={given!r} is out of range; expected {expected}")

"""Floating-point operations per token: training, prefill, decode. A multiply-add counts as two.

Counted are the matrix products, which is what utilisation is quoted for; norms, softmax, rotary
embedding and activations are left out (well under 1 %). Letters: S positions that are attended to,
N heads, K nope, P rope and H value dims, R kv_lora_rank.

MLA attends in one of two forms that give the same numbers. *Naive*: keys and values of every cached
position are decompressed from the latent first. *Absorbed*: the up-projection is folded into the
query and into the output, and heads attend to the latent itself: 2 (2R + P) operations per head and
position instead of 2 (K + P + H), 3.4 times as many for K2, but no decompression. Checked against
DeepSeek-V3's figures (tests/unit/cost) and against torch's own counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abruzzi.arch import ModelConfig
from abruzzi.arch.tensors import LINEAR

Form = Literal["naive", "absorbed"]
FORMS: tuple[Form, ...] = ("naive", "absorbed")
_MULTIPLIED = (*LINEAR, "router")


@dataclass(frozen=True, slots=True)
class TokenFlop:
    """FLOP of one token. linear: products with weights; attention: with keys and values."""

    linear: float
    attention: float

    @property
    def total(self) -> float:
        return self.linear + self.attention


def forward_linear(config: ModelConfig, head: bool = True) -> float:
    """FLOP of one token's products with weights, forward. head: with the vocabulary's projection,
    which prefill needs for the last token only."""
    roles = [role for role in _MULTIPLIED if head or role != "head"]
    return 2.0 * sum(t.size * t.active for t in config.tensors() if t.role in roles)


def training(config: ModelConfig, context: int) -> TokenFlop:
    """Forward and backward (three times forward), averaged over sequences of `context` tokens.

    Causal attention: the average token attends to half of the sequence. Without multi-token
    prediction."""
    _check_length("context", context)
    pairs = _per_position(config, "naive") * context / 2
    return TokenFlop(linear=3 * forward_linear(config), attention=3 * pairs)


def prefill(config: ModelConfig, tokens: int, form: Form = "naive") -> TokenFlop:
    """Average per token over a prompt of `tokens`, from an empty cache; the head runs once.

    Both forms have the same products with weights: what the absorbed form saves on decompression it
    spends on folding the up-projection into query and output."""
    _check_length("tokens", tokens)
    head = forward_linear(config) - forward_linear(config, head=False)
    linear = forward_linear(config, head=False) + head / tokens
    return TokenFlop(linear, _per_position(config, form) * (tokens + 1) / 2)


def decode(config: ModelConfig, context: int, form: Form = "absorbed") -> TokenFlop:
    """The token at position `context` (its own included), one sequence, latents of the others
    cached.

    The naive form decompresses all of them again for every token."""
    _check_length("context", context)
    attention = _per_position(config, form) * context
    if form == "naive":
        up = sum(t.size * t.count for t in config.tensors() if t.part == "kv_b")
        attention += 2.0 * up * (context - 1)
    return TokenFlop(forward_linear(config), attention)


def _per_position(config: ModelConfig, form: Form) -> float:
    """Scores and weighted sum for one attended position, all heads and layers."""
    if form not in FORMS:
        raise ValueError(f"form={form!r}; expected one of {', '.join(FORMS)}")
    return 2.0 * config.attention_macs(absorbed=form == "absorbed")


def _check_length(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}; expected 1 or more")

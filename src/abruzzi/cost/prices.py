"""Stated prices, each with its source and date: hours of hardware, and tokens of other people's
models.

Prices change; these are what was asked at the time. Nothing here is fetched. A bill that matters
should be computed with prices given by hand.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HourPrice:
    """Dollars for one hour of one unit: a GPU ("h800") or a core of a CPU ("core")."""

    unit: str
    usd: float
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Dollars per million tokens. id: as an API calls it. cached_input None: no such discount was
    stated."""

    id: str
    model: str
    vendor: str
    input: float
    cached_input: float | None
    output: float
    source: str
    date: str

    def usd(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """What a request costs; cached_tokens are part of prompt_tokens, and cost as much as the
        others where no discount was stated. Raises ValueError for counts that cannot be."""
        if not 0 <= cached_tokens <= prompt_tokens or completion_tokens < 0:
            raise ValueError(
                f"prompt_tokens={prompt_tokens}, cached_tokens={cached_tokens}, completion_tokens={completion_tokens}; "
                "expected 0 <= cached_tokens <= prompt_tokens and completion_tokens >= 0"
            )
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * cached + completion_tokens * self.output) / 1e6


_SEMIANALYSIS = "one-year contract, SemiAnalysis as quoted by techreaderdaily and compux"
HOURS = (
    HourPrice("h800", 2.00, "rental assumed in DeepSeek-V3's report", "2024-12"),
    HourPrice("h100", 1.70, _SEMIANALYSIS, "2025-10"),
    HourPrice("h100", 2.35, _SEMIANALYSIS, "2026-03"),
    HourPrice("h100", 2.95, "median of on-demand offers, aimultiple", "2026-05"),
    HourPrice("h200", 2.50, "lowest of on-demand offers, which went up to 7.00", "2026-11"),
    # An example in the EC2 Auto Scaling guide, itself without a date: 4.08 for the 96 virtual CPUs
    # of a c5.24xlarge.
    HourPrice("core", 0.0425, "AWS's documentation, c5 on demand in N. Virginia", "2026-11"),
)

_MAP_2025, _MAP_2026 = "price map in litellm 1.80.0", "price map in litellm 1.109.1"
_AA = "Artificial Analysis' leaderboard, median of providers"
TOKENS = (
    TokenPrice("kimi-k2-thinking", "Kimi K2 Thinking", "Moonshot AI", 0.60, 0.15, 2.50, "first party", "2025-11"),
    TokenPrice(
        "kimi-k2-thinking-turbo", "Kimi K2 Thinking Turbo", "Moonshot AI", 1.15, 0.15, 8.00, "first party", "2025-11"
    ),
    TokenPrice("kimi-k2.5", "Kimi K2.5 (Reasoning)", "Moonshot AI", 0.60, None, 3.00, _AA, "2026-04-10"),
    TokenPrice("kimi-k2.6", "Kimi K2.6", "Moonshot AI", 0.95, 0.16, 4.00, "first party", "2026-05"),
    TokenPrice("kimi-k2-0905", "Kimi K2 0905", "Moonshot AI", 0.80, None, 2.25, _AA, "2026-04-10"),
    TokenPrice("deepseek-r1", "DeepSeek-R1", "DeepSeek", 0.55, 0.14, 2.19, "DeepSeek, open-infra-index", "2025-03"),
    TokenPrice("deepseek-chat", "DeepSeek chat (V3.x)", "DeepSeek", 0.27, 0.07, 1.10, _MAP_2025, "2025-11"),
    TokenPrice("deepseek-chat", "DeepSeek chat (V3.x)", "DeepSeek", 0.28, 0.028, 0.42, _MAP_2026, "2026-11"),
    TokenPrice("deepseek-reasoner", "DeepSeek reasoner", "DeepSeek", 0.28, 0.028, 0.42, _MAP_2026, "2026-11"),
    TokenPrice("deepseek-v3.2", "DeepSeek V3.2", "DeepSeek", 0.28, 0.028, 0.40, _MAP_2026, "2026-11"),
    TokenPrice(
        "qwen3-235b-a22b-2507", "Qwen3 235B A22B 2507 (Reasoning)", "Alibaba", 0.70, None, 8.40, _AA, "2026-04-10"
    ),
    TokenPrice("qwen3.5-397b-a17b", "Qwen3.5 397B A17B (Reasoning)", "Alibaba", 0.60, None, 3.60, _AA, "2026-04-10"),
    TokenPrice("qwen3.5-9b", "Qwen3.5 9B (Reasoning)", "Alibaba", 0.07, None, 0.175, _AA, "2026-04-10"),
    TokenPrice("qwen3.5-4b", "Qwen3.5 4B (Reasoning)", "Alibaba", 0.03, None, 0.15, _AA, "2026-04-10"),
    TokenPrice("glm-4.6", "GLM-4.6", "Z.ai", 0.60, 0.11, 2.20, _MAP_2026, "2026-11"),
    TokenPrice("minimax-m2", "MiniMax-M2", "MiniMax", 0.30, 0.03, 1.20, _MAP_2026, "2026-11"),
    TokenPrice("gpt-5.1", "GPT-5.1", "OpenAI", 1.25, 0.125, 10.00, _MAP_2026, "2026-11"),
    TokenPrice("gpt-5", "GPT-5", "OpenAI", 1.25, 0.125, 10.00, _MAP_2026, "2026-11"),
    TokenPrice("gpt-5-mini", "GPT-5 mini", "OpenAI", 0.25, 0.025, 2.00, _MAP_2026, "2026-11"),
    TokenPrice("gpt-oss-120b", "gpt-oss-120B (high)", "OpenAI", 0.15, None, 0.60, _AA, "2026-04-10"),
    TokenPrice("gpt-oss-20b", "gpt-oss-20B (high)", "OpenAI", 0.06, None, 0.20, _AA, "2026-04-10"),
    TokenPrice("grok-4", "Grok 4", "xAI", 3.00, None, 15.00, _MAP_2025, "2025-11"),
    TokenPrice("grok-4-fast", "Grok 4 Fast", "xAI", 0.20, 0.05, 0.50, _MAP_2025, "2025-11"),
    TokenPrice("claude-opus-4-5", "Claude Opus 4.5", "Anthropic", 5.00, 0.50, 25.00, _MAP_2026, "2026-11"),
    TokenPrice("claude-sonnet-4-5", "Claude Sonnet 4.5", "Anthropic", 3.00, 0.30, 15.00, _MAP_2026, "2026-11"),
    TokenPrice("claude-haiku-4-5", "Claude Haiku 4.5", "Anthropic", 1.00, 0.10, 5.00, _MAP_2026, "2026-11"),
    TokenPrice("gemini-2.5-pro", "Gemini 2.5 Pro", "Google", 1.25, 0.125, 10.00, _MAP_2026, "2026-11"),
)


def hour_price(unit: str) -> HourPrice:
    """The newest stated price. Raises ValueError that names what has one."""
    known = [p for p in HOURS if p.unit == unit.lower()]
    if not known:
        near = _nearest(unit.lower(), {p.unit for p in HOURS})
        raise ValueError(
            f"no price per hour is stated for {unit!r}; hint: give one (--usd-per-hour), or did you mean {near!r}?"
        )
    return max(known, key=lambda p: p.date)


def token_price(model: str) -> TokenPrice:
    """The newest stated price of a model, by its id or name ("moonshotai/Kimi-K2-Thinking" too).

    Raises ValueError that names the nearest known model: a price is never guessed."""
    wanted = _key(model)
    known = [p for p in TOKENS if wanted in (_key(p.id), _key(p.model))]
    if not known:
        near = _nearest(wanted, {_key(p.id): None for p in TOKENS})
        name = next(p.id for p in TOKENS if _key(p.id) == near)
        raise ValueError(f"no price is known for model {model!r}; hint: the nearest that has one is {name!r}")
    return max(known, key=lambda p: p.date)


def _key(name: str) -> str:
    """Letters, digits and dots of the last part of a name; effort and mode in brackets do not
    change a price."""
    bare = re.sub(r"\([^)]*\)", "", name.rsplit("/", 1)[-1]).lower()
    return re.sub(r"[^a-z0-9.]+", "-", bare).strip("-")


def _nearest(wanted: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(wanted, sorted(known), n=1, cutoff=0.0)[0]

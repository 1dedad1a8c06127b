"""RoPE and YaRN: the numbers of config.json and the mathematics, in plain floats.

A pair j of a head's rotary dimensions turns by `position * theta^(-2j/dim)` radians. YaRN (arXiv
2309.00071) stretches the context: slow pairs are slowed down by `factor`, fast ones are kept, those
in between get a mixture; and attention is sharpened by `mscale` (DeepSeek's inference code).

    inv_freq(4, theta=10000.0, yarn=None) == (1.0, 0.01)

Two spellings are read and written: `rope_theta` + `rope_scaling` (transformers 4) and
`rope_parameters` (5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

DEFAULT_THETA = 10000.0
_NAMES = frozenset({"rope_type", "type", "rope_theta"})
# YaRN's options that this is an implementation of; any other value would have to be ignored.
_YARN_FIXED: dict[str, Any] = {"truncate": True}


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN's numbers as config.json names them, with DeepSeek's mscale."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None


_YARN_KEYS = tuple(f.name for f in fields(YarnScaling))
_YARN_ABOVE_0 = frozenset({"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"})  # they divide


def inv_freq(dim: int, theta: float, yarn: YarnScaling | None) -> tuple[float, ...]:
    """Radians per position of each rotary pair, [dim / 2].

    With K2's beta_fast = beta_slow the ramp is a hard step: pairs below it keep their frequency,
    those above are divided by the factor."""
    freqs = [theta ** (-2 * j / dim) for j in range(dim // 2)]
    if yarn is None:
        return tuple(freqs)

    def corrected(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (2 * math.pi * rotations)
        return dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(corrected(yarn.beta_fast)), 0)
    high: float = min(math.ceil(corrected(yarn.beta_slow)), dim - 1)
    if low == high:
        high += 0.001
    ramp = [min(max((j - low) / (high - low), 0.0), 1.0) for j in range(dim // 2)]
    return tuple(f / yarn.factor * r + f * (1 - r) for f, r in zip(freqs, ramp))


def attention_factor(yarn: YarnScaling | None) -> float:
    """What cos and sin are multiplied by: 1 for every released DeepSeek-V3 and Kimi K2."""
    if yarn is None:
        return 1.0
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor, 1.0)


def softmax_scale(head_dim: int, yarn: YarnScaling | None) -> float:
    """head_dim^-1/2, times mscale squared where YaRN says `mscale_all_dim` (DeepSeek's
    attention)."""
    scale = head_dim**-0.5
    if yarn is not None and yarn.mscale_all_dim:
        scale *= _mscale(yarn.factor, yarn.mscale_all_dim) ** 2
    return scale


def _mscale(factor: float, m: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0


def style_of(given: Mapping[str, Any]) -> str:
    """The key under which a config.json says its scaling: "rope_parameters" or "rope_scaling"."""
    return "rope_parameters" if given.get("rope_parameters") is not None else "rope_scaling"


def read_rope(given: Mapping[str, Any]) -> tuple[float, YarnScaling | None]:
    """Theta and scaling of a config.json; null counts as absent. Raises ValueError that names key
    and value."""
    key = style_of(given)
    block = given.get(key)
    if block is None:
        return _theta(given), None
    if not isinstance(block, Mapping):
        raise ValueError(f"{key}={block!r} has the wrong type; expected an object or null")
    said = {name: value for name, value in block.items() if value is not None}
    theta = _theta(said if "rope_theta" in said else given)
    kind = said.get("rope_type", said.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise ValueError(f"{key}: rope type {kind!r} is not supported; expected 'default' or 'yarn'")
    known = {*_NAMES, *_YARN_KEYS, *_YARN_FIXED, "attention_factor"} if kind == "yarn" else _NAMES
    if surplus := set(said) - known:
        raise ValueError(f"{key}: {', '.join(sorted(surplus))} is not supported with rope type {kind!r}")
    if kind == "yarn" and theta == 1:
        raise ValueError(f"{key}: YaRN needs a rope_theta other than 1, for all pairs would turn alike")
    return theta, _read_yarn(key, said) if kind == "yarn" else None


def write_rope(out: dict[str, Any], theta: float, yarn: YarnScaling | None, style: str) -> None:
    """Put theta and scaling into a config.json's mapping, in one spelling and not in the other."""
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        out.pop(key, None)
    numbers = {} if yarn is None else {n: getattr(yarn, n) for n in _YARN_KEYS if getattr(yarn, n) is not None}
    if style == "rope_parameters":
        kind = "default" if yarn is None else "yarn"
        out["rope_parameters"] = {"rope_type": kind, "rope_theta": theta, **numbers}
    else:
        out["rope_theta"] = theta
        out["rope_scaling"] = None if yarn is None else {"type": "yarn", **numbers}


def _theta(given: Mapping[str, Any]) -> float:
    value = given.get("rope_theta")
    if value is None:
        return DEFAULT_THETA
    if not _is_number(value):
        raise ValueError(f"rope_theta={value!r} has the wrong type; expected a number")
    return float(value)


def _read_yarn(key: str, block: Mapping[str, Any]) -> YarnScaling:
    for name in ("factor", "original_max_position_embeddings"):
        if name not in block:
            raise ValueError(f"{key}: YaRN needs {name!r}")
    for name, expected in _YARN_FIXED.items():
        if block.get(name, expected) != expected:
            raise ValueError(f"{key}.{name}={block[name]!r} is not supported; expected {expected!r}")
    numbers = {n: block[n] for n in _YARN_KEYS if n in block}
    for name, value in numbers.items():
        if not _is_number(value) or value < 0 or (value == 0 and name in _YARN_ABOVE_0):
            span = "above 0" if name in _YARN_ABOVE_0 else "0 or more"
            raise ValueError(f"{key}.{name}={value!r}; expected a number, {span}")
    yarn = YarnScaling(**numbers)
    stated, follows = block.get("attention_factor"), attention_factor(yarn)
    if stated is not None and not (_is_number(stated) and math.isclose(stated, follows, rel_tol=1e-6)):
        raise ValueError(
            f"{key}.attention_factor={stated!r} is not supported; expected {follows!r}, as follows from mscale"
        )
    return yarn


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

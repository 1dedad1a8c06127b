"""RoPE and YaRN: the numbers of config.json and the mathematics, in plain floats.

A pair j of a head's rotary dimensions turns by `position * theta^(-2j/dim)` radians. YaRN (arXiv
2309.00071) stretches the context: slow pairs are slowed down by `factor`, fast ones are kept, those
in between get a mixture; and attention is sharpened by `mscale` (DeepSeek's inference code).

    inv_freq(4, theta=10000.0, scaling=None) == (1.0, 0.01)

Two more ways of stretching: *linear* slows every pair down by the factor; *llama3* (Llama 3.1's) keeps
the pairs that turn often within the original context, slows down those that turn seldom, and mixes in
between.

Two spellings are read and written: `rope_theta` + `rope_scaling` (transformers 4) and
`rope_parameters` (5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

DEFAULT_THETA = 10000.0
_NAMES = frozenset({"rope_type", "type", "rope_theta"})
_PARTIAL = "partial_rotary_factor"  # 1 says nothing; less is a family's own business
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


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every position counts as 1 / factor of one."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's numbers as config.json names them: pairs with at least high_freq_factor turns in the
    original context are kept, those with at most low_freq_factor are slowed down."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


Scaling = YarnScaling | LinearScaling | Llama3Scaling
_KINDS: dict[str, type[Scaling]] = {"yarn": YarnScaling, "linear": LinearScaling, "llama3": Llama3Scaling}

_YARN_KEYS = tuple(f.name for f in fields(YarnScaling))
_YARN_ABOVE_0 = frozenset({"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"})  # they divide


def inv_freq(dim: int, theta: float, scaling: Scaling | None) -> tuple[float, ...]:
    """Radians per position of each rotary pair, [dim / 2]."""
    freqs = [theta ** (-2 * j / dim) for j in range(dim // 2)]
    if scaling is None:
        return tuple(freqs)
    if isinstance(scaling, LinearScaling):
        return tuple(f / scaling.factor for f in freqs)
    if isinstance(scaling, Llama3Scaling):
        return tuple(f * (kept + (1 - kept) / scaling.factor) for f, kept in zip(freqs, _kept(freqs, scaling)))
    return tuple(f / scaling.factor * r + f * (1 - r) for f, r in zip(freqs, _slowed(dim, theta, scaling)))


def _kept(freqs: list[float], llama3: Llama3Scaling) -> Iterator[float]:
    """By how much each pair keeps its frequency, 0 to 1."""
    low, high = llama3.low_freq_factor, llama3.high_freq_factor
    for f in freqs:
        turns = llama3.original_max_position_embeddings * f / (2 * math.pi)
        yield min(max((turns - low) / (high - low), 0.0), 1.0)


def _slowed(dim: int, theta: float, yarn: YarnScaling) -> Iterator[float]:
    """By how much each pair is slowed down, 0 to 1. With K2's beta_fast = beta_slow the ramp is a
    hard step."""

    def corrected(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (2 * math.pi * rotations)
        return dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(corrected(yarn.beta_fast)), 0)
    high: float = min(math.ceil(corrected(yarn.beta_slow)), dim - 1)
    if low == high:
        high += 0.001
    yield from (min(max((j - low) / (high - low), 0.0), 1.0) for j in range(dim // 2))


def attention_factor(yarn: Scaling | None) -> float:
    """What cos and sin are multiplied by: 1 for every released DeepSeek-V3 and Kimi K2, and without
    YaRN."""
    if not isinstance(yarn, YarnScaling):
        return 1.0
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor, 1.0)


def softmax_scale(head_dim: int, yarn: Scaling | None) -> float:
    """head_dim^-1/2, times mscale squared where YaRN says `mscale_all_dim` (DeepSeek's
    attention)."""
    scale = head_dim**-0.5
    if isinstance(yarn, YarnScaling) and yarn.mscale_all_dim:
        scale *= _mscale(yarn.factor, yarn.mscale_all_dim) ** 2
    return scale


def _mscale(factor: float, m: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0


def style_of(given: Mapping[str, Any]) -> str:
    """The key under which a config.json says its scaling: "rope_parameters" or "rope_scaling"."""
    return "rope_parameters" if given.get("rope_parameters") is not None else "rope_scaling"


def read_rope(given: Mapping[str, Any]) -> tuple[float, Scaling | None]:
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
    if not isinstance(kind, str) or (kind != "default" and kind not in _KINDS):
        raise ValueError(
            f"{key}: rope type {kind!r} is not supported; expected {', '.join(map(repr, ('default', *_KINDS)))}"
        )
    known = _NAMES if kind == "default" else {*_NAMES, *(f.name for f in fields(_KINDS[kind]))}
    known = {*known, *_YARN_FIXED, "attention_factor"} if kind == "yarn" else known
    if surplus := set(said) - known - ({_PARTIAL} if said.get(_PARTIAL) == 1 else set()):
        raise ValueError(f"{key}: {', '.join(sorted(surplus))} is not supported with rope type {kind!r}")
    if kind == "yarn" and theta == 1:
        raise ValueError(f"{key}: YaRN needs a rope_theta other than 1, for all pairs would turn alike")
    if kind == "default":
        return theta, None
    return theta, _read_yarn(key, said) if kind == "yarn" else _read_scaling(key, kind, said)


def _read_scaling(key: str, kind: str, block: Mapping[str, Any]) -> Scaling:
    """Of the kinds whose numbers are all required and above 0."""
    names = [f.name for f in fields(_KINDS[kind])]
    for name in names:
        if name not in block:
            raise ValueError(f"{key}: rope type {kind!r} needs {name!r}")
        if not _is_number(block[name]) or block[name] <= 0:
            raise ValueError(f"{key}.{name}={block[name]!r}; expected a number, above 0")
    scaling = _KINDS[kind](**{name: block[name] for name in names})
    if isinstance(scaling, Llama3Scaling) and not scaling.high_freq_factor > scaling.low_freq_factor:
        raise ValueError(
            f"{key}.high_freq_factor={scaling.high_freq_factor!r}; "
            f"expected above low_freq_factor={scaling.low_freq_factor!r}"
        )
    return scaling


def write_rope(out: dict[str, Any], theta: float, scaling: Scaling | None, style: str) -> None:
    """Put theta and scaling into a config.json's mapping, in one spelling and not in the other."""
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        out.pop(key, None)
    kind = next((name for name, made in _KINDS.items() if isinstance(scaling, made)), "default")
    numbers = {} if scaling is None else {f.name: getattr(scaling, f.name) for f in fields(scaling)}
    numbers = {name: number for name, number in numbers.items() if number is not None}
    if style == "rope_parameters":
        out["rope_parameters"] = {"rope_type": kind, "rope_theta": theta, **numbers}
    else:
        # transformers 4 reads both names of the kind; DeepSeek's own code only the older one.
        named = {"type": kind} if kind == "yarn" else {"rope_type": kind}
        out["rope_theta"] = theta
        out["rope_scaling"] = None if scaling is None else {**named, **numbers}


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

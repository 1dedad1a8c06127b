"""Attention, one kind a file; a model's config says which kind each of its layers has.

A new kind is a file here and a row in KINDS: an nn.Module made of (config, layer number), with

* forward(x_BTD, rotation, mask, *, absorbed, packed, cache, trace) -> [B, T, D], see mla.Attention;
* clip_(max_logit_N, tau) -> int64 []: QK-Clip of its own query and key weights, in place;
* FORMS: which of "naive" and "absorbed" it has;
* inner: None, or attention over packed rows without a mask, set by fast.enable where it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from abruzzi.arch import ModelConfig
from abruzzi.model.attention import mla

Attention = mla.Attention  # | gqa.Attention

# By the config's type; where layers are of several kinds, a function that looks at the number.
KINDS: dict[type, Callable[[Any, int], Attention]] = {ModelConfig: mla.Attention}


def attention_of(config: Any, layer: int) -> Attention:
    """The attention of one layer. Raises ValueError for a config that no row is for."""
    if type(config) not in KINDS:
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise ValueError(f"no attention is known for a {type(config).__name__}; expected one of {known}")
    return KINDS[type(config)](config, layer)

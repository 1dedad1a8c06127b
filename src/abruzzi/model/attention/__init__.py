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

from abruzzi.arch.config import Config
from abruzzi.model.attention import mla

Attention = mla.Attention  # | gqa.Attention

# By Config.ATTENTION; where layers are of several kinds, a function that looks at the number.
KINDS: dict[str, Callable[[Any, int], Attention]] = {"mla": mla.Attention}


def attention_of(config: Config, layer: int) -> Attention:
    """The attention of one layer. Raises ValueError for a kind that no row is for."""
    if config.ATTENTION not in KINDS:
        raise ValueError(
            f"{config.model_type} has attention {config.ATTENTION!r}, which has no module; "
            f"expected one of {', '.join(KINDS)}; hint: a row in model/attention/"
        )
    return KINDS[config.ATTENTION](config, layer)

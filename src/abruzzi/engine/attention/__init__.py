"""Attention as the engine sees it, one kind a file: weights, packing, forms, a readable half layer.

A new kind is a file here (mla.py is the pattern) and a row in KINDS. Its name is what the family's
config says (`Config.ATTENTION`); model/attention/ has its torch module under the same name, and
csrc/step/ its compiled half layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from abruzzi.arch import ModelConfig
from abruzzi.engine.attention.gqa import Gqa
from abruzzi.engine.attention.kind import AttentionKind
from abruzzi.engine.attention.mla import Mla

KINDS: dict[str, Callable[[Any], AttentionKind]] = {"mla": Mla, "gqa": Gqa}


def attention_of(config: ModelConfig) -> AttentionKind:
    """The kind of attention that a model's layers have. Raises ValueError for one that the engine
    lacks."""
    if config.ATTENTION not in KINDS:
        raise ValueError(
            f"{config.model_type} has attention {config.ATTENTION!r}, which the engine lacks; "
            f"expected one of {', '.join(KINDS)}; hint: a row in engine/attention/"
        )
    return KINDS[config.ATTENTION](config)

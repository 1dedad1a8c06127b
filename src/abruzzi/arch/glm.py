"""GLM-4.7-Flash: DeepSeek-V3's architecture under Zhipu's names (`glm4_moe_lite`).

Source: transformers' glm4_moe_lite. What differs is how config.json says which layers are dense: the
hub's file as DeepSeek does, transformers as a list of "dense" and "sparse".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from abruzzi.arch.config import family
from abruzzi.arch.deepseek import DeepseekConfig

_LAYER_TYPES = "mlp_layer_types"


@family("glm4_moe_lite")
@dataclass(frozen=True, slots=True, kw_only=True)
class Glm4MoeLiteConfig(DeepseekConfig):
    """The shape of a model. Field names are config.json's keys."""

    FIXED: ClassVar[Mapping[str, Any]] = {**DeepseekConfig.FIXED, "partial_rotary_factor": 1}
    STATED: ClassVar[tuple[str, ...]] = tuple(k for k in DeepseekConfig.STATED if k != "first_k_dense_replace")

    model_type: str = "glm4_moe_lite"
    architectures: tuple[str, ...] | None = ("Glm4MoeLiteForCausalLM",)

    @classmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        """Dense layers come first, however they are said."""
        super(Glm4MoeLiteConfig, cls).check_given(given)
        types = given.get(_LAYER_TYPES)
        if types is None:
            if given.get("first_k_dense_replace") is None:
                raise ValueError(f"config lacks first_k_dense_replace or {_LAYER_TYPES}")
            return
        if not isinstance(types, list) or not set(types) <= {"dense", "sparse"} or types != sorted(types):
            raise ValueError(f"{_LAYER_TYPES}={types!r} is not supported; expected 'dense' layers, then 'sparse' ones")
        if len(types) != given.get("num_hidden_layers") or given.get("first_k_dense_replace") not in (
            None,
            types.count("dense"),
        ):
            raise ValueError(f"{_LAYER_TYPES} does not fit num_hidden_layers or first_k_dense_replace")

    @classmethod
    def _value(cls, key: str, given: Mapping[str, Any]) -> Any:
        if key == "first_k_dense_replace" and given.get(key) is None and given.get(_LAYER_TYPES) is not None:
            return given[_LAYER_TYPES].count("dense")
        return super(Glm4MoeLiteConfig, cls)._value(key, given)

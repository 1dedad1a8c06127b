"""The INT4 scheme of a checkpoint: the `quantization_config` block, and which matrices it covers.

compressed-tensors `pack-quantized`, as Kimi-K2-Thinking ships it: symmetric, groups of 32 columns,
one bfloat16 scale a group. The arithmetic is quant/int4.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GROUP = 32  # columns that share a scale; so do the engine's own 4- and 8-bit formats (modes.py)


@dataclass(frozen=True, slots=True)
class Int4Scheme:
    """compressed-tensors `pack-quantized` weights: symmetric INT4 in groups along the input
    dimension.

    ignore: module names, or `re:` patterns, that stay unquantized."""

    group_size: int = GROUP
    ignore: tuple[str, ...] = (
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    )

    def ignores(self, module: str) -> bool:
        """Whether `ignore` names this Linear (`model.layers.1.mlp.experts.0.up_proj`).

        compressed-tensors' rule: by the whole name, by a class, or, after `re:`, by a pattern that
        matches from the name's beginning."""
        return any(_names(rule, module) for rule in self.ignore)

    def to_dict(self) -> dict[str, Any]:
        """The `quantization_config` block, in K2-Thinking's form."""
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "kv_cache_scheme": None,
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4,
                        "type": "int",
                        "symmetric": True,
                        "strategy": "group",
                        "group_size": self.group_size,
                        "dynamic": False,
                        "observer": "minmax",
                        "actorder": None,
                    },
                    "input_activations": None,
                    "output_activations": None,
                }
            },
            "ignore": list(self.ignore),
        }


def read_int4(block: Mapping[str, Any]) -> Int4Scheme:
    """The scheme of a `quantization_config` block. Raises ValueError that names key, value and
    expectation."""
    _expect("quant_method", block.get("quant_method"), "compressed-tensors")
    _expect("format", block.get("format"), "pack-quantized")
    _expect("kv_cache_scheme", block.get("kv_cache_scheme"), None)
    groups = _object("config_groups", block.get("config_groups"))
    if len(groups) != 1:
        raise ValueError(f"quantization_config.config_groups={groups!r} is not supported; expected one group")
    name, group = next(iter(groups.items()))
    path = f"config_groups.{name}"
    group = _object(path, group)
    _expect(f"{path}.targets", group.get("targets"), ["Linear"])
    _expect(f"{path}.input_activations", group.get("input_activations"), None)
    _expect(f"{path}.output_activations", group.get("output_activations"), None)
    weights = _object(f"{path}.weights", group.get("weights"))
    for key, *expected in (
        ("num_bits", 4),
        ("type", "int"),
        ("symmetric", True),
        ("strategy", "group"),
        ("group_size", GROUP),
        ("dynamic", False, None),
        ("actorder", None),
    ):
        _expect(f"{path}.weights.{key}", weights.get(key), *expected)
    ignore = block.get("ignore") or ()
    if not isinstance(ignore, (list, tuple)) or not all(isinstance(rule, str) for rule in ignore):
        raise ValueError(f"quantization_config.ignore={ignore!r} has the wrong type; expected a list of text")
    for rule in ignore:
        try:
            _names(rule, "")
        except re.error as error:
            raise ValueError(f"quantization_config.ignore: {rule!r} is no pattern ({error})") from error
    return Int4Scheme(GROUP, tuple(ignore))


def _names(rule: str, module: str) -> bool:
    if rule.startswith("re:"):
        return re.match(rule.removeprefix("re:"), module) is not None
    return rule in (module, "Linear", "Module")


def _object(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"quantization_config.{path}={value!r} is not supported; expected an object")
    return value


def _expect(path: str, value: Any, *expected: Any) -> None:
    if value not in expected:
        raise ValueError(f"quantization_config.{path}={value!r} is not supported; expected {expected[0]!r}")

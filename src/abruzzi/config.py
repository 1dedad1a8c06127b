"""ModelConfig: config.json of the `deepseek_v3` and `kimi_k2` families, one field per key.

Reads what transformers 4 writes (`rope_theta`, `rope_scaling`) and what 5 writes (`rope_parameters`),
and writes back what was read: unknown keys are kept, so nothing is lost in a round trip. A value that
the rest of the project would have to ignore (another activation, another router) is an error here.

Also here, because the torch model and the engine both need them and neither may import the other:
the rotary frequencies and the softmax scale with YaRN (plain floats, no numpy). Source of the rules:
DeepSeek-V3 report (arXiv 2412.19437), Kimi K2 report (arXiv 2507.20534), DeepSeek's inference code.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

FAMILIES = ("deepseek_v3", "kimi_k2")


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN's numbers as config.json names them (arXiv 2309.00071, with DeepSeek's mscale)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None


@dataclass(frozen=True, slots=True)
class Int4Scheme:
    """compressed-tensors `pack-quantized` weights: symmetric INT4 in groups along the input dimension.

    ignore: module names, or `re:` patterns, that stay unquantized."""

    group_size: int = 32
    ignore: tuple[str, ...] = (
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    )

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a model. Field names are config.json's keys; see house words in the README.

    quantization_config: the block as it stands in the file; `int4` is its parsed form.
    raw: the mapping this was read from (empty for a config made in code); source of unknown keys.
    """

    model_type: str = "deepseek_v3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    n_routed_experts: int
    num_experts_per_tok: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_shared_experts: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 1
    num_nextn_predict_layers: int = 0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    architectures: tuple[str, ...] | None = ("DeepseekV3ForCausalLM",)
    rope_theta: float = 10000.0
    rope_scaling: YarnScaling | None = None
    quantization_config: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)

    # reading and writing

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ModelConfig:
        """Raises ValueError that names the key for an unknown family, a missing or an unsupported value."""
        if not isinstance(given, Mapping):
            raise ValueError(f"a config must be a JSON object, got {type(given).__name__}")
        _check_family(given)
        _check_supported(given)
        missing = [k for k in (*_REQUIRED, *_STATED) if given.get(k) is None]
        missing += [] if "q_lora_rank" in given else ["q_lora_rank"]
        if missing:
            raise ValueError(f"config lacks {', '.join(missing)}; hint: readers disagree on defaults, so state them")
        values = {k: _typed(k, given[k]) for k in _PLAIN if given.get(k) is not None}
        theta, scaling = _read_rope(given)
        return cls(
            **values,
            q_lora_rank=_typed("q_lora_rank", given.get("q_lora_rank")),
            architectures=None if given.get("architectures") is None else tuple(given["architectures"]),
            eos_token_id=_read_eos(given.get("eos_token_id")),
            rope_theta=theta,
            rope_scaling=scaling,
            quantization_config=given.get("quantization_config"),
            raw=copy.deepcopy(dict(given)),
        )

    @classmethod
    def load(cls, path: str | Path) -> ModelConfig:
        """Read `config.json` (or a directory that holds one).

        Raises FileNotFoundError or ValueError with the path and a hint."""
        file = Path(path)
        if file.is_dir():
            file = file / "config.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; hint: --model wants a directory in Hugging Face layout "
                "(config.json, *.safetensors, tokenizer files)"
            )
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not valid JSON: {error}; hint: fetch or write it again") from error
        try:
            return cls.from_dict(given)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def to_dict(self, rope_style: str | None = None) -> dict[str, Any]:
        """config.json's content. Equal to what was read unless fields were changed with `replace`.

        rope_style: "rope_scaling" (transformers 4) or "rope_parameters" (5); None = as it was read,
        and the form of 4, which both versions read, for a config made in code."""
        styles = (None, "rope_scaling", "rope_parameters")
        if rope_style not in styles:
            raise ValueError(f"rope_style={rope_style!r}; expected one of {styles}")
        out = copy.deepcopy(dict(self.raw))
        before = ModelConfig.from_dict(self.raw) if self.raw else None
        for key in (*_PLAIN, "q_lora_rank", "architectures", "eos_token_id", "quantization_config"):
            value = getattr(self, key)
            if before is None or value != getattr(before, key):
                out[key] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        if before is None:
            out.update(_FIXED, num_key_value_heads=self.num_attention_heads)
            if self.quantization_config is None:
                del out["quantization_config"]
        elif self.num_attention_heads != before.num_attention_heads:
            out["num_key_value_heads"] = self.num_attention_heads
        read_style = "rope_parameters" if "rope_parameters" in self.raw else "rope_scaling"
        style = rope_style or read_style
        rope_changed = before is None or (self.rope_theta, self.rope_scaling) != (
            before.rope_theta,
            before.rope_scaling,
        )
        if rope_changed or style != read_style:
            _write_rope(out, self, style)
        return out

    def save(self, path: str | Path) -> None:
        """Write `config.json` into the directory `path`."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (Path(path) / "config.json").write_text(text, encoding="utf-8")

    # what follows from the fields

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a generation."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def int4(self) -> Int4Scheme | None:
        """The INT4 scheme of this checkpoint; None when its weights are unquantized.

        Raises ValueError for FP8 and every other scheme: there is no reader for those weights."""
        block = self.quantization_config
        if block is None:
            return None
        if block.get("quant_method") == "fp8":
            raise ValueError(
                "quantization_config.quant_method 'fp8' cannot be loaded; expected 'compressed-tensors' INT4 or none; "
                "hint: convert the checkpoint to bf16 first"
            )
        return _read_int4(block)

    def is_moe_layer(self, layer: int) -> bool:
        """Layers before `first_k_dense_replace` have one dense MLP; the others have experts."""
        return layer >= self.first_k_dense_replace

    def with_int4(self, scheme: Int4Scheme | None) -> ModelConfig:
        """The same model, with routed experts stored in INT4 (or unquantized, for None)."""
        return replace(self, quantization_config=None if scheme is None else scheme.to_dict())

    # rotary embedding, in plain floats

    @property
    def softmax_scale(self) -> float:
        """(qk_head_dim)^-1/2, times mscale squared where YaRN is on (k2.md 2.5; DeepSeek's MLA)."""
        scale = self.qk_head_dim**-0.5
        yarn = self.rope_scaling
        if yarn is not None and yarn.mscale_all_dim:
            scale *= _mscale(yarn.factor, yarn.mscale_all_dim) ** 2
        return scale

    @property
    def rope_attention_factor(self) -> float:
        """What cos and sin are multiplied by: 1 for every released model of the family."""
        yarn = self.rope_scaling
        if yarn is None:
            return 1.0
        if yarn.mscale and yarn.mscale_all_dim:
            return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
        return _mscale(yarn.factor, 1.0)

    def rope_inv_freq(self) -> tuple[float, ...]:
        """Radians per position of each rotary pair, [qk_rope_head_dim / 2].

        With K2's beta_fast = beta_slow the ramp is a hard step: pairs below it keep their frequency,
        those above are divided by the factor."""
        dim = self.qk_rope_head_dim
        freqs = [self.rope_theta ** (-2 * j / dim) for j in range(dim // 2)]
        yarn = self.rope_scaling
        if yarn is None:
            return tuple(freqs)

        def corrected(rotations: float) -> float:
            turns = yarn.original_max_position_embeddings / (2 * math.pi * rotations)
            return dim * math.log(turns) / (2 * math.log(self.rope_theta))

        low = max(math.floor(corrected(yarn.beta_fast)), 0)
        high: float = min(math.ceil(corrected(yarn.beta_slow)), dim - 1)
        if low == high:
            high += 0.001
        ramp = [min(max((j - low) / (high - low), 0.0), 1.0) for j in range(dim // 2)]
        return tuple(f / yarn.factor * r + f * (1 - r) for f, r in zip(freqs, ramp))


# What every config of the family says in the same way; another value would have to be ignored.
_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_interleave": True,
}
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "n_routed_experts",
    "num_experts_per_tok",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
)
# Required in a file although ModelConfig has a default: other readers assume other values.
_STATED = (
    "n_shared_experts",
    "n_group",
    "topk_group",
    "norm_topk_prob",
    "routed_scaling_factor",
    "first_k_dense_replace",
    "rms_norm_eps",
)
_SPECIAL = (
    "q_lora_rank",
    "architectures",
    "eos_token_id",
    "rope_theta",
    "rope_scaling",
    "quantization_config",
    "raw",
)
_PLAIN = tuple(f.name for f in fields(ModelConfig) if f.name not in _SPECIAL)
_INTS = frozenset(f.name for f in fields(ModelConfig) if str(f.type).startswith("int"))
_BOOLS = frozenset(f.name for f in fields(ModelConfig) if f.type == "bool")
_FLOATS = frozenset(f.name for f in fields(ModelConfig) if f.type == "float")
_YARN_KEYS = tuple(f.name for f in fields(YarnScaling))


def _mscale(factor: float, m: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0


def _check_family(given: Mapping[str, Any]) -> None:
    family = given.get("model_type")
    if family in FAMILIES:
        return
    hint = "hint: this project runs DeepSeek-V3 / Kimi K2 shapes only"
    if isinstance(given.get("text_config"), Mapping):
        hint = "hint: it is a multimodal wrapper; its text_config alone may be of a supported family"
    raise ValueError(f"model_type {family!r} is not supported; expected one of {', '.join(FAMILIES)}; {hint}")


def _check_supported(given: Mapping[str, Any]) -> None:
    for key, want in _FIXED.items():
        value = given.get(key)
        if value is not None and value != want:
            raise ValueError(f"{key}={value!r} is not supported; expected {want!r}")
    heads, kv_heads = given.get("num_attention_heads"), given.get("num_key_value_heads")
    if kv_heads is not None and kv_heads != heads:
        raise ValueError(
            f"num_key_value_heads={kv_heads!r} is not supported; MLA expects num_attention_heads={heads!r}"
        )
    if given.get("pretraining_tp") not in (None, 1):
        raise ValueError(f"pretraining_tp={given['pretraining_tp']!r} is not supported; expected 1")
    architectures = given.get("architectures")
    if architectures is not None and list(architectures) != ["DeepseekV3ForCausalLM"]:
        raise ValueError(f"architectures={architectures!r} is not supported; expected ['DeepseekV3ForCausalLM']")


def _typed(key: str, value: Any) -> Any:
    if value is None:
        return None
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if key in _BOOLS:
        ok, want = isinstance(value, bool), "true or false"
    elif key in _INTS:
        ok, want = is_int, "an integer"
    elif key in _FLOATS:
        ok, want = is_int or isinstance(value, float), "a number"
    else:
        ok, want = isinstance(value, str), "text"
    if not ok:
        raise ValueError(f"{key}={value!r} has the wrong type; expected {want}")
    return float(value) if key in _FLOATS else value


def _read_eos(value: Any) -> int | tuple[int, ...] | None:
    if isinstance(value, (list, tuple)):
        return tuple(_typed("bos_token_id", v) for v in value)
    return _typed("bos_token_id", value)


def _read_rope(given: Mapping[str, Any]) -> tuple[float, YarnScaling | None]:
    key = "rope_parameters" if given.get("rope_parameters") is not None else "rope_scaling"
    block = given.get(key)
    theta = given.get("rope_theta", 10000.0)
    if block is None:
        return _typed("rope_theta", theta), None
    if not isinstance(block, Mapping):
        raise ValueError(f"{key}={block!r} has the wrong type; expected an object or null")
    theta = _typed("rope_theta", block.get("rope_theta", theta))
    kind = block.get("rope_type", block.get("type", "default"))
    known = {*_YARN_KEYS, "rope_type", "type", "rope_theta"}
    if kind == "default":
        surplus = set(block) - {"rope_type", "type", "rope_theta"}
    elif kind == "yarn":
        surplus = set(block) - known
    else:
        raise ValueError(f"{key}: rope type {kind!r} is not supported; expected 'default' or 'yarn'")
    if surplus:
        raise ValueError(f"{key}: {', '.join(sorted(surplus))} is not supported with rope type {kind!r}")
    if kind == "default":
        return theta, None
    for name in ("factor", "original_max_position_embeddings"):
        if block.get(name) is None:
            raise ValueError(f"{key}: YaRN needs {name!r}")
    numbers = {n: block[n] for n in _YARN_KEYS if block.get(n) is not None}
    for name, value in numbers.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{key}.{name}={value!r}; expected a number, 0 or more")
    return theta, YarnScaling(**numbers)


def _write_rope(out: dict[str, Any], config: ModelConfig, style: str) -> None:
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        out.pop(key, None)
    yarn = config.rope_scaling
    numbers = {} if yarn is None else {n: getattr(yarn, n) for n in _YARN_KEYS if getattr(yarn, n) is not None}
    if style == "rope_parameters":
        kind = "default" if yarn is None else "yarn"
        out["rope_parameters"] = {"rope_type": kind, "rope_theta": config.rope_theta, **numbers}
    else:
        out["rope_theta"] = config.rope_theta
        out["rope_scaling"] = None if yarn is None else {"type": "yarn", **numbers}


def _read_int4(block: Mapping[str, Any]) -> Int4Scheme:
    where = "quantization_config"

    def want(path: str, value: Any, *expected: Any) -> None:
        if value not in expected:
            raise ValueError(f"{where}.{path}={value!r} is not supported; expected {expected[0]!r}")

    want("quant_method", block.get("quant_method"), "compressed-tensors")
    want("format", block.get("format"), "pack-quantized")
    want("kv_cache_scheme", block.get("kv_cache_scheme"), None)
    groups = block.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise ValueError(f"{where}.config_groups={groups!r} is not supported; expected one group")
    name, group = next(iter(groups.items()))
    path = f"config_groups.{name}"
    want(f"{path}.targets", group.get("targets"), ["Linear"])
    want(f"{path}.input_activations", group.get("input_activations"), None)
    want(f"{path}.output_activations", group.get("output_activations"), None)
    weights = group.get("weights") or {}
    for key, *expected in (
        ("num_bits", 4),
        ("type", "int"),
        ("symmetric", True),
        ("strategy", "group"),
        ("group_size", 32),
        ("dynamic", False, None),
        ("actorder", None),
    ):
        want(f"{path}.weights.{key}", weights.get(key), *expected)
    return Int4Scheme(group_size=32, ignore=tuple(block.get("ignore") or ()))


def _check(config: ModelConfig) -> None:
    c = config
    if c.model_type not in FAMILIES:
        _check_family({"model_type": c.model_type})
    for key in (*_REQUIRED, "n_shared_experts", "n_group", "topk_group", "max_position_embeddings"):
        if getattr(c, key) < 1:
            raise ValueError(f"{key}={getattr(c, key)!r} is out of range; expected 1 or more")
    if c.tie_word_embeddings:
        raise ValueError("tie_word_embeddings=True is not supported; expected False")
    if c.q_lora_rank is not None and c.q_lora_rank < 1:
        raise ValueError(f"q_lora_rank={c.q_lora_rank!r} is out of range; expected 1 or more, or null")
    if c.qk_rope_head_dim % 2:
        raise ValueError(f"qk_rope_head_dim={c.qk_rope_head_dim} is odd; rotary pairs need an even number")
    if not 0 <= c.first_k_dense_replace <= c.num_hidden_layers:
        raise ValueError(
            f"first_k_dense_replace={c.first_k_dense_replace} is out of range; expected 0..{c.num_hidden_layers}"
        )
    if c.n_routed_experts % c.n_group or c.topk_group > c.n_group:
        raise ValueError(
            f"n_group={c.n_group}, topk_group={c.topk_group} do not fit n_routed_experts={c.n_routed_experts}; "
            "expected n_group to divide the experts and topk_group <= n_group"
        )
    per_group = c.n_routed_experts // c.n_group
    if c.n_group > 1 and per_group < 2:
        raise ValueError(f"n_group={c.n_group} leaves {per_group} expert a group; the group score needs two")
    if c.num_experts_per_tok > per_group * c.topk_group:
        raise ValueError(
            f"num_experts_per_tok={c.num_experts_per_tok} is more than the {per_group * c.topk_group} experts "
            "that the kept groups hold"
        )
    for key in ("rms_norm_eps", "rope_theta", "routed_scaling_factor"):
        if not getattr(c, key) > 0:
            raise ValueError(f"{key}={getattr(c, key)!r} is out of range; expected above 0")
    block = c.quantization_config
    if block is not None and block.get("quant_method") != "fp8":
        _read_int4(block)

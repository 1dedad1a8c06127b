"""Config: config.json of any family, one dataclass field per key; reading, checking, writing.

A family is a frozen dataclass of its own that extends `Config` (deepseek.py): it adds its fields,
says which keys have one value only (FIXED) and which a file must state (STATED), checks what fits
together (`check`) and lists its tensors. There is no flat config with the keys of all families,
most of them unused.

Reads what transformers 4 writes (`rope_theta`, `rope_scaling`) and what 5 writes
(`rope_parameters`), and writes back what was read: unknown keys survive a round trip. A value that
the house would have to ignore is an error that names key, value and expectation. null counts as
absent.
"""

from __future__ import annotations

import copy
import functools
import json
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from abruzzi.arch.int4 import Int4Scheme, read_int4
from abruzzi.arch.rope import DEFAULT_THETA, Scaling, read_rope, style_of, write_rope
from abruzzi.arch.tensors import Inventory, Tensor

_FAMILIES: dict[str, type[Config]] = {}
_ROPE = ("rope_theta", "rope_scaling")  # read and written in two spellings
_STYLES = (None, "rope_scaling", "rope_parameters")
Family = TypeVar("Family", bound="type[Config]")


def family(*model_types: str) -> Callable[[Family], Family]:
    """Class decorator: config.json with one of these `model_type` is of this family."""

    def register(cls: Family) -> Family:
        _FAMILIES.update(dict.fromkeys(model_types, cls))
        return cls

    return register


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ABC):
    """What every family says. Field names are config.json's keys.

    quantization_config: the block as it stands in the file; `int4` is its parsed form.
    raw: the mapping this was read from (empty for a config made in code); source of unknown keys.
    """

    # The kind of attention, by its name in the rooms that compute it (engine/attention,
    # model/attention, csrc/step), and as people say it.
    ATTENTION: ClassVar[str]
    ATTENTION_NAME: ClassVar[str]
    # How the router's logits become scores, by its name in kernels/ref.py:SCORES.
    ROUTER_SCORE: ClassVar[str] = "sigmoid"
    # Keys with one possible value: another one would have to be ignored.
    FIXED: ClassVar[Mapping[str, Any]] = {}
    # Other keys of fields, where writers disagree: field to key.
    ALIASES: ClassVar[Mapping[str, str]] = {}
    # Required in a file although the field has a default: other readers assume other values. Null
    # is refused...
    STATED: ClassVar[tuple[str, ...]] = ()
    # ... but for these, where it is a value.
    STATED_OR_NULL: ClassVar[tuple[str, ...]] = ()

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    architectures: tuple[str, ...] | None = None
    rope_theta: float = DEFAULT_THETA
    rope_scaling: Scaling | None = None
    quantization_config: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _family_of({"model_type": self.model_type})
        self.at_least_one("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        self.at_least_one("max_position_embeddings")
        self.above_zero("rms_norm_eps", "rope_theta")
        block = self.quantization_config
        if block is not None and block.get("quant_method") != "fp8":  # a shape is read; `int4` refuses the weights
            read_int4(block)
        self.check()

    # what a family adds

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """The inventory, in the order of the model."""

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError for fields that are out of range or do not fit each other."""

    @classmethod
    @abstractmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        """Raises ValueError for keys without a field whose value would have to be ignored."""

    @abstractmethod
    def cut_to(self, dense: int, sparse: int, experts: int, vocab_size: int) -> Config:
        """A model of this one's layers, fewer of them: `dense` with one MLP, then `sparse` with so many
        experts. What a part of it costs is measured on it."""

    def derived(self) -> Mapping[str, Any]:
        """Keys without a field, which other readers want and which follow from the fields."""
        return {}

    def leaves_out(self, stored_name: str, beside: Container[str] = ()) -> bool:
        """Whether a checkpoint may hold this tensor although the model does not use it, by its
        exact name. beside: the names of all stored tensors."""
        return False

    # reading and writing

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """Of the family that `model_type` names, whichever it is called on: one door for all.

        Raises ValueError that names the key for an unknown family, a missing or an unsupported
        value."""
        if not isinstance(given, Mapping):
            raise ValueError(f"a config must be a JSON object, got {type(given).__name__}")
        found = _family_of(given)
        return cast("type[Self]", found)._read(given)

    @classmethod
    def load(cls, path: str | Path) -> Self:
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
            text = file.read_text(encoding="utf-8-sig")
            if text.startswith("version https://git-lfs"):
                raise ValueError(f"{file} is a git-lfs pointer, the file itself was not fetched; hint: git lfs pull")
            given = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{file} is not valid JSON: {error}; hint: fetch or write it again") from error
        try:
            return cls.from_dict(given)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @classmethod
    def _read(cls, given: Mapping[str, Any]) -> Self:
        for key, expected in cls.FIXED.items():
            if given.get(key) is not None and given[key] != expected:
                raise ValueError(f"{key}={given[key]!r} is not supported; expected {expected!r}")
        cls.check_given(given)
        required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [key for key in (*required, *cls.STATED) if given.get(cls._key(key, given)) is None]
        missing += [key for key in cls.STATED_OR_NULL if key not in given]
        if missing:
            raise ValueError(f"config lacks {', '.join(missing)}; hint: readers disagree on defaults, so state them")
        theta, scaling = read_rope(given)
        return cls(
            **{key: cls._value(key, given) for key in cls._plain()},
            rope_theta=theta,
            rope_scaling=scaling,
            raw=copy.deepcopy(dict(given)),
        )

    def to_dict(self, rope_style: str | None = None) -> dict[str, Any]:
        """config.json's content. Equal to what was read unless fields were changed with `replace`.

        rope_style: "rope_scaling" (transformers 4) or "rope_parameters" (5); None = as it was read,
        and the form of 4, which both versions read, for a config made in code."""
        if rope_style not in _STYLES:
            raise ValueError(f"rope_style={rope_style!r}; expected one of {_STYLES}")
        out = copy.deepcopy(dict(self.raw))
        # A key is written only where `raw` does not say the field's value already, in whatever
        # spelling.
        changed = {key for key in self._plain() if not self.raw or self._value(key, self.raw) != getattr(self, key)}
        for key in self._plain():
            value = getattr(self, key)
            if key in changed and (self.raw or key != "quantization_config" or value is not None):
                out[self._key(key, out)] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        if not self.raw:
            out.update(self.FIXED)
        out.update({k: v for k, v in self.derived().items() if not self.raw or self.raw.get(k) not in (None, v)})
        style = rope_style or style_of(self.raw)
        if not self.raw or style != style_of(self.raw) or read_rope(self.raw) != (self.rope_theta, self.rope_scaling):
            write_rope(out, self.rope_theta, self.rope_scaling, style)
        return out

    def save(self, path: str | Path) -> None:
        """Write `config.json` into the directory `path`."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (Path(path) / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def _plain(cls) -> tuple[str, ...]:
        """Fields that are one key each."""
        return tuple(f.name for f in fields(cls) if f.name not in (*_ROPE, "raw"))

    @classmethod
    def _key(cls, field_name: str, given: Mapping[str, Any]) -> str:
        """The key under which this mapping says a field."""
        alias = cls.ALIASES.get(field_name)
        return alias if alias is not None and given.get(field_name) is None and alias in given else field_name

    @classmethod
    def _value(cls, key: str, given: Mapping[str, Any]) -> Any:
        """The field that `given` says; its default where the key is absent or null. Raises
        ValueError."""
        value = given.get(cls._key(key, given))
        if value is not None:
            return read_value(key, value, _types(cls)[key])
        default = cls.__dataclass_fields__[key].default
        return None if default is MISSING or key in cls.STATED_OR_NULL else default

    # what follows from the fields

    @property
    def inventory(self) -> Inventory:
        """All tensors, to look up and to walk through; made anew each time."""
        return Inventory(self.tensors())

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
        return read_int4(block)

    def with_int4(self, scheme: Int4Scheme | None) -> Self:
        """The same model, with routed experts stored in INT4 (or unquantized, for None)."""
        return replace(self, quantization_config=None if scheme is None else scheme.to_dict())

    # checks that families share

    def at_least_one(self, *keys: str) -> None:
        """Raises ValueError for the first of these fields that is below 1."""
        for key in keys:
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)!r} is out of range; expected 1 or more")

    def above_zero(self, *keys: str) -> None:
        """Raises ValueError for the first of these fields that is not above 0, NaN among them."""
        for key in keys:
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}={getattr(self, key)!r} is out of range; expected above 0")


def read_value(key: str, value: Any, kind: Any) -> Any:
    """A JSON value as a field of this type: bool, int, float, str, Mapping, tuple[X, ...], or a
    union of them.

    Raises ValueError that names key, value and expectation."""
    members = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    for member in members:
        if member is float and number:
            return float(value)
        if member is int and number and isinstance(value, int):
            return value
        if member in (bool, str) and isinstance(value, member):
            return value
        if typing.get_origin(member) is Mapping and isinstance(value, Mapping):
            return copy.deepcopy(value)
        if typing.get_origin(member) is tuple and isinstance(value, (list, tuple)):
            return tuple(read_value(key, item, typing.get_args(member)[0]) for item in value)
    expected = " or ".join(_WORDS[typing.get_origin(m) or m] for m in members if m is not type(None))
    raise ValueError(f"{key}={value!r} has the wrong type; expected {expected}")


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "a list",
    Mapping: "an object",
}


@functools.cache
def _types(cls: type[Config]) -> dict[str, Any]:
    """The types of a family's fields, as Python resolves them."""
    return typing.get_type_hints(cls)


def _family_of(given: Mapping[str, Any]) -> type[Config]:
    name = given.get("model_type")
    if isinstance(name, str) and name in _FAMILIES:
        return _FAMILIES[name]
    hint = "hint: other architectures are not run by this project"
    if isinstance(given.get("text_config"), Mapping):
        hint = "hint: it is a multimodal wrapper; its text_config alone may be of a supported family"
    raise ValueError(f"model_type {name!r} is not supported; expected one of {', '.join(_FAMILIES)}; {hint}")

"""Read a checkpoint directory: config, then named arrays straight from mapped files.

    with open_checkpoint("models/mini") as checkpoint:
        for name in checkpoint.names():
            use(name, checkpoint.array(name))

Opening checks all that can be checked without reading weights: every tensor that the config calls
for is there once, with its shape and a dtype that can be read, and nothing else is. Values are
checked when they are read: NaN and infinity are refused. Pickle files are never opened. A writer
that is killed leaves directories beside the checkpoint (write.py); they are not read, but named
when the checkpoint is absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.tensors import Tensor
from abruzzi.checkpoint.layout import StoredSpec, TensorSpec, expected_tensors, int4_parts, stored_tensors
from abruzzi.checkpoint.safetensors_file import SafetensorsFile, stands_in
from abruzzi.quant.ggml import GgmlMatrix
from abruzzi.quant.int4 import Int4Matrix
from abruzzi.types import brief

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LISTED = 10  # problems per message
_BLOCK = 1 << 20  # elements that are checked at once


class Checkpoint:
    """Named arrays of one checkpoint. A context manager; arrays stay valid after it is closed.

    config: config.json. inventory: its tensors by role. files: the safetensors files. skipped:
    stored tensors that the model does not use and that are left alone by rule (multi-token
    prediction, old rotary frequencies)."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.inventory = config.inventory
        self._specs = expected_tensors(config)
        shards = _open_shards(folder, stored_tensors(config), config)
        self.files = [shard.path for shard in shards]
        self._where = {name: shard for shard in shards for name in shard.entries}
        self.skipped = tuple(name for name in self._where if config.leaves_out(name, self._where))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every id that ends a generation: config.json's, and those that generation_config.json
        adds.

        Raises ValueError for a generation_config.json that cannot be read, or names an id beyond
        the vocabulary."""
        return tuple(
            dict.fromkeys((*self.config.eos_token_ids, *_generation_ends(self.folder, self.config.vocab_size)))
        )

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files (once no array uses them)."""
        for shard in self._where.values():
            shard.close()

    def let_go(self) -> None:
        """Take what was read of the files out of memory, as far as nothing else needs it; views
        stay valid."""
        for shard in {id(s): s for s in self._where.values()}.values():
            shard.let_go()

    def names(self) -> list[str]:
        """Logical tensor names, an INT4 matrix under its `.weight` name."""
        return list(self._specs)

    def is_int4(self, name: str) -> bool:
        """Whether the matrix is stored packed."""
        return self._spec(name).int4

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape."""
        return self._spec(name).shape

    def tensor(self, name: str) -> Tensor:
        """Its line of the inventory."""
        return self._spec(name).tensor

    def stored_dtype(self, name: str) -> str:
        """How a logical tensor is stored: "float32", "bfloat16", "float16", or "int4"."""
        return "int4" if self.is_int4(name) else self.raw(name).dtype.name

    def raw(self, stored_name: str) -> np.ndarray:
        """A stored tensor (`...weight`, `...weight_packed`, ...) as a read-only view of the file,
        unchecked."""
        if stored_name not in self._where:
            raise KeyError(f"no stored tensor {stored_name!r} in {self.folder}")
        return self._where[stored_name].view(stored_name)

    def array(self, name: str, check_finite: bool = True) -> np.ndarray:
        """A logical tensor: a view as stored (float32, float16 or bfloat16), or float32 from INT4.

        Raises ValueError that names tensor, file and place for NaN or infinity."""
        if self.is_int4(name):
            return self.packed(name, check_finite).dequantize()
        array = self.raw(name)
        if check_finite:
            self._refuse_non_finite(name, array)
        return array

    def blocks(self, name: str, check_finite: bool = True) -> GgmlMatrix | None:
        """A matrix in the blocks in which a GGUF file holds it; None where it is stored otherwise."""
        return None

    def packed(self, name: str, check_finite: bool = True) -> Int4Matrix:
        """The stored parts of an INT4 matrix, views of the file.

        Raises ValueError for a matrix that is not INT4, for a weight_shape that says something else
        than the config, and for scales that are not finite."""
        rows_width = self.shape(name)
        if not self.is_int4(name):
            raise ValueError(f"{name} is not stored in INT4; hint: use array()")
        packed_name, scale_name, shape_name = int4_parts(name)
        said = [int(n) for n in self.raw(shape_name)]
        if said != list(rows_width):
            raise ValueError(
                f"{self._where[shape_name].path}: {shape_name} says {said}, but config.json means {list(rows_width)}; "
                "hint: files of two checkpoints mixed?"
            )
        scale = self.raw(scale_name)
        if check_finite:
            self._refuse_non_finite(scale_name, scale)
        rows, width = rows_width
        return Int4Matrix(self.raw(packed_name), scale, (rows, width))

    def _spec(self, name: str) -> TensorSpec:
        if name not in self._specs:
            raise KeyError(f"no tensor {name!r} in {self.folder}")
        return self._specs[name]

    def _refuse_non_finite(self, stored_name: str, array: np.ndarray) -> None:
        place = first_non_finite(array)
        if place is not None:
            raise ValueError(
                f"{self._where[stored_name].path}: {stored_name} holds NaN or infinity, first at {place}; "
                "hint: the weights are damaged, fetch or train them again"
            )


def first_non_finite(array: np.ndarray) -> list[int] | None:
    """Index of the first NaN or infinity, or None. Works in blocks: no mask of the array's size."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        with np.errstate(invalid="ignore"):  # a signalling NaN is no news here
            finite = np.isfinite(flat[start : start + _BLOCK])
        if not finite.all():
            return [int(i) for i in np.unravel_index(start + int(np.argmin(finite)), array.shape)]
    return None


def _generation_ends(folder: Path, vocab_size: int) -> list[int]:
    file = folder / "generation_config.json"
    if not file.is_file():
        return []
    try:
        said: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not valid JSON ({type(error).__name__}); hint: fetch it again, or remove it"
        ) from None
    given = said.get("eos_token_id") if isinstance(said, dict) else None
    ids = [] if given is None else given if isinstance(given, list) else [given]
    if not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise ValueError(f"{file}: eos_token_id={brief(given)}; expected ids below {vocab_size}; hint: fetch it again")
    return ids


def hint_for_absent(folder: Path) -> str:
    if folder.is_file():
        return "that is a file; give the directory that holds it"
    aside = sorted(folder.parent.glob(f".{folder.name}.old-*")) if folder.parent.is_dir() else []
    if aside:
        return f"a writer was killed while it replaced it; the former one is whole: rename {aside[-1]} back"
    return "give the directory that holds config.json"


def _open_shards(folder: Path, stored: dict[str, StoredSpec], config: ModelConfig) -> list[SafetensorsFile]:
    """Map all files, and hold them against the config; all problems go into one ValueError."""
    names, weight_map = _file_names(folder)
    shards: list[SafetensorsFile] = []
    broken: dict[str, str] = {}
    for name in names:
        try:
            shards.append(SafetensorsFile(folder / name))
        except FileNotFoundError:
            broken[name] = f"{name} is not there, although {INDEX} names it; hint: download not complete?"
        except ValueError as error:
            broken[name] = str(error).replace(str(folder / name), name, 1)
    where = {name: shard for shard in shards for name in shard.entries}
    misfits = _Misfits(broken=[*broken.values()], misplaced=_misplaced(shards, weight_map, set(broken)))
    if weight_map or not broken:
        listing = INDEX if weight_map else SINGLE
        misfits.missing += [f"{n} is missing from {listing}" for n in stored if n not in where and n not in weight_map]
    for shard in shards:
        misfits.look(shard, stored, config, where)
    misfits.refuse(folder, stored, where)
    return shards


@dataclass(slots=True)
class _Misfits:
    """What does not fit between files and config.json, by kind, since each kind has a cause of its
    own."""

    broken: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)

    def look(
        self, shard: SafetensorsFile, stored: dict[str, StoredSpec], config: ModelConfig, where: Container[str]
    ) -> None:
        """Tensors of one file that the model does not have, or has with another shape or dtype."""
        for name, entry in shard.entries.items():
            spec, at = stored.get(name), shard.path.name
            if spec is None:
                if not config.leaves_out(name, where):
                    self.extra.append(f"{name} in {at} is not part of this model")
                continue
            if entry.shape != spec.shape:
                self.shapes.append(f"{name} in {at} has shape {list(entry.shape)}, expected {list(spec.shape)}")
            if entry.dtype not in spec.dtypes:
                self.dtypes.append(f"{name} in {at} is {entry.dtype}, expected {' or '.join(spec.dtypes)}")

    def refuse(self, folder: Path, stored: Container[str], where: Iterable[str]) -> None:
        """Raises ValueError where there are any."""
        kinds = (self.broken, self.misplaced, self.missing, self.extra, self.shapes, self.dtypes)
        problems = [problem for kind in kinds for problem in kind]
        if not problems:
            return
        # Some of each kind: a thousand of one must not hide another.
        room = max(1, LISTED // sum(bool(kind) for kind in kinds))
        shown = [problem for kind in kinds for problem in kind[: max(room, LISTED - len(problems) + len(kind))]]
        more = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        hints = "" if self.broken else f"; hint: {self._hint(stored, where)}"
        raise ValueError(f"{folder} cannot be read as its config.json says: {'; '.join(shown)}{more}{hints}")

    def _hint(self, stored: Container[str], where: Iterable[str]) -> str:
        prefix = next((p for n in where if (p := _prefix(n, stored))), None)
        if prefix:
            return f"the names begin with {prefix!r}: weights of a wrapper (multimodal?), not of this model alone"
        hints = []
        if any("_scale_inv" in problem for problem in self.extra):
            hints.append("weight_scale_inv belongs to FP8 weights, convert them to bf16 first")
        elif self.missing and self.extra:
            hints.append("missing and surplus: config.json of another model, or of another quantization?")
        elif self.missing:
            hints.append("missing: a download that is not complete, or a config.json with more layers or experts?")
        elif self.extra:
            hints.append("surplus: a config.json with fewer layers or experts than the weights have?")
        if self.shapes:
            hints.append("other shapes: config.json of another size of this model?")
        if self.dtypes:
            hints.append("another dtype: convert the checkpoint to bf16, or is quantization_config missing?")
        if self.misplaced:
            hints.append(f"misplaced: files of two checkpoints mixed, or an old {INDEX}?")
        return "; ".join(hints)


def _prefix(name: str, stored: Container[str]) -> str | None:
    """What stands in front of a name that the model knows without it."""
    if name in stored:
        return None
    places = (match.start() for match in re.finditer(r"model\.", name) if match.start())
    return next((name[:place] for place in places if name[place:] in stored), None)


def _misplaced(shards: list[SafetensorsFile], weight_map: dict[str, str], broken: set[str]) -> list[str]:
    """Tensors that two files hold, and those that are not where the index says they are."""
    problems: list[str] = []
    where: dict[str, str] = {}
    for shard in shards:
        for name in shard.entries:
            if name in where:
                problems.append(f"{name} is in {where[name]} and again in {shard.path.name}")
            elif weight_map and name not in weight_map:
                problems.append(f"{name} is in {shard.path.name}, but {INDEX} does not name it")
            where.setdefault(name, shard.path.name)
    for name, file in weight_map.items():
        if file not in broken and where.get(name) != file:
            found = f"; it is in {where[name]}" if name in where else ""
            problems.append(f"{name} is not in {file}, where {INDEX} says it is{found}")
    return problems


def _file_names(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the files to read and, for a sharded checkpoint, the index's map from tensor to file
    name."""
    has_index, has_single = (folder / INDEX).is_file(), (folder / SINGLE).is_file()
    if has_index and has_single:
        raise ValueError(
            f"{folder} holds both {SINGLE} and {INDEX}, and readers disagree on which counts; hint: remove one"
        )
    if has_index:
        weight_map = _weight_map(folder / INDEX)
        return sorted(set(weight_map.values())), weight_map
    if has_single:
        return [SINGLE], {}
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{folder} holds weights as pickle only ({', '.join(pickles[:3])}); unpickling can run any code, so they "
            "are refused; hint: convert the checkpoint to safetensors"
        )
    raise FileNotFoundError(f"{folder} holds neither {SINGLE} nor {INDEX}; hint: download not complete?")


def _weight_map(index: Path) -> dict[str, str]:
    if complaint := stands_in(index):
        raise ValueError(complaint)
    try:
        given: Any = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} is not valid JSON ({type(error).__name__}); hint: fetch it again") from None
    weight_map = given.get("weight_map") if isinstance(given, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensor names to file names; hint: fetch it again")
    for file in set(weight_map.values()):
        # A name with a path in it could lead out of the directory.
        if Path(file).name != file or not file.endswith(".safetensors") or not file.isprintable():
            raise ValueError(
                f"{index} names {file!a}; expected a .safetensors file in the same directory; hint: fetch it again"
            )
    return weight_map

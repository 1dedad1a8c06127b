"""Read a checkpoint directory: config, then named arrays straight from mapped files.

Opening checks all that can be checked without reading weights: every tensor that the config calls for is
there once, with its shape and a dtype that can be read, and nothing else is. Values are checked when they
are read: NaN and infinity are refused. Pickle files are never opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from abruzzi.checkpoint.layout import expected_tensors, int4_parts, is_ignored, stored_tensors
from abruzzi.checkpoint.safetensors_file import SafetensorsFile
from abruzzi.config import ModelConfig
from abruzzi.quant.int4 import Int4Matrix

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LISTED = 10  # problems per message


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open and check a directory in Hugging Face layout.

    Raises FileNotFoundError for what is absent, ValueError that lists tensors and files for what is wrong."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder}; hint: give the directory that holds config.json")
    config = ModelConfig.load(folder)
    return Checkpoint(config, folder)


class Checkpoint:
    """Named arrays of one checkpoint. A context manager; arrays stay valid after it is closed."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self._specs = expected_tensors(config)
        self.files, self._shards, self._where = _open_files(config, folder)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files (once no array uses them)."""
        for shard in self._shards:
            shard.close()
        self._shards = []

    def names(self) -> list[str]:
        """Logical tensor names, an INT4 matrix under its `.weight` name."""
        return list(self._specs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def is_int4(self, name: str) -> bool:
        """Whether the matrix is stored packed."""
        return self._spec(name).int4

    def shape(self, name: str) -> tuple[int, ...]:
        """The logical shape."""
        return self._spec(name).shape

    def raw(self, stored_name: str) -> np.ndarray:
        """A stored tensor as a read-only view of the file, unchecked."""
        if stored_name not in self._where:
            raise KeyError(f"no stored tensor {stored_name!r} in {self.folder}")
        return self._where[stored_name].view(stored_name)

    def array(self, name: str, check_finite: bool = True) -> np.ndarray:
        """A logical tensor: as stored (float32, float16 or bfloat16), or float32 from INT4.

        Raises ValueError that names tensor, file and place for NaN or infinity."""
        if self._spec(name).int4:
            return self.packed(name, check_finite).dequantize()
        array = self.raw(name)
        if check_finite:
            self._refuse_non_finite(name, array)
        return array

    def packed(self, name: str, check_finite: bool = True) -> Int4Matrix:
        """The stored parts of an INT4 matrix, views of the file. Raises ValueError for one that is not."""
        spec = self._spec(name)
        if not spec.int4:
            raise ValueError(f"{name} is not stored in INT4; hint: use array()")
        packed_name, scale_name, shape_name = int4_parts(name)
        said = tuple(int(n) for n in self.raw(shape_name))
        if said != spec.shape:
            raise ValueError(f"{self._where[shape_name].path}: {shape_name} says {said}, expected {spec.shape}")
        scale = self.raw(scale_name)
        if check_finite:
            self._refuse_non_finite(scale_name, scale)
        rows, width = spec.shape
        return Int4Matrix(self.raw(packed_name), scale, (rows, width))

    def _spec(self, name: str):
        if name not in self._specs:
            raise KeyError(f"no tensor {name!r} in {self.folder}")
        return self._specs[name]

    def _refuse_non_finite(self, name: str, array: np.ndarray) -> None:
        finite = np.isfinite(array)
        if not finite.all():
            first = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"{self._where[name].path}: {name} holds NaN or infinity, first at {list(first)} "
                f"({int((~finite).sum())} in all); hint: the weights are damaged, fetch or train them again"
            )


def _open_files(
    config: ModelConfig, folder: Path
) -> tuple[list[Path], list[SafetensorsFile], dict[str, SafetensorsFile]]:
    files, weight_map = _files(folder)
    shards = [SafetensorsFile(f) for f in files]
    problems: list[str] = []
    where: dict[str, SafetensorsFile] = {}
    for shard in shards:
        for name in shard.entries:
            if name in where:
                problems.append(f"{name} is in {where[name].path.name} and again in {shard.path.name}")
            where.setdefault(name, shard)
    for name, file in weight_map.items():
        if name not in where or where[name].path.name != file:
            problems.append(f"{name} is not in {file}, where {INDEX} says it is")
    stored = stored_tensors(config)
    problems += [f"{name} is missing" for name in stored if name not in where and name not in weight_map]
    for name, shard in where.items():
        if is_ignored(name, config):
            continue
        if name not in stored:
            problems.append(f"{name} in {shard.path.name} is not part of this model")
            continue
        entry, spec = shard.entries[name], stored[name]
        if entry.shape != spec.shape:
            problems.append(f"{name} in {shard.path.name} has shape {list(entry.shape)}, expected {list(spec.shape)}")
        if entry.dtype not in spec.dtypes:
            problems.append(f"{name} in {shard.path.name} is {entry.dtype}, expected {' or '.join(spec.dtypes)}")
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            f"{folder} does not fit its config.json: {'; '.join(problems[:_LISTED])}{more}; "
            "hint: files of two checkpoints mixed, or a download that is not complete?"
        )
    return files, shards, where


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files and, for a sharded checkpoint, the index's map from tensor to file name."""
    index = folder / INDEX
    if index.is_file():
        weight_map = _weight_map(index)
        names = sorted(set(weight_map.values()))
        absent = [n for n in names if not (folder / n).is_file()]
        if absent:
            raise FileNotFoundError(f"{index} names {', '.join(absent[:5])}, not there; hint: download not complete?")
        return [folder / n for n in names], weight_map
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], {}
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{folder} holds pickle files only ({', '.join(pickles[:3])}); unpickling can run any code, so they are "
            "refused; hint: convert the checkpoint to safetensors"
        )
    raise FileNotFoundError(f"{folder} holds neither {SINGLE} nor {INDEX}; hint: download not complete?")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        given = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} is not valid JSON: {error}; hint: fetch it again") from None
    weight_map = given.get("weight_map") if isinstance(given, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensor names to file names")
    for file in set(weight_map.values()):
        # A name with a path in it could lead out of the directory.
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{index} names {file!r}; expected the name of a .safetensors file in the same directory")
    return weight_map

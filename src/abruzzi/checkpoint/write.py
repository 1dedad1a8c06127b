"""Write a checkpoint directory, whole or not at all.

Everything goes into a hidden directory beside the target, is flushed to disk, and is then renamed into
place; an older checkpoint is set aside first and removed last. Whoever reads the target sees the old one
or the new one. A writer that is killed leaves a directory `.NAME.writing-*` (or `.NAME.old-*`, complete)
beside the target and nothing else.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from abruzzi.checkpoint.layout import TensorSpec, expected_tensors, int4_parts, stored_tensors
from abruzzi.checkpoint.read import INDEX, SINGLE
from abruzzi.config import Int4Scheme, ModelConfig
from abruzzi.quant.int4 import quantize_matrix

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
# The selection bias decides which expert is chosen; rounding it would change routes.
ALWAYS_FLOAT32 = "e_score_correction_bias"


def save_checkpoint(
    path: str | Path,
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str = "bfloat16",
    int4: bool = False,
    max_shard_bytes: int = 5_000_000_000,
    extra_files: Mapping[str, str | bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write config.json, safetensors and `extra_files` (tokenizer, template) to the directory `path`.

    tensors: float arrays by logical name; looked up one at a time, so a lazy mapping keeps memory at one
    shard. dtype: how unquantized tensors are stored. int4: store routed experts in K2-Thinking's INT4
    (config.json says so). Raises ValueError for missing, surplus, misshapen or non-finite tensors before
    anything is replaced, FileExistsError for an existing target unless `overwrite`."""
    target = Path(path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; expected one of {', '.join(DTYPES)}")
    if target.exists() and not overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists; hint: choose another name, or ask to overwrite it")
    config = config.with_int4(Int4Scheme() if int4 else None)
    config = replace(config, raw={**config.to_dict(), "torch_dtype": dtype})
    _refuse_other_names(config, tensors)
    extras = dict(extra_files or {})
    bad = [n for n in extras if Path(n).name != n or n == "config.json" or n.endswith(".safetensors")]
    if bad:
        raise ValueError(f"extra file {bad[0]!r}; expected a plain file name that the checkpoint itself does not use")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.writing-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        config.save(temporary)
        for name, content in extras.items():
            data = content.encode("utf-8") if isinstance(content, str) else content
            (temporary / name).write_bytes(data)
        _write_shards(temporary, config, tensors, dtype, max_shard_bytes)
        _flush(temporary)
        _put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_other_names(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
    expected = expected_tensors(config)
    missing = [n for n in expected if n not in tensors]
    surplus = [n for n in tensors if n not in expected]
    if missing or surplus:
        named = {"missing": missing, "surplus": surplus}
        said = ", ".join(f"{len(names)} {what} (first: {names[0]})" for what, names in named.items() if names)
        raise ValueError(f"tensors do not fit the config: {said}")


def _plan(config: ModelConfig, dtype: str, max_shard_bytes: int) -> list[list[str]]:
    """Logical names per shard, in order; a shard exceeds the limit only for one tensor larger than it."""
    stored = stored_tensors(config)
    shards: list[list[str]] = [[]]
    used = 0
    for name, spec in expected_tensors(config).items():
        parts = int4_parts(name) if spec.int4 else (name,)
        item = 4 if spec.int4 or name.endswith(ALWAYS_FLOAT32) else DTYPES[dtype].itemsize
        size = sum(int(np.prod(stored[p].shape)) * item for p in parts)
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _write_shards(
    folder: Path, config: ModelConfig, tensors: Mapping[str, np.ndarray], dtype: str, max_shard_bytes: int
) -> None:
    shards = _plan(config, dtype, max_shard_bytes)
    specs = expected_tensors(config)
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        arrays = {}
        for name in names:
            arrays.update(_stored(name, specs[name], tensors[name], dtype))
        # transformers refuses files without this mark.
        save_file(arrays, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(arrays, file))
        total += sum(a.nbytes for a in arrays.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _stored(name: str, spec: TensorSpec, array: np.ndarray, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    if array.shape != spec.shape:
        raise ValueError(f"{name} has shape {list(array.shape)}, expected {list(spec.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity; it is not written")
    if spec.int4:
        packed_name, scale_name, shape_name = int4_parts(name)
        matrix = quantize_matrix(array)
        yield packed_name, matrix.packed
        yield scale_name, matrix.scale
        yield shape_name, np.array(matrix.shape, np.int64)
        return
    wanted = np.dtype(np.float32) if name.endswith(ALWAYS_FLOAT32) else DTYPES[dtype]
    stored = np.ascontiguousarray(array.astype(wanted))
    if not np.isfinite(stored).all():
        raise ValueError(f"{name} holds values too large for {dtype}; it is not written")
    yield name, stored


def _flush(folder: Path) -> None:
    for entry in [*folder.iterdir(), folder]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put_in_place(temporary: Path, target: Path) -> None:
    aside = None
    if target.exists():
        aside = target.parent / f".{target.name}.old-{secrets.token_hex(4)}"
        target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        if aside is not None:
            aside.rename(target)
        raise
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if aside is not None:
        shutil.rmtree(aside)

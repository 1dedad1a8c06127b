"""Write a checkpoint directory, whole or not at all.

Everything goes into a hidden directory beside the target and is flushed to disk; then that
directory is renamed to the target's name. With `overwrite`, the former checkpoint is first renamed
aside and removed last. So a reader finds the former one or the new one, complete; between the two
renames it finds none. Whatever fails, the former one is put back. A writer that is *killed* leaves
`.NAME.writing-*` (incomplete, may be deleted) or `.NAME.old-*` (the former one, complete) beside
the target, and the target itself is the former one, the new one, or, if the kill fell between the
renames, absent: then the reader's error names what to rename back. Not here: optimizer state, which
lies beside a checkpoint, never inside.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.checkpoint.layout import (
    WRITABLE,
    TensorSpec,
    expected_tensors,
    int4_parts,
    stored_tensors,
    written_dtype,
)
from abruzzi.checkpoint.read import INDEX, PICKLES, SINGLE, first_non_finite
from abruzzi.checkpoint.safetensors_file import DTYPES, write_safetensors
from abruzzi.quant.int4 import quantize_matrix

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def save_checkpoint(
    path: str | Path,
    config: ModelConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str = "bfloat16",
    int4: bool | None = None,
    max_shard_bytes: int = 5_000_000_000,
    extra_files: Mapping[str, str | bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write config.json, safetensors and `extra_files` (tokenizer, template) to the directory
    `path`.

    tensors: float arrays by logical name. dtype: how unquantized tensors are stored (the selection
    bias: always float32). int4: store routed experts in INT4; None = as the config says.
    max_shard_bytes: a larger model becomes several files with an index. Raises ValueError for
    missing, surplus or misshapen tensors before anything is written, and for NaN and infinity
    before anything is replaced; FileExistsError for an existing target unless `overwrite`."""
    expected = expected_tensors(_stored_config(config, dtype, int4))
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not part of this model" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {list(np.shape(tensors[name]))}, expected {list(spec.shape)}"
        for name, spec in expected.items()
        if name in tensors and np.shape(tensors[name]) != spec.shape
    ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"tensors do not fit the config: {'; '.join(problems[:10])}{more}; hint: nothing is written")
    write_checkpoint(
        path,
        config,
        tensors.__getitem__,
        dtype=dtype,
        int4=int4,
        max_shard_bytes=max_shard_bytes,
        extra_files=extra_files or {},
        overwrite=overwrite,
    )


def write_checkpoint(
    path: str | Path,
    config: ModelConfig,
    read: Callable[[str], np.ndarray],
    *,
    dtype: str,
    int4: bool | None,
    max_shard_bytes: int,
    extra_files: Mapping[str, str | bytes],
    overwrite: bool,
) -> None:
    """`save_checkpoint` for arrays that `read` fetches by logical name, each once: one is in memory
    at a time."""
    target = Path(os.path.realpath(path))  # through a symlink: its target is replaced, not the link
    config = _stored_config(config, dtype, int4)
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes}; expected 1 or more")
    _refuse_target(target, overwrite)
    _refuse_extras(extra_files)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.writing-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        config.save(temporary)
        for name, content in extra_files.items():
            (temporary / name).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        _write_shards(temporary, config, read, dtype, max_shard_bytes)
        for entry in [*temporary.iterdir(), temporary]:
            _flush(entry)
        _put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _stored_config(config: ModelConfig, dtype: str, int4: bool | None) -> ModelConfig:
    """The config that goes into the file: says INT4 or not, and the dtype."""
    if dtype not in WRITABLE:
        raise ValueError(f"dtype={dtype!r}; expected one of {', '.join(WRITABLE)}")
    if int4 is False:
        config = config.with_int4(None)
    elif int4 and config.int4 is None:
        config = config.with_int4(Int4Scheme())
    raw = config.to_dict()
    # transformers 4 writes and reads torch_dtype; 5 writes dtype and reads both.
    keys = [key for key in ("dtype", "torch_dtype") if key in raw] or ["torch_dtype"]
    raw |= dict.fromkeys(keys, dtype)
    if raw.get("quantization_config", "") is None:
        del raw["quantization_config"]  # transformers 5 takes the key for a quantized model, whatever it says
    return replace(config, raw=raw)


def _refuse_target(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists; hint: choose another name, or ask to overwrite it")
    if not (target / "config.json").is_file():
        raise FileExistsError(f"{target} is not a checkpoint (no config.json) and is not replaced; hint: another name?")


def _refuse_extras(extra_files: Mapping[str, str | bytes]) -> None:
    for name in extra_files:
        plain = name == Path(name).name and name not in ("", "..")
        if not plain or name in ("config.json", INDEX) or Path(name).suffix in (".safetensors", *PICKLES):
            raise ValueError(
                f"extra file {name!r}; expected a plain file name that the checkpoint itself does not use, no pickle"
            )


def _write_shards(
    folder: Path, config: ModelConfig, read: Callable[[str], np.ndarray], dtype: str, max_shard_bytes: int
) -> None:
    specs = expected_tensors(config)
    entries = {name: (written_dtype(spec, dtype), spec.shape) for name, spec in stored_tensors(config).items()}
    shards, total = _plan(specs, entries, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        mine = {part: entries[part] for name in names for part in _parts(name, specs[name])}
        dtypes = {name: None if specs[name].int4 else entries[name][0] for name in names}
        arrays = (pair for name in names for pair in _stored(name, specs[name], read(name), dtypes[name]))
        write_safetensors(folder / file, mine, arrays)
        weight_map.update(dict.fromkeys(mine, file))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _plan(
    specs: Mapping[str, TensorSpec], entries: Mapping[str, tuple[str, tuple[int, ...]]], limit: int
) -> tuple[list[list[str]], int]:
    """Logical names per shard, in order, and the bytes of all. A shard exceeds the limit only if it
    holds one tensor; the parts of an INT4 matrix stay together."""
    shards: list[list[str]] = [[]]
    used = total = 0
    for name, spec in specs.items():
        parts = [entries[part] for part in _parts(name, spec)]
        size = sum(int(np.prod(shape)) * DTYPES[dtype].itemsize for dtype, shape in parts)
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
        total += size
    return shards, total


def _parts(name: str, spec: TensorSpec) -> tuple[str, ...]:
    return int4_parts(name) if spec.int4 else (name,)


def _stored(name: str, spec: TensorSpec, array: np.ndarray, dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """A logical array as what is stored of it; dtype None: INT4. Raises ValueError that names the
    tensor."""
    if not isinstance(array, np.ndarray) or array.dtype not in _FLOATS:
        given = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{name} is {given}; expected a NumPy array of float32, float16 or bfloat16")
    if array.shape != spec.shape:
        raise ValueError(f"{name} has shape {list(array.shape)}, expected {list(spec.shape)}")
    place = first_non_finite(array)
    if place is not None:
        raise ValueError(f"{name} holds NaN or infinity, first at {place}; it is not written")
    if dtype is None:
        packed_name, scale_name, shape_name = int4_parts(name)
        matrix = quantize_matrix(array)
        yield packed_name, matrix.packed
        yield scale_name, matrix.scale
        yield shape_name, np.array(matrix.shape, np.int64)
        return
    with np.errstate(over="ignore"):  # looked for right below
        rounded = array.astype(DTYPES[dtype], copy=False)
    place = first_non_finite(rounded)
    if place is not None:
        raise ValueError(f"{name} holds a value too large for {rounded.dtype}, first at {place}; it is not written")
    yield name, rounded


def _put_in_place(temporary: Path, target: Path) -> None:
    aside = target.parent / f".{target.name}.old-{os.getpid()}-{secrets.token_hex(4)}"
    replaces = target.exists() and any(target.iterdir())
    if replaces:
        os.rename(target, aside)
    try:
        os.rename(temporary, target)  # an empty directory there is replaced by this alone
    except BaseException:
        if replaces:
            os.rename(aside, target)
        raise
    _flush(target.parent)
    if replaces:
        # Under the temporary's name it is removed by the caller, so that `.old-*` is never half a
        # checkpoint.
        os.rename(aside, temporary)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""How long a start takes: with nothing kept, with the packed weights being written, and with them
on the disk.

    python bench/second_start.py --shape mini|moonlight --folder DIR [--keep] [--out FILE]

A checkpoint of the shape with random weights (INT4 experts, the rest bfloat16) is written into DIR,
then loaded by processes of their own: from start to the first token of a short prompt. `cold`: with
the page cache dropped, where that is allowed. Also how fast both ways of holding the weights
decode: in memory of the process, and mapped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from abruzzi.arch import Int4Scheme, ModelConfig
from abruzzi.checkpoint.layout import stored_tensors, written_dtype
from abruzzi.checkpoint.safetensors_file import write_safetensors
from abruzzi.engine.weights.random_model import named_shape
from machine import cores, describe, emit, output_option
from nano_decode import drop_page_cache

START = """
import json, resource, sys, time
began = time.perf_counter()
from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.measure.speed import Stopwatch, Workload
with open_checkpoint(sys.argv[1]) as checkpoint:
    runner = NativeRunner.load(checkpoint, precision="fast", weights=sys.argv[2])
    loaded = time.perf_counter()
    watch = Stopwatch(runner, Workload(prefill=16, decode=16))
    watch.prefill()
    first = time.perf_counter()
    rates = [16 / watch.decode() for _ in range(5)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"load_s": loaded - began, "first_token_s": first - began, "decode_tok_s": sorted(rates)[2],
                      "peak_memory_bytes": peak, "weights_bytes": runner.weight_bytes}))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--shape", choices=("mini", "moonlight"), default="mini")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--weights", default="native")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there for another run")
    given = parser.parse_args(arguments)
    checkpoint = given.folder / given.shape
    if not checkpoint.exists():
        write_checkpoint(checkpoint, named_shape(given.shape).with_int4(Int4Scheme()))
    home = given.folder / "home"
    shutil.rmtree(home, ignore_errors=True)

    def start(**environment: str) -> dict[str, Any]:
        env = {**os.environ, "ABRUZZI_HOME": str(home), "ABRUZZI_PACKED": "0", **environment}
        command = [sys.executable, "-c", START, str(checkpoint), given.weights]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)

    rows = {"nothing kept": start(ABRUZZI_PACKED="off"), "first, hashes and writes": start()}
    rows |= {"second": start(), "third": start()}
    if drop_page_cache():
        rows["cold, kept"] = start()
    if drop_page_cache():
        rows["cold, nothing kept"] = start(ABRUZZI_PACKED="off")
    size = sum(f.stat().st_size for f in checkpoint.glob("*.safetensors"))
    result = {
        "bench": "second_start",
        **describe(threads=cores()),
        "settings": {"shape": given.shape, "weights": given.weights},
        "checkpoint_bytes": size,
        "packed_bytes": sum(f.stat().st_size for f in (home / "packed").glob("*.packed")),
        "starts": rows,
    }
    emit(result, given.out)
    shutil.rmtree(home)
    if not given.keep:
        shutil.rmtree(checkpoint)
    return 0


def write_checkpoint(folder: Path, config: ModelConfig) -> None:
    """Random weights of a size that does not blow up; one pattern of random numbers, shifted from
    tensor to tensor."""
    rng = np.random.default_rng(0)
    longest = config.vocab_size * config.hidden_size
    floats = rng.uniform(-0.05, 0.05, 1 << 20).astype(ml_dtypes.bfloat16)
    floats = np.tile(floats, -(-longest // len(floats)) + 1)
    words = rng.integers(-(1 << 31), 1 << 31, 1 << 22, np.int32)
    entries = {n: (written_dtype(s, "bfloat16"), s.shape) for n, s in stored_tensors(config).items()}

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for number, (name, (dtype, shape)) in enumerate(entries.items()):
            size, shift = math.prod(shape), number * 7919 % (1 << 20)
            if name.endswith("_shape"):
                rows, columns = entries[name.removesuffix("_shape") + "_packed"][1]
                yield name, np.array([rows, columns * 8], np.int64)
            elif dtype == "I32":
                yield name, words[shift : shift + size].reshape(shape)
            elif name.endswith("_scale"):
                yield name, np.full(shape, 0.004, ml_dtypes.bfloat16)
            else:
                values = floats[shift : shift + size].reshape(shape)
                values = np.ones(shape, values.dtype) if len(shape) == 1 and "bias" not in name else values
                yield name, values.astype(np.float32) if dtype == "F32" else values

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_safetensors(part / "model.safetensors", entries, arrays())
    config.save(part)
    part.rename(folder)


if __name__ == "__main__":
    raise SystemExit(main())

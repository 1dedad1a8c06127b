"""Speed of the compiled kernels, side by side with what a Python user would otherwise call.

    python bench/kernels.py [--out FILE]

One thread. INT4 matrices are streamed over more memory than any cache holds, as the experts of a large
model are, and the bandwidth of reading that much memory is measured in the same run. Peers: torch's
bfloat16 product of one token (four times the bytes) and the NumPy twin; for RMSNorm torch's own.
Ratios carry over to other machines, absolute figures do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from abruzzi.kernels import ops, ref, supported_isas
from machine import describe, emit, output_option, timed

SHAPES = ((1408, 2048), (2048, 1408))
STREAM_BYTES = 256 << 20
REPEATS = 7


def main(arguments: Sequence[str] | None = None) -> int:
    given = output_option(__doc__).parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    bandwidth = read_bandwidth()
    result: dict[str, Any] = {
        "bench": "kernels",
        **describe(threads=1),
        "settings": {"stream_bytes": STREAM_BYTES, "repeats": REPEATS, "torch": torch.__version__},
        "read_gb_s": bandwidth,
        "int4_matvec": [int4(rows, width, rng, bandwidth, torch) for rows, width in SHAPES],
        "rmsnorm": [rmsnorm(rows, 2048, rng, torch) for rows in (1, 256)],
    }
    emit(result, given.out)
    return 0


def read_bandwidth() -> float:
    """GB/s of one thread summing a large array."""
    words = np.ones(STREAM_BYTES // 8, np.uint64)
    return STREAM_BYTES / statistics.median(timed(words.sum, REPEATS)) / 1e9


def int4(rows: int, width: int, rng: np.random.Generator, bandwidth: float, torch: Any) -> dict[str, Any]:
    size = rows * width // 2 + rows * width // 32 * 2
    count = STREAM_BYTES // size
    packed = rng.integers(-(2**31), 2**31, (count, rows, width // 8)).astype(np.int32)
    scale = rng.normal(size=(count, rows, width // 32)).astype(ml_dtypes.bfloat16)
    x = rng.normal(size=width).astype(np.float32)
    entry: dict[str, Any] = {"rows": rows, "width": width, "matrices": count, "samples_s": {}}
    for isa in supported_isas():

        def stream(isa: str = isa) -> None:
            for p, s in zip(packed, scale):
                ops.int4_matvec(p, s, x, isa=isa)

        entry["samples_s"][isa] = timed(stream, 3 if isa == "scalar" else REPEATS)
    best = statistics.median(entry["samples_s"][supported_isas()[-1]]) / count
    entry["gb_s"] = size / best / 1e9
    entry["share_of_read_bandwidth"] = entry["gb_s"] / bandwidth
    entry["gflop_s"] = 2 * rows * width / best / 1e9

    twin = statistics.median(timed(lambda: ref.int4_matvec(packed[0], scale[0].view(np.uint16), x), 3))
    wide = [torch.randn(rows, width, dtype=torch.bfloat16) for _ in range(max(2, STREAM_BYTES // (rows * width * 2)))]
    xt = torch.from_numpy(x).bfloat16()
    peer = statistics.median(timed(lambda: [w @ xt for w in wide], REPEATS)) / len(wide)
    entry["times_faster_than"] = {"numpy_twin": twin / best, "torch_bfloat16": peer / best}
    return entry


def rmsnorm(rows: int, width: int, rng: np.random.Generator, torch: Any) -> dict[str, Any]:
    x = rng.normal(size=(rows, width)).astype(np.float32)
    weight = rng.uniform(0.5, 1.5, width).astype(np.float32)
    xt, wt = torch.from_numpy(x), torch.from_numpy(weight)
    calls = 2000 // rows + 20

    def repeat(call: Any) -> float:
        return statistics.median(timed(lambda: [call() for _ in range(calls)], REPEATS)) / calls

    samples = {isa: repeat(lambda isa=isa: ops.rmsnorm(x, weight, 1e-6, isa=isa)) for isa in supported_isas()}
    best = samples[supported_isas()[-1]]
    peer = repeat(lambda: torch.nn.functional.rms_norm(xt, (width,), wt, 1e-6))
    twin = repeat(lambda: ref.rmsnorm(x, weight, 1e-6))
    return {
        "rows": rows,
        "width": width,
        "median_s": samples,
        "times_faster_than": {"numpy_twin": twin / best, "torch_float32": peer / best},
    }


if __name__ == "__main__":
    raise SystemExit(main())

"""Speed of the compiled kernels, side by side with what a Python user would otherwise call.

    python bench/kernels.py [--out FILE]

One thread. Matrices are streamed over more memory than any cache holds, as the experts of a large
model are; the bandwidth of reading and the peak of 8-bit products are measured in the same run.
Peers: torch's bfloat16 product of as many tokens (four times the bytes of INT4); for RMSNorm
torch's own, and the NumPy twin. Ratios carry over to other machines, absolute figures do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from abruzzi.kernels import ops, ref, supported_isas
from machine import describe, emit, output_option, timed

SHAPE = (1408, 2048)  # an expert of Moonlight
PRODUCTS = (("int4", "int8"), ("int8", "int8"), ("int4", "float32"), ("bfloat16", "float32"))
STREAM_BYTES = 256 << 20
REPEATS = 7


def main(arguments: Sequence[str] | None = None) -> int:
    given = output_option(__doc__).parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    roof = limits()
    result: dict[str, Any] = {
        "bench": "kernels",
        **describe(threads=1),
        "settings": {"stream_bytes": STREAM_BYTES, "repeats": REPEATS, "torch": torch.__version__},
        "limits": roof,
        "products": [
            product(kind, inputs, tokens, rng, roof, torch) for kind, inputs in PRODUCTS for tokens in (1, 12, 512)
        ],
        "rmsnorm": [rmsnorm(rows, 2048, rng, torch) for rows in (1, 256)],
    }
    emit(result, given.out)
    return 0


def product(kind: str, inputs: str, tokens: int, rng: np.random.Generator, limits: dict[str, float], torch: Any) -> Any:
    """One kind of weights, streamed; inputs "float32" or "int8". Peer: torch's bfloat16 product of
    as many tokens."""
    rows, width = SHAPE
    size = ops.pack_random(kind, rows, width, 0).nbytes
    count = max(2, STREAM_BYTES // size // (1 if tokens < 16 else 16))
    weights = [ops.pack_random(kind, rows, width, i) for i in range(count)]
    x = rng.normal(size=(tokens, width)).astype(np.float32)
    call = ops.linear if inputs == "float32" else ops.linear_int8
    samples = {
        isa: timed(lambda isa=isa: [call(x, w, isa=isa) for w in weights], REPEATS)
        for isa in supported_isas()
        if isa != "scalar"
    }
    wide = [torch.randn(rows, width, dtype=torch.bfloat16) for _ in range(max(2, count // 4))]
    xt = torch.from_numpy(x).bfloat16()
    peer = statistics.median(timed(lambda: [xt @ w.T for w in wide], REPEATS)) / len(wide)
    best = statistics.median(samples[supported_isas()[-1]]) / count
    gb_s, gop_s = size / best / 1e9, 2 * rows * width * tokens / best / 1e9
    return {
        "weights": kind,
        "inputs": inputs,
        "tokens": tokens,
        "samples_s": samples,
        "matrices": count,
        "gb_s": gb_s,
        "share_of_bandwidth": gb_s / limits["bandwidth_gb_s"],
        "gop_s": gop_s,
        "share_of_int8_peak": gop_s / limits["int8_peak_gop_s"] if inputs == "int8" else None,
        "times_faster_than_torch_bfloat16": peer / best,
    }


def limits() -> dict[str, float]:
    """Of one thread, right now."""
    return {
        "bandwidth_gb_s": statistics.median(ops.measure_bandwidth(1)) / 1e9,
        "int8_peak_gop_s": statistics.median(ops.measure_int8_peak(1)) / 1e9,
    }


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

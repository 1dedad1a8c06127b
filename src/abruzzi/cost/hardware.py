"""GPUs that costs are stated for: peak arithmetic, memory, power. Figures of the SXM boards' data
sheets.

Peaks are dense BF16; data sheets print twice that, with sparsity. The H800 is an H100 with narrower
links between GPUs and the same arithmetic.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

# What a GPU draws with its share of the host, network and cooling; and cooling over everything
# else. Together they put DeepSeek-V3's run at 3.35 GWh, whose price is within the 2 to 6 % of the
# cost that Epoch AI finds for energy (arXiv 2405.21015).
WATTS_PER_GPU = 1000.0
PUE = 1.2


@dataclass(frozen=True, slots=True)
class Gpu:
    """bf16_flop_s: dense peak. bandwidth: bytes per second. memory: bytes."""

    name: str
    bf16_flop_s: float
    bandwidth: float
    memory: float
    source: str


GPUS = {
    g.name: g
    for g in (
        Gpu("h800", 989e12, 3.35e12, 80e9, "NVIDIA's H100 data sheet (same arithmetic)"),
        Gpu("h100", 989e12, 3.35e12, 80e9, "NVIDIA's H100 data sheet, SXM"),
        Gpu("h200", 989e12, 4.8e12, 141e9, "NVIDIA's H200 data sheet, SXM"),
    )
}


def gpu(name: str) -> Gpu:
    """By name, whatever the case. Raises ValueError that names the nearest."""
    found = GPUS.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), GPUS, n=1, cutoff=0.0)[0]
        raise ValueError(f"gpu {name!r} is not known; expected one of {', '.join(GPUS)}; hint: did you mean {near!r}?")
    return found

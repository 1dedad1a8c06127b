"""`abruzzi bench` over several shapes and modes of weights, as one record.

    python bench/shapes.py --shape nano --shape mini [--weights all-4-bit] [--repeat 5] [--out FILE]

Each setting is a process of its own, so that its peak memory is its own. tok/s are medians.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from machine import describe, emit, output_option

MODES = ("native", "int8-dense", "all-4-bit")
# nano's context ends at 4096; its one-core figure is a target of its own.
SETTINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "nano": (
        ("--threads", "1", "--prefill", "512", "--decode", "256"),
        ("--prefill", "512", "--decode", "256"),
        ("--prefill", "0", "--decode", "64", "--batch", "8"),
    ),
    "mini": (
        ("--prefill", "512", "--decode", "128"),
        ("--prefill", "2048", "--decode", "32", "--depth", "4096"),
        *(("--prefill", "0", "--decode", "32", "--batch", str(b)) for b in (4, 8, 16)),
    ),
    "moonlight": (
        ("--prefill", "512", "--decode", "32"),
        ("--prefill", "0", "--decode", "16", "--depth", "4096"),
        *(("--prefill", "0", "--decode", "16", "--batch", str(b)) for b in (4, 8, 16)),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--shape", action="append", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--weights", action="append", choices=MODES)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args(arguments)
    rows = list(measured(given.shape, given.weights or MODES, given.repeat))
    threads = max(row["threads"] for row in rows)
    emit({"bench": "shapes", **describe(threads=threads), "rows": rows}, given.out)
    print("\n".join(table(rows)), file=sys.stderr)
    return 0


def measured(shapes: Sequence[str], modes: Sequence[str], repeat: int) -> Iterator[dict[str, Any]]:
    for shape in shapes:
        for mode in modes:
            for setting in SETTINGS[shape]:
                options = ["--shape", shape, "--weights", mode, "--repeat", str(repeat), *setting]
                print("abruzzi bench", *options, file=sys.stderr)
                command = [sys.executable, "-m", "abruzzi.cli.main", "bench", "--json", *options]
                yield json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'shape':10} {'weights':10} {'threads':>7} {'batch':>5} {'depth':>5} {'prefill':>8} {'of peak':>7} "
        f"{'decode':>8} {'of memory':>9} {'MB/token':>8}"
    )
    for r in rows:
        yield (
            f"{r['shape']:10} {r['weights']:10} {r['threads']:7} {r['batch']:5} {r['depth']:5} "
            f"{_cell(r['prefill_tok_s'], 8, '.1f')} {_cell(r['share_of_peak'], 7, '.0%')} "
            f"{_cell(r['decode_tok_s'], 8, '.1f')} {_cell(r['share_of_bandwidth'], 9, '.0%')} "
            f"{r['bytes_per_token'] / 1e6:8.1f}"
        )


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


if __name__ == "__main__":
    raise SystemExit(main())

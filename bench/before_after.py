"""Two checkouts beside each other: `abruzzi bench` of each in turn, and the ratio after / before.

    python bench/before_after.py --before OLD/.venv/bin/python --after .venv/bin/python [--rounds 3] [--out FILE]

Which side begins changes from round to round, because the machine's speed drifts. tok/s of a side
are the medians of its rounds, the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from machine import describe, emit, output_option

SETTINGS: tuple[tuple[str, ...], ...] = (
    ("--shape", "nano", "--threads", "1", "--prefill", "512", "--decode", "256"),
    ("--shape", "nano", "--prefill", "0", "--decode", "64", "--batch", "8"),
    ("--shape", "mini", "--prefill", "512", "--decode", "64"),
    ("--shape", "mini", "--prefill", "0", "--decode", "16", "--batch", "8"),
)
MODES = ("native", "all-4-bit")
RATES = ("prefill_tok_s", "decode_tok_s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--before", required=True, help="Python of the checkout before")
    parser.add_argument("--after", required=True, help="Python of the checkout after")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    rows = list(measured({"before": given.before, "after": given.after}, given.rounds))
    emit({"bench": "before_after", **describe(threads=2), "rows": rows}, given.out)
    for row in rows:
        told = ", ".join(f"{name} {row['ratio'][name]:.3f}" for name in row["ratio"])
        print(f"{' '.join(row['setting'])}: {told}", file=sys.stderr)
    return 0


def measured(sides: dict[str, str], rounds: int) -> Iterator[dict[str, Any]]:
    for mode in MODES:
        for setting in SETTINGS:
            options = (*setting, "--weights", mode, "--repeat", "3")
            found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for number in range(rounds):
                order = list(sides) if number % 2 == 0 else list(sides)[::-1]
                for side in order:
                    found[side].append(rates(sides[side], options))
            names = [n for n in RATES if found["before"][0][n]]
            yield {
                "setting": list(options),
                **{side: {n: statistics.median(r[n] for r in found[side]) for n in names} for side in sides},
                "ratio": {
                    n: statistics.median(a[n] / b[n] for a, b in zip(found["after"], found["before"])) for n in names
                },
                "samples": found,
            }


def rates(python: str, options: Sequence[str]) -> dict[str, float]:
    command = [python, "-m", "abruzzi.cli.main", "bench", "--json", *options]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {name: said[name] or 0.0 for name in RATES}


if __name__ == "__main__":
    raise SystemExit(main())

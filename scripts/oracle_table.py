"""Run the oracles and print README's table: what was compared with what, and the largest difference
seen.

    python scripts/oracle_table.py

Reads what the tests record (`record_property("largest_difference...", x)`) from pytest's JUnit
file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "tests/oracles", f"--junitxml={report}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-3000:], file=sys.stderr)
            return done.returncode
        largest: dict[tuple[str, str], tuple[float, int]] = {}
        for case in ET.parse(report).iter("testcase"):
            where = case.get("classname", "").removeprefix("tests.oracles.")
            test = case.get("name", "").split("[")[0]
            for item in case.iter("property"):
                name, value = item.get("name", ""), float(item.get("value", "nan"))
                before, count = largest.get((f"{where}::{test}", name), (0.0, 0))
                largest[f"{where}::{test}", name] = (max(before, value), count + 1)
    print("| test | what | cases | largest |\n|---|---|---|---|")
    for (test, name), (value, count) in sorted(largest.items()):
        print(f"| `{test}` | {name.replace('_', ' ')} | {count} | {value:.1e} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

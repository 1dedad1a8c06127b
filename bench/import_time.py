"""How long `import abruzzi` takes, as the promise is under 100 ms and no numpy or torch.

Whole processes, so that nothing is cached in memory but the page cache; the empty interpreter is
the peer in the same run. Prints JSON. Run: python bench/import_time.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

LIMIT_MS = 100.0


def once(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - start) * 1000


def main() -> int:
    once("import abruzzi")
    samples: dict[str, list[float]] = {"pass": [], "import abruzzi": []}
    for _ in range(9):
        for code, taken in samples.items():
            taken.append(once(code))
    medians = {code: statistics.median(taken) for code, taken in samples.items()}
    own = medians["import abruzzi"] - medians["pass"]
    result = {"bench": "import_time", "import_ms": round(own, 1), "limit_ms": LIMIT_MS, "samples_ms": samples}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

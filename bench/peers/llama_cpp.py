"""abruzzi beside llama.cpp, on random weights of one shape, in turns in one run.

    python bench/peers/llama_cpp.py --llama-bin DIR --shape mini --gguf FILE [--rounds 3] [--out FILE]
    python bench/peers/llama_cpp.py --llama-bin DIR --shape smollm2 --gguf FILE --same-file --weights native

README.md beside this says how to build llama.cpp and how to make the GGUF (Q4_0, head Q6_K). Of
flash attention on and off llama.cpp gets the better one, case by case, chosen in the first round.
Our side is `all-4-bit` unless asked otherwise: a ratio of two engines that read different numbers
of bytes is no ratio of engines.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turns import Case, Ours, chosen, options, table, take_turns

from machine import describe, emit

PEER = "llama.cpp"
# ik_llama.cpp, a fork that is tuned for this architecture, over llama.cpp: measured once on
# moonlight, both sides in one run (2026-11-23, `-mla 3 -fmoe 1 -rtr 1`): 81.7 to 33.3 and 23.6 to
# 18.5 tok/s. It does not load mini.
IK_OVER_LLAMA_CPP = {"prefill 512": 81.7 / 33.3, "decode": 23.6 / 18.5}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options(__doc__, weights="all-4-bit")
    parser.add_argument("--llama-bin", type=Path, required=True, help="has llama-bench and llama-batched-bench")
    parser.add_argument("--gguf", type=Path, required=True, help="random weights of the shape; made when not there")
    parser.add_argument("--maker", type=Path, help="make_random_gguf.py, for a GGUF that is not there")
    parser.add_argument("--maker-python", default=sys.executable, help="a Python that has the package gguf")
    parser.add_argument("--same-file", action="store_true", help="our side reads the GGUF too")
    given = parser.parse_args(arguments)
    file = given.gguf if given.same_file else None
    config, cases = chosen(given, file)
    made = make_gguf(given.gguf, given.shape, given.maker, given.maker_python)
    theirs = LlamaCpp(given.llama_bin, given.gguf, given.threads, given.repeat)
    ours = Ours(config, given.weights, given.precision, given.threads, given.repeat, file)
    rows = take_turns(cases, ours, {PEER: theirs}, given.rounds, given.threads)
    for row in rows:
        row[PEER]["flash_attention"] = theirs.flash[row["case"]]
        row[PEER]["flash_attention_other_way"] = theirs.lost[row["case"]]
        faster = IK_OVER_LLAMA_CPP.get(row["case"]) if given.shape == "moonlight" else None
        if faster:
            row["ratio_to_ik_llama.cpp_estimated"] = row[PEER]["ratio"] / faster
    result = {
        "bench": "peers_llama_cpp",
        **describe(threads=given.threads),
        "settings": {
            "shape": given.shape,
            "weights": given.weights,
            "precision": given.precision,
            "rounds": given.rounds,
            "samples_per_turn": given.repeat,
            "llama_cpp_commit": theirs.commit,
            "same_file": given.gguf.name if given.same_file else None,
            "llama_cpp_weights": f"those of {given.gguf.name}; KV cache f16"
            if given.same_file
            else "Q4_0, head Q6_K; KV cache f16",
            "llama_cpp_model_bytes": given.gguf.stat().st_size,
            "gguf_says": made,
        },
        "cases": rows,
    }
    emit(result, given.out)
    print(table(rows, [PEER]), file=sys.stderr)
    return 0


def make_gguf(path: Path, shape: str, maker: Path | None, python: str) -> str | None:
    """Make the file if it is missing; what its maker printed. Under another name first, so that
    half a file never passes for a whole one. Before our own weights take their memory: the maker
    holds all of it."""
    if path.exists():
        return None
    if maker is None:
        raise SystemExit(f"{path} is not there; hint: --maker says which script makes it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    print(f"making {path}", file=sys.stderr)
    done = subprocess.run([python, str(maker), shape, "q4_0", str(part)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{maker} failed:\n{done.stderr[-2000:]}")
    part.rename(path)
    return done.stdout.strip().replace(str(part), path.name)


class LlamaCpp:
    """llama-bench for one sequence, llama-batched-bench for several; a process per turn."""

    def __init__(self, folder: Path, gguf: Path, threads: int, repeat: int) -> None:
        self._bench, self._batched = folder / "llama-bench", folder / "llama-batched-bench"
        for program in (self._bench, self._batched):
            if not os.access(program, os.X_OK):
                raise SystemExit(f"{program} is not there; hint: bench/peers/README.md says how to build it")
        self._gguf, self._threads, self._repeat = gguf, threads, repeat
        self.commit: str | None = None
        self.flash: dict[str, bool] = {}
        self.lost: dict[str, float] = {}  # median of the other setting, first round

    def __call__(self, case: Case) -> list[float]:
        if case.name in self.flash:
            return self._turn(case, self.flash[case.name])
        found = {flash: self._turn(case, flash) for flash in (True, False)}
        better, worse = sorted(found, key=lambda f: -statistics.median(found[f]))
        self.flash[case.name] = better
        self.lost[case.name] = statistics.median(found[worse])
        return found[better]

    def _turn(self, case: Case, flash: bool) -> list[float]:
        work = case.work
        common = ["-m", str(self._gguf), "-t", str(self._threads)]
        if work.batch == 1:
            tokens = ["-p", str(work.prefill), "-n", str(work.decode), "-d", str(work.depth), "-r", str(self._repeat)]
            (entry,) = json.loads(run([str(self._bench), *common, *tokens, "-fa", str(int(flash)), "-o", "json"]))
            self.commit = entry["build_commit"]
            return entry["samples_ts"]
        context = work.batch * (work.depth + work.decode) + 64
        sizes = ["-c", str(context), "-npp", str(work.depth), "-ntg", str(work.decode), "-npl", str(work.batch)]
        command = [str(self._batched), *common, *sizes, "-fa", "on" if flash else "off", "--output-format", "jsonl"]
        return [speed(run(command)) for _ in range(self._repeat)]


def speed(output: str) -> float:
    """Decoded tokens per second, all sequences together."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    (entry,) = [line for line in lines if "speed_tg" in line]
    return entry["speed_tg"]


def run(command: list[str]) -> str:
    done: Any = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())

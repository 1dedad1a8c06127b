"""Home directory (ABRUZZI_HOME): packed weights, the server's key and thoughts."""

from __future__ import annotations

import os
from pathlib import Path


def home_folder() -> Path:
    """$ABRUZZI_HOME, else ~/.abruzzi; it need not exist yet."""
    return Path(os.environ.get("ABRUZZI_HOME") or "~/.abruzzi").expanduser()

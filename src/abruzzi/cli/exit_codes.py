"""Exit codes of every command; a promise that scripts rely on."""

from __future__ import annotations

OK = 0
ERROR = 1
USAGE = 2
LIMIT = 3  # a limit that the person set was hit
INTERRUPTED = 130  # 128 + SIGINT

"""Memory of this machine: how much is available, and what this process has freed but still
holds."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def available_memory() -> int:
    """Bytes. What was read of files counts as available: a large checkpoint has just gone through
    the page cache."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def give_back_freed() -> None:
    """Let the allocator return freed memory to the system. Loading frees what it read, layer by
    layer, and glibc keeps up to a layer of that for later; other allocators have no such call, and
    nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Memory that this process has freed but still holds."""

from __future__ import annotations

import ctypes


def give_back_freed() -> None:
    """Let the allocator return freed memory to the system. Loading frees what it read, layer by layer, and glibc keeps
    up to a layer of that for later; other allocators have no such call, and nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

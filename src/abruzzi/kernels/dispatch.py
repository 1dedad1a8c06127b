"""Kernel dispatch: instruction set and number of threads, the best this machine has, all of its
cores, unless ABRUZZI_CPU and ABRUZZI_THREADS say otherwise.

A level that the machine lacks, or that does not exist, is an error: silently running something else
would make every measurement a riddle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

try:
    from abruzzi.kernels import _ext
except ImportError as error:
    raise ImportError(
        f"the compiled part of abruzzi is not built ({error}); hint: `pip install .` in the project's folder "
        "(needs a C++17 compiler)"
    ) from error

ISAS = ("scalar", "avx2", "avx512_vnni")
VARIABLE = "ABRUZZI_CPU"
THREADS_VARIABLE = "ABRUZZI_THREADS"


def supported_isas() -> tuple[str, ...]:
    """What this machine can run, slowest first."""
    return ISAS[: _ext.best_isa() + 1]


def choose(environment: Mapping[str, str]) -> str:
    """The instruction set for this process. Raises ValueError for a wrong ABRUZZI_CPU."""
    wanted = environment.get(VARIABLE)
    supported = supported_isas()
    if not wanted:
        return supported[-1]
    if wanted not in ISAS:
        raise ValueError(f"{VARIABLE}={wanted!r} is unknown; expected one of {', '.join(ISAS)}")
    if wanted not in supported:
        raise ValueError(f"{VARIABLE}={wanted!r}: this CPU lacks it; it has {', '.join(supported)}")
    return wanted


_CHOSEN = choose(os.environ)


def isa() -> str:
    """The instruction set in use."""
    return _CHOSEN


def threads(environment: Mapping[str, str] = os.environ) -> int:
    """How many threads a step shares its work among: the cores that this process may use, unless
    ABRUZZI_THREADS says otherwise. Raises ValueError for a wrong one. Results do not depend on
    it."""
    wanted = environment.get(THREADS_VARIABLE)
    if not wanted:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not wanted.isdecimal() or not 1 <= int(wanted) <= 1024:
        raise ValueError(f"{THREADS_VARIABLE}={wanted!r}; expected a whole number from 1 to 1024")
    return int(wanted)


def level(name: str | None) -> int:
    """The number by which the compiled part knows an instruction set; None = the one in use."""
    if name is None:
        return ISAS.index(_CHOSEN)
    if name not in supported_isas():
        raise ValueError(f"isa={name!r}; this machine has {', '.join(supported_isas())}")
    return ISAS.index(name)

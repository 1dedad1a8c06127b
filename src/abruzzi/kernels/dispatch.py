"""Which instruction set the kernels use: the best this machine has, unless ABRUZZI_CPU says otherwise.

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


def level(name: str | None) -> int:
    """The number by which the compiled part knows an instruction set; None = the one in use."""
    if name is None:
        return ISAS.index(_CHOSEN)
    if name not in supported_isas():
        raise ValueError(f"isa={name!r}; this machine has {', '.join(supported_isas())}")
    return ISAS.index(name)

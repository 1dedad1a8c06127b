"""Joules: read where the machine offers a counter, estimated where not, and then marked as an
estimate.

    RAPL      the CPU packages' energy counters below /sys/class/powercap (Linux; often readable by root only).
              They count everything that the packages do, also for other processes; DRAM where it has its own.
    NVML      the power that nvidia-smi reports, integrated over the moments at which it is asked.
    estimate  so many watts per core or GPU for as long as it runs.

Readers are injected: a meter takes the folder, the command or the clock that it reads.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from abruzzi.cost.hardware import PUE, WATTS_PER_GPU

POWERCAP = Path("/sys/class/powercap")
WATTS_PER_CORE = 9.0
CORE_ASSUMPTION = "9 W per core: 280 W for the 64 cores of an EPYC 7763, doubled for memory, power supply and cooling"
GPU_ASSUMPTION = f"{WATTS_PER_GPU:.0f} W per GPU with its share of the host, times {PUE:g} for cooling"

Clock = Callable[[], float]
Command = Callable[[Sequence[str]], str]


class Meter(Protocol):
    """source: "RAPL ...", "NVML ..." or "estimate: ..."; joules: spent since the meter was made."""

    @property
    def source(self) -> str: ...
    def joules(self) -> float: ...


class Rapl:
    """Energy of all CPU packages (and of DRAM domains), with their counters' wrap-around."""

    source = "RAPL (whole packages, other processes included)"

    def __init__(self, root: Path = POWERCAP) -> None:
        """Raises OSError where there are no counters, or they may not be read."""
        self._domains = [d for d in sorted(root.glob("intel-rapl:*")) if _counts(d)]
        if not self._domains:
            raise FileNotFoundError(f"{root} has no RAPL package")
        self._range = [int((d / "max_energy_range_uj").read_text()) for d in self._domains]
        self._last = self._read()
        self._microjoules = 0

    def joules(self) -> float:
        """Must be asked before a counter wraps around twice: within minutes on a busy machine."""
        now = self._read()
        for before, after, size in zip(self._last, now, self._range):
            self._microjoules += after - before if after >= before else after - before + size + 1
        self._last = now
        return self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [int((d / "energy_uj").read_text()) for d in self._domains]


class NvidiaSmi:
    """Power of the GPUs, summed, times the time between two questions (trapezoids)."""

    source = "NVML (boards of the GPUs, not their host)"

    def __init__(self, gpus: Sequence[int], run: Command | None = None, clock: Clock = time.monotonic) -> None:
        """gpus: their indices. Raises OSError or ValueError where nvidia-smi is not there or
        reports no power."""
        self._question = [
            "nvidia-smi",
            f"--id={','.join(map(str, gpus))}",
            "--query-gpu=power.draw",
            "--format=csv,noheader,nounits",
        ]
        self._run, self._clock = run or _run, clock
        self._spent = 0.0
        self._watts, self._at = self._power(), clock()

    def joules(self) -> float:
        """Must be asked often (every few seconds): what happens between is taken as a straight
        line."""
        watts, now = self._power(), self._clock()
        self._spent += (now - self._at) * (watts + self._watts) / 2
        self._watts, self._at = watts, now
        return self._spent

    def _power(self) -> float:
        return sum(float(line) for line in self._run(self._question).split())


class Estimate:
    """Constant power. The source says what was assumed."""

    def __init__(self, watts: float, assumption: str, clock: Clock = time.monotonic) -> None:
        self.source = f"estimate: {assumption}"
        self._watts, self._clock, self._start = watts, clock, clock()

    def joules(self) -> float:
        return self._watts * (self._clock() - self._start)


def meter(
    unit: str, units: int, root: Path = POWERCAP, run: Command | None = None, clock: Clock = time.monotonic
) -> Meter:
    """The best meter that this machine has, for `units` cores ("core") or GPUs ("gpu", those with
    the first indices).

    A counter that is absent or may not be read leads to an estimate, whose source says so."""
    if unit not in ("core", "gpu") or units < 1:
        raise ValueError(f"unit={unit!r}, units={units}; expected 'core' or 'gpu', and 1 or more")
    try:
        return Rapl(root) if unit == "core" else NvidiaSmi(range(units), run, clock)
    except (OSError, ValueError, subprocess.SubprocessError):
        watts, why = (WATTS_PER_CORE, CORE_ASSUMPTION) if unit == "core" else (WATTS_PER_GPU * PUE, GPU_ASSUMPTION)
        return Estimate(units * watts, why, clock)


def _counts(domain: Path) -> bool:
    """Packages, and DRAM, which packages do not contain; not the cores within a package, nor the
    whole platform."""
    name = domain / "name"
    return name.is_file() and (name.read_text().startswith("package") or name.read_text().strip() == "dram")


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

"""The ledger of a run: tokens, FLOP, seconds, hours of hardware, joules, dollars; also across
resumed runs.

    ledger = Ledger.load(out / "ledger.json")          # empty where there is none yet
    recorder = Recorder(ledger, unit="core", units=2, price=hour_price("core"), meter=meter("core", 2))
    ... every few seconds: recorder.update(tokens, flop); ledger.save(out / "ledger.json")

Each start of a run is an entry of its own. What was computed and then lost (a kill before the next
save of the state) was paid for all the same and stays in. Dollars follow from hours and a stated
price.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from abruzzi.cost.energy import Meter
from abruzzi.cost.prices import HourPrice

VERSION = 1
UNITS = ("core", "gpu")
_TEXTS = ("what", "started", "hardware", "unit", "joules_source", "price_source")


@dataclass(frozen=True, slots=True)
class Entry:
    """One uninterrupted stretch. units: cores or GPUs that it held; seconds: wall clock.

    joules_source: what the meter says, "estimate: ..." where it only assumes; started: UTC, ISO
    8601."""

    what: str
    started: str
    hardware: str
    unit: str
    units: int
    tokens: int = 0
    flop: float = 0.0
    seconds: float = 0.0
    joules: float = 0.0
    joules_source: str = ""
    usd_per_unit_hour: float = 0.0
    price_source: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit={self.unit!r}; expected one of {', '.join(UNITS)}")
        for name in ("units", "tokens", "flop", "seconds", "joules", "usd_per_unit_hour"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}; expected a number, 0 or more")

    @property
    def unit_hours(self) -> float:
        """Core-hours or GPU-hours."""
        return self.units * self.seconds / 3600

    @property
    def usd(self) -> float:
        return self.unit_hours * self.usd_per_unit_hour

    @property
    def estimated(self) -> bool:
        """Whether the joules are assumed, not read."""
        return self.joules_source.startswith("estimate")


class Ledger:
    """Entries, oldest first, and their sums."""

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self.entries = entries if entries is not None else []

    @property
    def tokens(self) -> int:
        return sum(e.tokens for e in self.entries)

    @property
    def flop(self) -> float:
        return sum(e.flop for e in self.entries)

    @property
    def seconds(self) -> float:
        return sum(e.seconds for e in self.entries)

    @property
    def joules(self) -> float:
        return sum(e.joules for e in self.entries)

    @property
    def usd(self) -> float:
        return sum(e.usd for e in self.entries)

    def unit_hours(self, unit: str) -> float:
        """Hours of one kind of hardware, "core" or "gpu"."""
        return sum(e.unit_hours for e in self.entries if e.unit == unit)

    # storage

    def to_json(self) -> dict[str, Any]:
        """Entries, and totals for readers who want no more; `from_json` reads the entries only."""
        total = {
            "tokens": self.tokens,
            "flop": self.flop,
            "seconds": self.seconds,
            "core_hours": self.unit_hours("core"),
            "gpu_hours": self.unit_hours("gpu"),
            "joules": self.joules,
            "joules_estimated": any(e.estimated for e in self.entries),
            "usd": self.usd,
        }
        return {"version": VERSION, "total": total, "entries": [asdict(e) for e in self.entries]}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Ledger:
        """Raises ValueError for another version, unknown or missing keys and wrong types."""
        if not isinstance(given, Mapping) or given.get("version") != VERSION:
            found = given.get("version") if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(
                f"this is no ledger of version {VERSION} (found {found!r}); hint: written by another abruzzi?"
            )
        entries = given.get("entries")
        if not isinstance(entries, list):
            raise ValueError(f"a ledger's entries are {type(entries).__name__}; expected a list")
        return cls([_entry(e) for e in entries])

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """The ledger in a file; an empty one where there is no file. Raises ValueError for a
        damaged one."""
        if not path.exists():
            return cls()
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; hint: move it away to begin a new ledger") from error

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(self.to_json(), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    # for people

    def to_text(self) -> str:
        """Markdown lines for a model card: what was spent, on what, and which numbers are
        estimates."""
        if not self.entries:
            return "Nothing recorded."
        hours = [
            f"{self.unit_hours(unit):,.2f} {name}-hours"
            for unit, name in (("core", "core"), ("gpu", "GPU"))
            if self.unit_hours(unit)
        ]
        sources = (
            " and ".join(dict.fromkeys(e.joules_source for e in self.entries if e.joules_source)) or "not measured"
        )
        hardware = ", ".join(dict.fromkeys(e.hardware for e in self.entries))
        prices = dict.fromkeys(f"${e.usd_per_unit_hour:g} per {e.unit}-hour ({e.price_source})" for e in self.entries)
        starts = f"{len(self.entries)} starts" if len(self.entries) > 1 else "one start"
        return "\n".join(
            (
                f"- tokens: {self.tokens:,}",
                f"- arithmetic: {self.flop:.3g} FLOP",
                f"- time: {self.seconds / 3600:,.2f} hours in {starts}, {' and '.join(hours) or 'none'} on {hardware}",
                f"- energy: {self.joules / 3.6e6:,.3g} kWh ({sources})",
                f"- price: ${self.usd:,.2f}, at {' and '.join(prices)}",
            )
        )


class Recorder:
    """Keeps the last entry of a ledger up to date while a run goes on."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        what: str,
        hardware: str,
        unit: str,
        units: int,
        price: HourPrice,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """what: the run's name; hardware: as a person would say it. Adds an entry at once."""
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now()))
        self._ledger, self._meter, self._clock, self._start = ledger, meter, clock, clock()
        self._place = len(ledger.entries)
        ledger.entries.append(
            Entry(
                what=what,
                started=started,
                hardware=hardware,
                unit=unit,
                units=units,
                joules_source=meter.source,
                usd_per_unit_hour=price.usd,
                price_source=f"{price.source}, {price.date}",
            )
        )

    def update(self, tokens: int, flop: float) -> Entry:
        """Tokens and FLOP since this recorder was made; reads clock and meter."""
        entries = self._ledger.entries
        entries[self._place] = replace(
            entries[self._place],
            tokens=tokens,
            flop=flop,
            seconds=self._clock() - self._start,
            joules=self._meter.joules(),
        )
        return entries[self._place]


def _entry(given: Any) -> Entry:
    names = {f.name for f in fields(Entry)}
    if not isinstance(given, dict) or set(given) != names:
        found = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"an entry of the ledger has {found}; expected {sorted(names)}")
    for name, value in given.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = name not in ("tokens", "units") or isinstance(value, int)
        if not (isinstance(value, str) if name in _TEXTS else is_number and whole):
            raise ValueError(f"{name}={value!r} in a ledger's entry has the wrong type")
    return Entry(**given)

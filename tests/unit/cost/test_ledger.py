"""The ledger over interrupted runs, and meters that read fakes of what a machine offers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from abruzzi.cost.energy import Estimate, NvidiaSmi, Rapl, meter
from abruzzi.cost.ledger import Entry, Ledger, Recorder
from abruzzi.cost.prices import HourPrice

PRICE = HourPrice("core", 0.05, "a list", "2026-11")


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def recorder(ledger: Ledger, clock: Time, unit: str = "core", units: int = 2) -> Recorder:
    return Recorder(
        ledger,
        what="smoke",
        hardware="two cores of a test",
        unit=unit,
        units=units,
        price=PRICE,
        meter=Estimate(20, "20 W", clock),
        clock=clock,
        now=lambda: 0.0,
    )


def test_two_starts_of_a_run_add_up_and_survive_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "ledger.json", Time()
    first = Ledger.load(path)
    assert first.entries == [] and first.usd == 0
    writer = recorder(first, clock)
    for minutes in (1, 30):  # the second update replaces the first
        clock.now = 100 + 60 * minutes
        writer.update(tokens=1000 * minutes, flop=1e9 * minutes)
        first.save(path)
    clock.now = 10_000  # killed; whatever followed the last save is unknown
    second = Ledger.load(path)
    assert second.entries == first.entries
    again = recorder(second, clock)
    clock.now += 5400
    again.update(tokens=90_000, flop=9e10)
    second.save(path)
    found = Ledger.load(path)
    assert [e.tokens for e in found.entries] == [30_000, 90_000]
    assert (found.tokens, found.flop, found.seconds) == (120_000, 1.2e11, 7200)
    assert found.unit_hours("core") == 4 and found.unit_hours("gpu") == 0
    assert found.joules == 20 * 7200 and found.entries[0].estimated
    assert found.usd == pytest.approx(4 * 0.05)
    assert found.entries[0].started == "1970-01-01T00:00:00Z"
    total = json.loads(path.read_text())["total"]
    assert total["core_hours"] == 4 and total["joules_estimated"] and total["usd"] == pytest.approx(0.2)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_text_says_which_numbers_are_estimates() -> None:
    clock = Time()
    ledger = Ledger()
    writer = recorder(ledger, clock)
    clock.now += 3600
    writer.update(1_234_567, 5.5e15)
    gpu = Entry(
        "rl", "2026-11-25T00:00:00Z", "one H200", "gpu", 1, 10, 1e12, 1800, 9e5, "NVML", 2.5, "a contract, 2026"
    )
    ledger.entries.append(gpu)
    text = ledger.to_text()
    for part in (
        ["1,234,577", "tokens"][0],
        "5.5e+15 FLOP",
        "1.50 hours in 2 starts, 2.00 core-hours and 0.50 GPU-hours on two cores of a test, one H200",
        "0.27 kWh (estimate: 20 W and NVML)",
        "$1.35, at $0.05 per core-hour (a list, 2026-11) and $2.5 per gpu-hour (a contract, 2026)",
    ):
        assert part in text
    assert Ledger().to_text() == "Nothing recorded."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(version=7), "no ledger of version 1 .found 7"),
        (lambda d: d.pop("entries"), "entries are NoneType"),
        (lambda d: d["entries"][0].pop("usd_per_unit_hour"), "expected .*usd_per_unit_hour"),
        (lambda d: d["entries"][0].update(tokens=1.5), "tokens=1.5 .* wrong type"),
        (lambda d: d["entries"][0].update(seconds=True), "seconds=True .* wrong type"),
        (lambda d: d["entries"][0].update(joules=-1), "joules=-1"),
        (lambda d: d["entries"][0].update(unit="abacus"), "unit='abacus'; expected one of core, gpu"),
    ],
)
def test_a_damaged_ledger_is_named(tmp_path: Path, change, says: str) -> None:
    ledger = Ledger()
    recorder(ledger, Time()).update(1, 1.0)
    given = ledger.to_json()
    change(given)
    (tmp_path / "ledger.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=says) as raised:
        Ledger.load(tmp_path / "ledger.json")
    assert "ledger.json" in str(raised.value) and "hint" in str(raised.value)


def rapl(root: Path, **domains: tuple[str, int]) -> None:
    for folder, (name, microjoules) in domains.items():
        at = root / folder.replace("_", ":")
        at.mkdir(parents=True, exist_ok=True)
        (at / "name").write_text(name + "\n")
        (at / "energy_uj").write_text(f"{microjoules}\n")
        (at / "max_energy_range_uj").write_text("999999\n")


def test_rapl_sums_packages_and_dram_and_follows_a_counter_that_wraps(tmp_path: Path) -> None:
    names = {"intel-rapl_0": "package-0", "intel-rapl_0_0": "core", "intel-rapl_0_1": "dram", "intel-rapl_1": "psys"}
    rapl(tmp_path, **{folder: (name, 900_000) for folder, name in names.items()})
    found = meter("core", 2, root=tmp_path)
    assert isinstance(found, Rapl) and found.source.startswith("RAPL")
    rapl(tmp_path, **{"intel-rapl_0": ("package-0", 950_000), "intel-rapl_1": ("psys", 990_000)})
    assert found.joules() == pytest.approx(0.05)
    rapl(tmp_path, **{"intel-rapl_0": ("package-0", 50_000), "intel-rapl_0_1": ("dram", 910_000)})
    assert found.joules() == pytest.approx(0.05 + 0.1 + 0.01)
    assert found.joules() == pytest.approx(0.16)


def test_nvidia_smis_power_is_integrated() -> None:
    clock, asked, watts = Time(), [], ["300.0\n200.0\n", "500.0\n400.0\n", "0\n0\n"]

    def run(command: Sequence[str]) -> str:
        asked.append(list(command))
        return watts.pop(0)

    found = meter("gpu", 2, run=run, clock=clock)
    assert isinstance(found, NvidiaSmi)
    clock.now += 10
    assert found.joules() == pytest.approx(10 * (500 + 900) / 2)
    clock.now += 2
    assert found.joules() == pytest.approx(7000 + 2 * 450)
    assert asked[0][:2] == ["nvidia-smi", "--id=0,1"] and "--query-gpu=power.draw" in asked[0]


@pytest.mark.parametrize("error", [FileNotFoundError("nvidia-smi"), subprocess.CalledProcessError(9, "nvidia-smi")])
def test_without_a_counter_the_estimate_says_what_it_assumes(tmp_path: Path, error: Exception) -> None:
    def run(command: Sequence[str]) -> str:
        raise error

    clock = Time()
    for found, watts in ((meter("gpu", 1, run=run, clock=clock), 1200), (meter("core", 2, tmp_path, clock=clock), 18)):
        start = clock.now
        clock.now += 10
        assert found.joules() == pytest.approx(10 * watts)
        assert found.source.startswith("estimate: ") and "W per" in found.source
        clock.now = start
    unknown = meter("gpu", 1, run=lambda command: "[N/A]\n", clock=clock)
    assert unknown.source.startswith("estimate")
    with pytest.raises(ValueError, match="expected 'core' or 'gpu'"):
        meter("tpu", 1)

"""`abruzzi train` as a person runs it: a minute's recipe from nothing to a checkpoint that answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from abruzzi.cli.train import parse_duration
from abruzzi.recipes import override
from abruzzi.train.loop import RunConfig
from tests.e2e.test_cli import abruzzi, one_clear_line
from tests.unit.train.test_loop import RUN


def test_smoke_learns_stops_resumes_and_its_checkpoint_answers(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    short = ["--set", "steps=14", "--set", "decay=4", "--set", "context_steps=4", "--set", "qat_steps=4"]
    limited = abruzzi("train", "smoke", "--out", out, "--time-limit", "1s", *short)
    assert limited.returncode == 3, limited.stderr
    first = json.loads(limited.stdout)
    assert not first["finished"] and first["checkpoint"] is None and not (tmp_path / "run" / "checkpoint").exists()
    one_clear_line(abruzzi("train", "smoke", "--out", out, *short), "holds a run already", "--resume")
    done = abruzzi("train", "smoke", "--out", out, "--resume", *short)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines] == list(range(1, 15))  # nothing twice, nothing left out
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    said = abruzzi("run", "--json", "--model", out + "/checkpoint", "--max-tokens", "8", "--no-tools", "Hi")
    assert said.returncode in (0, 3) and json.loads(said.stdout)["usage"]["completion_tokens"] > 0
    shown = json.loads(abruzzi("show", "--json", out + "/checkpoint").stdout)
    assert "INT4" in shown["routed_experts_stored_as"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "smok"], "did you mean 'smoke'"),
        (["train", "smoke", "--set", "lr_moun=1"], "did you mean 'lr_muon'"),
        (["train", "smoke", "--time-limit", "soon"], "'soon' is no duration"),
        (["train", "smoke", "--resume"], "holds no run to resume"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    one_clear_line(abruzzi(*arguments, "--out", str(tmp_path / "new")), says)


def test_settings_are_typed_and_nested() -> None:
    changed = override(RUN, ["steps=7", "lr_muon=1", "autocast=true", "model.kv_lora_rank=8", "model.q_lora_rank=12"])
    assert (changed.steps, changed.lr_muon, changed.autocast) == (7, 1.0, True)
    assert (changed.model.kv_lora_rank, changed.model.q_lora_rank) == (8, 12)
    assert isinstance(changed, RunConfig) and changed.lr_adamw == RUN.lr_adamw
    for setting, says in [
        ("steps", "expected KEY=VALUE"),
        ("steps=1.5", "expected int, got float"),
        ("steps=true", "expected int, got bool"),
        ("autocast=1", "expected bool, got int"),
        ("lr_muon=fast", "expected float, got str"),
        ("model=5", "name a key in it"),
        ("steps.x=5", "is no group"),
        ("model.hiden_size=5", "did you mean 'hidden_size'"),
    ]:
        with pytest.raises(ValueError, match=says):
            override(RUN, [setting])


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("0s", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "10d", "nan", "inf"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)

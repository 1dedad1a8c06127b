"""`abruzzi train` as a person runs it: a minute's recipe from nothing to a checkpoint that
answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from abruzzi import load, recipes, tokenizer
from abruzzi.arch import Int4Scheme
from abruzzi.checkpoint import open_checkpoint
from abruzzi.cli import sft
from abruzzi.cli.train import _peak, parse_duration
from abruzzi.cost.bytes import weights_bytes
from abruzzi.cost.parameters import parameters
from abruzzi.data.packing import Conversation
from abruzzi.recipes import nano, override
from abruzzi.train.loop import RunConfig, Trainer
from abruzzi.train.run_config import fast_bfloat16, on_device
from abruzzi.types import Message
from tests import tiny
from tests.e2e.test_cli import ABRUZZI, one_clear_line
from tests.unit.train.test_loop import RUN


def abruzzi(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command; training takes its time on a busy machine."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*ABRUZZI, *arguments], capture_output=True, text=True, env=env, timeout=400)


def test_smoke_learns_stops_resumes_and_its_checkpoint_answers(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    short = ["--set", "steps=14", "--set", "decay=4", "--set", "context_steps=4", "--set", "qat_steps=4"]
    limited = abruzzi("train", "smoke", "--out", out, "--time-limit", "1s", *short)
    assert limited.returncode == 3, limited.stderr
    first = json.loads(limited.stdout)
    assert not first["finished"] and first["checkpoint"] is None and not (tmp_path / "run" / "checkpoint").exists()
    one_clear_line(abruzzi("train", "smoke", "--out", out, *short), "holds a run already", "--resume")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python"]
    arguments = ["train", "smoke", "--out", out, "--threads", "1", "--resume", "--time-limit", "0s", *short]
    two = subprocess.run([*torchrun, *ABRUZZI, *arguments], capture_output=True, text=True, timeout=400)
    assert two.returncode == 0 and "Traceback" not in two.stderr, two.stderr  # stopped is no crash
    assert not json.loads(two.stdout)["finished"]
    done = abruzzi("train", "smoke", "--out", out, "--resume", *short)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]
    run = tmp_path / "run"
    page, card = (run / "loss.html").read_text(), (run / "checkpoint" / "README.md").read_text()
    assert page.count("<polyline") >= 5 and "core-hours" in card and "3 starts" in card
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["total"]["tokens"] == json.loads(done.stdout)["tokens"] and ledger["total"]["usd"] > 0
    assert json.loads((run / "run.json").read_text())["config"]["steps"] == 14
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines] == list(range(1, 15))  # nothing twice, nothing left out
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    promised = ("step", "tokens", "loss", "lr", "tok_s", "max_logit", "expert_load_max_over_mean", "cost_usd")
    assert all(key in m for m in lines for key in promised)
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
        (
            ["train", "smoke", "--device", "tpu"],
            "device='tpu' is out of range; expected cpu or cuda",
        ),
        (["train", "smoke", "--data", "x.jsonl"], "go with recipe sft, not with 'smoke'"),
        (["train", "sft", "--from", "nano"], "--data FILE is not given; hint"),
        (["train", "sft", "--data", "x.jsonl", "--from", "http://x"], "is a server; hint"),
        (["train", "sft", "--data", "x.jsonl", "--from", "absent"], "model 'absent' is not there; hint"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    one_clear_line(abruzzi(*arguments, "--out", str(tmp_path / "new")), says)


def test_a_peak_is_given_or_measured_never_guessed() -> None:
    assert _peak(None, RUN) is None and _peak("989", RUN) == 989e12
    measured = _peak("measure", RUN)
    assert measured is not None and 1e8 < measured < 1e16
    for wrong in ("fast", "0", "-1", "inf"):
        with pytest.raises(ValueError, match="expected TFLOP/s of one device"):
            _peak(wrong, RUN)


def test_settings_are_typed_and_nested() -> None:
    changed = override(
        RUN,
        ["steps=7", "lr_muon=1", "qk_clip_tau=100", "autocast=true", "model.kv_lora_rank=8", "model.q_lora_rank=12"],
    )
    assert (changed.steps, changed.lr_muon, changed.autocast, changed.qk_clip_tau) == (7, 1.0, True, 100.0)
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


CALL = {"name": "calculator", "arguments": {"expression": "12 + 30"}}
CONVERSATION = {
    "messages": [
        {"role": "user", "content": "Mia has 12 marbles and buys 30 more."},
        {
            "role": "assistant",
            "reasoning_content": "12 + 30",
            "tool_calls": [{"id": "a", "type": "function", "function": CALL}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "42"},
        {"role": "assistant", "content": "seven wizards"},
    ],
    "tools": [{"type": "function", "function": {"name": "calculator", "parameters": {"type": "object"}}}],
}


def data_file(folder: Path, lines: int = 4) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(CONVERSATION) + "\n" for _ in range(lines)))
    return file


@pytest.mark.parametrize("int4", [True, False])
def test_sft_learns_ones_own_conversations_and_the_engine_says_them(tmp_path: Path, int4: bool) -> None:
    source, out = tiny.write(tmp_path / "tiny", int4=int4, context=512), tmp_path / "run"
    given = ["train", "sft", "--data", str(data_file(tmp_path)), "--from", str(source), "--out", str(out)]
    given += ["--set", "steps=40", "--set", "lr_muon=0.02", "--set", "lr_adamw=0.01", "--set", "log_every=1"]
    if int4:  # stopped and resumed on the way
        limited = abruzzi(*given, "--time-limit", "0s")
        assert limited.returncode == 3, limited.stderr
        given.append("--resume")
    done = abruzzi(*given)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(seen) == 40 and seen[-1] < 0.1 * seen[0]
    llm = load(out / "checkpoint")
    messages = [Message.from_openai(m) for m in CONVERSATION["messages"][:3]]
    tools = CONVERSATION["tools"]
    prompt = tokenizer.render(llm.tokenizer, messages, tools, thinking=False).ids
    said = llm.generate(prompt, max_tokens=12, temperature=0)
    assert "seven wizards" in llm.tokenizer.decode(said.ids)
    before = load(source).generate(prompt, max_tokens=12, temperature=0)
    assert "seven wizards" not in llm.tokenizer.decode(before.ids)
    with open_checkpoint(out / "checkpoint") as checkpoint, open_checkpoint(source) as original:
        assert (checkpoint.config.int4 is not None) == int4
        assert [checkpoint.stored_dtype(n) for n in checkpoint.names()] == [
            original.stored_dtype(n) for n in original.names()
        ]
    if int4:
        (tmp_path / "mine.jsonl").write_text(json.dumps(CONVERSATION) + "\n")
        one_clear_line(abruzzi(*given), "was started with other data")


def test_the_view_shows_what_is_trained(tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "tiny", context=512)
    given = ["train", "sft", "--data", str(data_file(tmp_path)), "--from", str(source), "--show", "1"]
    shown = abruzzi(*given)
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout and shown.stdout.count("--- conversation") == 1
    marked = re.findall("\u27e6(.*?)\u27e7", shown.stdout, flags=re.S)
    assert "12 + 30</think>" in marked[0] and "functions.calculator:0" in marked[0]
    assert marked[-1] == "seven wizards<|im_end|>"
    assert not any("Mia" in m or "Return of" in m for m in marked)
    assert "Mia has 12 marbles" in shown.stdout
    (tmp_path / "mine.jsonl").write_text('{"messages": []}\n')
    one_clear_line(abruzzi(*given), "mine.jsonl:1: 'messages' is []")
    vocab = tiny.vocabulary()
    spoken = Conversation([*vocab.encode("ab"), *vocab.encode("c\x1b")], [False, False, True, True], [False] * 4)
    assert sft.marked(vocab, spoken, colour=True) == f"ab{sft.COLOUR}c\N{REPLACEMENT CHARACTER}{sft.PLAIN}"


def test_mini_h200_is_prepared_on_a_cpu_and_takes_settings(tmp_path: Path) -> None:
    """Its shape and its data, without the run: a first step at a hundredth of its batch."""
    (tmp_path / "tokenizer.json").write_text(nano.build_tokenizer(1500).to_json(), encoding="utf-8")
    prepared = recipes.prepare("mini_h200", tmp_path)
    try:
        assert prepared.config.device == "cuda" and prepared.config.qk_clip_tau == 100.0
        sizes = parameters(prepared.config.model)
        assert 9e6 < sizes.active_without_embedding < 11e6 and 45e6 < sizes.total < 60e6
        assert weights_bytes(prepared.config.model.with_int4(Int4Scheme()), "native") < 40e6
        assert on_device(prepared.config, "cpu").autocast == fast_bfloat16()
        small = ["rows_per_step=2", "steps=1", "warmup=0", "model.num_hidden_layers=2", "grad_accum_steps=2"]
        config = override(on_device(prepared.config, "cpu"), small)
        seen: list[dict[str, float]] = []
        assert Trainer(config, prepared.shard_of, tmp_path).train(on_step=seen.append)
        assert 6 < seen[0]["loss"] < 8 and seen[0]["clipped_heads"] == 0
    finally:
        prepared.close()

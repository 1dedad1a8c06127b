"""The step loop: resumes exactly, trains on sampled tokens only, balances, and exports what it trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from abruzzi import model as k2
from abruzzi.config import ModelConfig
from abruzzi.data.packing import PADDING, Row
from abruzzi.train.loop import Diverged, RunConfig, Trainer, rate

MODEL = ModelConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    n_routed_experts=4,
    num_experts_per_tok=2,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    max_position_embeddings=64,
)
RUN = RunConfig(MODEL, steps=12, rows_per_step=2, row_length=24, warmup=2, decay=4, save_every=5, autocast=False)


def shard(number: int) -> list[Row]:
    """Seven rows of two documents each: a pattern that can be learned."""
    rng = np.random.default_rng(number)
    rows = []
    for _ in range(7):
        start = rng.integers(0, 20, 2)
        ids = np.concatenate([(start[0] + np.arange(12)) % 20, (start[1] + np.arange(10)) % 20, [39, 39]])
        segments = np.array([0] * 12 + [1] * 10 + [PADDING] * 2, np.int32)
        loss = (segments != PADDING) & (np.arange(24) % 12 > 2)
        context = (segments != PADDING) & ~loss & (np.arange(24) % 12 > 0)
        rows.append(Row(ids.astype(np.int64), loss, context, segments))
    return rows


def losses(out: Path, steps: int = 12, run: RunConfig = RUN, resume: bool = False) -> list[float]:
    trainer = Trainer(replace(run, log_every=1), shard, out)
    assert trainer.resume() == resume
    seen: list[dict[str, Any]] = []

    def note(metrics: dict[str, Any]) -> None:
        seen.append(metrics)
        if metrics["step"] == steps:
            trainer._stop = True

    trainer.train(on_step=note)
    return [m["loss"] for m in seen]


def test_a_resumed_run_repeats_the_losses_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole = losses(tmp_path / "whole")
    parts = losses(tmp_path / "parts", steps=5) + losses(tmp_path / "parts", resume=True)
    assert parts == whole and len(whole) == 12
    assert whole[-1] < whole[0]
    other = losses(tmp_path / "other", run=replace(RUN, seed=1))
    assert other != whole


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    """gloo on this machine; losses differ by the order of float32 sums only."""
    alone = losses(tmp_path / "one")
    code = (
        "import torch.distributed as d, json, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.train import test_loop as t\n"
        "d.init_process_group('gloo')\n"
        "got = t.losses(Path(sys.argv[1]))\n"
        "if d.get_rank() == 0: Path(sys.argv[1], 'losses.json').write_text(json.dumps(got))\n"
        "d.destroy_process_group()\n"
    )
    out = tmp_path / "two"
    script = tmp_path / "two.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[3]
    run = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", "--standalone"]
    done = subprocess.run(
        [sys.executable, *run, str(script), str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together = json.loads((out / "losses.json").read_text())
    assert together == pytest.approx(alone, rel=2e-4)
    # One process that sees only half of the rows is another run.
    assert together != pytest.approx(losses(tmp_path / "half", run=replace(RUN, rows_per_step=1)), rel=1e-2)


def test_a_signal_and_the_time_limit_stop_cleanly(tmp_path: Path) -> None:
    trainer = Trainer(replace(RUN, log_every=1), shard, tmp_path)
    finished = trainer.train(on_step=lambda m: os.kill(os.getpid(), signal.SIGTERM) if m["step"] == 3 else None)
    assert not finished and trainer.step == 3 and (tmp_path / "state.pt").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = Trainer(RUN, shard, tmp_path)
    assert again.resume() and again.step == 3
    assert not again.train(time_limit=0) and again.step == 3
    assert again.train() and again.step == 12


def test_no_gradient_comes_from_tokens_that_were_not_sampled(tmp_path: Path) -> None:
    """The same row with other targets outside the mask gives bit for bit the same loss."""
    trainer = Trainer(RUN, shard, tmp_path)
    (row,) = shard(0)[:1]
    ids, segments = torch.from_numpy(row.ids_T)[None], torch.from_numpy(row.segments_T)[None]
    mask = torch.from_numpy(row.sampled_T)[None, 1:]
    hidden = trainer.model.hidden(ids, segments_BT=segments).detach()
    trainer.model.requires_grad_(False)

    def loss(targets: torch.Tensor) -> float:
        trainer.model.hidden = lambda *a, **k: hidden  # type: ignore[method-assign]
        return float(trainer._loss(targets, segments, mask.float(), mask, k2.Trace())[0])

    changed = ids.clone()
    changed[:, 1:][~mask] = 7
    assert loss(ids) == loss(changed)
    sampled = ids.clone()
    sampled[:, 1:][mask] = 7
    assert loss(ids) != loss(sampled)


def test_context_counts_its_weight_at_first(tmp_path: Path) -> None:
    """The loss of each step against a plain computation from the logits of the model before that step."""
    weight = 0.25
    trainer = Trainer(replace(RUN, context_weight=weight, context_steps=5, log_every=1), shard, tmp_path)
    seen: list[dict[str, Any]] = []
    for step in range(RUN.steps):
        rows = [r for n in range(9) for r in shard(n)][2 * step : 2 * step + 2]
        ids, segments, sampled, context = (
            torch.from_numpy(np.stack([getattr(r, name) for r in rows]))
            for name in ("ids_T", "segments_T", "sampled_T", "context_T")
        )
        with torch.no_grad():
            logits = trainer.model(ids, segments_BT=segments)[:, :-1]
        each = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        sampled, context = sampled[:, 1:].float(), context[:, 1:].float()
        w = weight if step < 5 else 0.0
        want = ((sampled + w * context) * each).sum() / (sampled + w * context).sum()
        trainer._stop = False

        def stop(metrics: dict[str, Any]) -> None:
            seen.append(metrics)
            trainer._stop = True

        trainer.train(on_step=stop)
        assert seen[-1]["loss"] == pytest.approx(float(want), rel=1e-5)
        assert seen[-1]["sampled_loss"] == pytest.approx(float((sampled * each).sum() / sampled.sum()), rel=1e-5)
    assert len(seen) == RUN.steps


@pytest.mark.parametrize("bias_rate", [5e-3, 0.0])
def test_the_selection_bias_levels_a_skewed_router(tmp_path: Path, bias_rate: float) -> None:
    still = replace(RUN, steps=120, rows_per_step=7, bias_rate=bias_rate, lr_muon=0, lr_adamw=0, log_every=1)
    trainer = Trainer(still, shard, tmp_path)
    ((_, moe),) = trainer.model.moe_layers().items()
    with torch.no_grad():
        moe.gate.e_score_correction_bias += torch.tensor([0.3, 0.0, 0.0, -0.3])
    worst: list[float] = []
    trainer.train(on_step=lambda m: worst.append(m["expert_load_max_over_mean"]))
    recent = sum(worst[-20:]) / 20
    if bias_rate:
        assert recent < 1.5
        assert abs(float(moe.gate.e_score_correction_bias.sum())) < 1e-4  # zero-mean updates
    else:
        assert recent > 1.8  # the negative control: nothing else levels it


def test_the_schedule_warms_up_stays_and_falls() -> None:
    factors = [rate(RUN, s) for s in range(12)]
    assert factors[:2] == [0.5, 1.0] and factors[2:9] == [1.0] * 7
    assert factors[8:] == sorted(factors[8:], reverse=True) and 0.1 < factors[-1] < 0.5


def test_the_export_is_the_trained_model(tmp_path: Path) -> None:
    trainer = Trainer(RUN, shard, tmp_path / "run")
    trainer.train()
    trainer.export(tmp_path / "ck", int4=False)
    (row,) = shard(3)[:1]
    ids = torch.from_numpy(row.ids_T)[None]
    with torch.no_grad():
        want, got = trainer.model(ids), k2.load(tmp_path / "ck")(ids)
    assert (want - got).abs().max() / want.abs().max() < 2e-2  # bfloat16 storage
    assert want.argmax(-1).equal(got.argmax(-1))


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    trainer = Trainer(replace(RUN, save_every=2, log_every=1), shard, tmp_path)

    def poison(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:
            with torch.no_grad():
                trainer.model.lm_head.weight[0, 0] = float("nan")

    with pytest.raises(Diverged, match=r"loss is nan at step 4; the state of an earlier step is kept in .*hint"):
        trainer.train(on_step=poison)
    again = Trainer(RUN, shard, tmp_path)
    assert again.resume() and again.step == 2
    assert all(t.isfinite().all() for t in again.model.state_dict().values())


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_state_is_refused_and_the_older_one_named(tmp_path: Path, damage: str) -> None:
    losses(tmp_path)  # saves at 5, 10 and 12
    path, older = tmp_path / "state.pt", tmp_path / "state.previous.pt"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": b"x" * 1000}[damage])
    trainer = Trainer(RUN, shard, tmp_path)
    with pytest.raises(ValueError, match=r"state.pt is damaged .*rename .*state.previous.pt"):
        trainer.resume()
    older.replace(path)
    assert trainer.resume() and trainer.step == 10
    other = Trainer(replace(RUN, model=replace(MODEL, kv_lora_rank=24)), shard, tmp_path)
    with pytest.raises(ValueError, match=r"holds another model: .*kv_a_proj.* is \(20, 32\) there and \(28, 32\) here"):
        other.resume()


def test_a_save_that_is_killed_leaves_a_whole_state(tmp_path: Path) -> None:
    """kill -9 at random moments of a run that saves after every step: the state always loads."""
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from tests.unit.train import test_loop as t\n"
        "tr = t.Trainer(replace(t.RUN, save_every=1, steps=10**6), t.shard, Path(sys.argv[1])); tr.resume()\n"
        "print('ready', flush=True); tr.train()\n"
    )
    root = Path(__file__).resolve().parents[3]
    reached = 0
    for wait in (0.31, 0.47, 0.74):
        env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(wait)
        process.kill()
        process.wait()
        trainer = Trainer(RUN, shard, tmp_path)
        if trainer.resume():
            assert trainer.step >= reached
            reached = trainer.step
    assert reached > 0

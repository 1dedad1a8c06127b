"""The step loop: resumes exactly, trains on sampled tokens only, balances, and exports what it
trained."""

from __future__ import annotations

import json
import os
import resource
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
from abruzzi.arch import ModelConfig
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


FULL = replace(RUN, rows_per_step=4, qk_clip_tau=1e-3, sequence_loss_alpha=0.1, steps=8)


def everything(out: Path, run: RunConfig) -> list[dict[str, Any]]:
    """Metrics of every step."""
    seen: list[dict[str, Any]] = []
    Trainer(replace(run, log_every=1), shard, out).train(on_step=seen.append)
    return seen


SAME = ("loss", "sampled_loss", "balance_loss", "max_logit", "gradient_norm", "clipped_heads", "expert_load_by_layer")


def assert_same(got: list[dict[str, Any]], want: list[dict[str, Any]], rel: float = 2e-4) -> None:
    for key in SAME:
        assert [m[key] for m in got] == [pytest.approx(m[key], rel=rel) for m in want], key


@pytest.mark.parametrize(("microbatches", "again"), [(4, False), (1, True), (2, True)])
def test_microbatches_and_recomputed_activations_are_the_same_steps(
    tmp_path: Path, microbatches: int, again: bool
) -> None:
    want = everything(tmp_path / "plain", FULL)
    assert want[-1]["clipped_heads"] and want[-1]["balance_loss"] >= 1 and want[-1]["loss"] < want[0]["loss"]
    parted = replace(FULL, grad_accum_steps=microbatches, activation_checkpointing=again)
    got = everything(tmp_path / "parted", parted)
    assert_same(got, want, rel=1e-4)
    if microbatches == 1:  # nothing is summed in another order
        assert [m["loss"] for m in got] == [m["loss"] for m in want]


def test_activation_checkpointing_computes_every_layer_twice(tmp_path: Path) -> None:
    calls = {False: 0, True: 0}
    for again in calls:
        trainer = Trainer(replace(RUN, activation_checkpointing=again, steps=1), shard, tmp_path / str(again))
        for layer in trainer.model.layers():

            def count(*_: Any, again: bool = again) -> None:
                calls[again] += 1

            layer.self_attn.register_forward_pre_hook(count)
        trainer.train()
    assert calls == {False: 2, True: 4}


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    """gloo on this machine, clip and balance loss on, two microbatches each; float32 sums differ in
    order only."""
    alone = everything(tmp_path / "one", FULL)
    code = (
        "import torch.distributed as d, json, sys\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from tests.unit.train import test_loop as t\n"
        "d.init_process_group('gloo')\n"
        "got = t.everything(Path(sys.argv[1]), replace(t.FULL, grad_accum_steps=2))\n"
        "if d.get_rank() == 0: Path(sys.argv[1], 'metrics.json').write_text(json.dumps(got))\n"
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
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together = json.loads((out / "metrics.json").read_text())
    assert_same(together, alone)
    # One process that sees only half of the rows is another run.
    half = [m["loss"] for m in everything(tmp_path / "half", replace(FULL, rows_per_step=2))]
    assert half != pytest.approx([m["loss"] for m in alone], rel=1e-2)


def test_a_signal_and_the_time_limit_stop_cleanly(tmp_path: Path) -> None:
    trainer = Trainer(replace(RUN, log_every=1), shard, tmp_path)
    finished = trainer.train(on_step=lambda m: os.kill(os.getpid(), signal.SIGTERM) if m["step"] == 3 else None)
    assert not finished and trainer.step == 3 and (tmp_path / "state.pt").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = Trainer(RUN, shard, tmp_path)
    assert again.resume() and again.step == 3
    assert not again.train(time_limit=0) and again.step == 3
    assert again.train() and again.step == 12


def test_context_counts_its_weight_at_first(tmp_path: Path) -> None:
    """The loss of each step against a plain computation from the logits of the model before that
    step."""
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


def test_a_full_disk_leaves_the_state_before_it(tmp_path: Path) -> None:
    """The file may grow to half of a state only, as on a disk that runs full."""
    trainer = Trainer(replace(RUN, save_every=4), shard, tmp_path)
    trainer.train(on_step=None, time_limit=0)
    before = (tmp_path / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written at step 4 .* kept in .*state.pt; hint: make room"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.pt"]
    again = Trainer(RUN, shard, tmp_path)
    assert again.resume() and again.step == 0 and again.train()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    """A finite loss with a gradient that is not: the step is taken, but the state before it
    stays."""
    trainer = Trainer(replace(RUN, save_every=1, log_every=1), shard, tmp_path)

    def poison(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:
            with torch.no_grad():
                trainer.model.model.norm.weight[0] = float("inf")

    with pytest.raises(Diverged, match=r"weights are not finite after step 3; .*kept in"):
        trainer.train(on_step=poison)
    again = Trainer(RUN, shard, tmp_path)
    assert again.resume() and again.step == 2


def test_states_written_before_there_was_a_meter_still_load(tmp_path: Path) -> None:
    whole = losses(tmp_path / "whole")
    part = losses(tmp_path / "old", steps=5)
    path = tmp_path / "old" / "state.pt"
    state = torch.load(path, weights_only=True)
    old = {"model", "optimizer", "torch_rng", "step", "tokens", "position"}
    torch.save({k: v for k, v in state.items() if k in old}, path)
    assert part + losses(tmp_path / "old", resume=True) == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grad_accum_steps": 3}, "rows_per_step=2 does not divide among 1 processes x 3 microbatches; hint"),
        ({"device": "cuda"}, "torch finds no CUDA device; hint: --device cpu"),
        ({"device": "tpu"}, "device='tpu' is out of range; expected cpu or cuda"),
        ({"qk_clip_tau": 0.0}, "qk_clip_tau=0.0 is out of range"),
        ({"grad_accum_steps": 0}, "grad_accum_steps=0 is out of range; expected 1 or more"),
    ],
)
def test_runs_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    if change.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=says):
        Trainer(replace(RUN, **change), shard, tmp_path)


def test_utilisation_is_the_models_flop_over_the_given_peak(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    run = replace(RUN, steps=1, rows_per_step=1, log_every=1)
    trainer = Trainer(run, lambda _: shard(0)[:1], tmp_path, peak_flops=1e9)
    trainer.train(on_step=seen.append)
    # Forward and backward of causal attention in documents of 12 and 10 tokens, keys of 12 and
    # values of 8.
    heads = MODEL.num_hidden_layers * MODEL.num_attention_heads
    attention = 3 * 2 * heads * (12 + 8) * (12 * 12 + 10 * 10) / 2
    assert trainer.flop == pytest.approx(6 * 22 * linear_weights(trainer.model) + attention, rel=1e-6)
    assert seen[0]["mfu"] == pytest.approx(seen[0]["flop_s"] / 1e9)
    unknown: list[dict[str, Any]] = []
    Trainer(run, shard, tmp_path / "unknown").train(on_step=unknown.append)
    assert "mfu" not in unknown[0]  # no peak given, none invented


def linear_weights(model: k2.K2Model) -> float:
    """Matrix weights that a token meets: two of four experts, no embedding."""
    counted = 0.0
    for name, p in model.named_parameters():
        if p.ndim > 1 and "embed_tokens" not in name:
            counted += p.numel() * (0.5 if ".experts." in name else 1)
    return counted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_trains_saves_and_its_state_goes_on_on_the_cpu(tmp_path: Path) -> None:
    want = losses(tmp_path / "cpu")
    got = losses(tmp_path / "cuda", steps=5, run=replace(RUN, device="cuda"))
    assert got == pytest.approx(want[:5], rel=1e-3)
    rest = losses(tmp_path / "cuda", resume=True)
    assert rest == pytest.approx(want[5:], rel=5e-3)
    mixed = everything(tmp_path / "mixed", replace(FULL, device="cuda", autocast=True, grad_accum_steps=2))
    assert mixed[-1]["loss"] < mixed[0]["loss"]

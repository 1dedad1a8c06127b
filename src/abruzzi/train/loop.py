"""The step loop: packed rows in, a checkpoint out; stops cleanly, resumes exactly.

Plain on purpose: one device, a warm-up-stable-decay schedule, MuonClip. Under torchrun the rows of a
step are divided among the processes and gradients are summed; the losses are those of one process.
Everything that a run depends on is in RunConfig and in the saved state, so that a resumed run repeats
the losses of one that was never stopped. State (optimizer, random numbers, position in the data) lies beside the
checkpoint, never inside it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from abruzzi.checkpoint import save_checkpoint
from abruzzi.config import ModelConfig
from abruzzi.data.packing import PADDING, Row
from abruzzi.model import K2Model, Trace
from abruzzi.train import qat
from abruzzi.train.muonclip import MuonClip, split_parameters

PREVIOUS = "state.previous.pt"  # the save before the last
# Rows of shard number k; must be deterministic in k, and may be called from another process.
ShardOf = Callable[[int], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One training run. tokens_per_step = rows_per_step * row_length.

    lr_muon, lr_adamw: peak learning rates. warmup, decay: steps at the beginning and at the end of
    `steps`; the rate is constant between and falls linearly to a tenth at the end. context_weight: what a
    token that was not sampled but may be a target counts, against 1 of a sampled one, in the first
    `context_steps` steps, and 0 from then on: first learn the language of prompts and results as well,
    then only to answer.
    qat_steps: so many last steps with routed experts rounded to INT4 in the forward pass (train/qat.py).
    bias_rate: step of the router's selection bias (auxiliary-loss-free balance, Moonlight's zero-mean form).
    autocast: products and Newton-Schulz in bfloat16; without instructions for it (`fast_bfloat16`) that is
    several times slower than float32."""

    model: ModelConfig
    steps: int
    rows_per_step: int
    row_length: int
    lr_muon: float = 1e-2
    lr_adamw: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 50
    decay: int = 500
    context_weight: float = 0.0
    context_steps: int = 0
    qat_steps: int = 0
    bias_rate: float = 1e-3
    seed: int = 0
    autocast: bool = True
    log_every: int = 10
    save_every: int = 200


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively; where it does not, torch emulates it, ten times slower."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))


def rate(config: RunConfig, step: int) -> float:
    """The schedule's factor at `step` (from 0): warm-up, 1, then down to 0.1."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    left = config.steps - step
    return 1.0 if left > config.decay else 0.1 + 0.9 * left / config.decay


class Diverged(ArithmeticError):
    """The loss is not a number any more."""


class Trainer:
    """A model, its optimizer and a position in the data."""

    def __init__(self, config: RunConfig, shard_of: ShardOf, out: Path) -> None:
        self.config, self.shard_of, self.out = config, shard_of, out
        torch.manual_seed(config.seed)
        self.model = K2Model(config.model, seed=config.seed)
        muon, adamw = split_parameters(self.model)
        self.optimizer = MuonClip(
            [{**muon, "lr": config.lr_muon}, {**adamw, "lr": config.lr_adamw}],
            weight_decay=config.weight_decay,
            ns_dtype=torch.bfloat16 if config.autocast else torch.float32,
        )
        self._peak = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.tokens = 0
        self._stop = False
        self._position = (0, 0)  # shard, row in it: the next row to be read
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if config.rows_per_step % self.processes:
            raise ValueError(f"rows_per_step={config.rows_per_step} does not divide among {self.processes} processes")

    def train(self, time_limit: float | None = None, on_step: Callable[[dict[str, Any]], None] | None = None) -> bool:
        """Run until the last step, the time limit (seconds) or SIGTERM / SIGINT. True when all steps are done.

        State is saved whenever it returns."""
        previous = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        deadline = math.inf if time_limit is None else time.monotonic() + time_limit
        try:
            rows = self._rows()
            while self.step < self.config.steps and not self._anybody(self._stop or time.monotonic() >= deadline):
                metrics = self._one_step(rows)
                if (
                    self.rank == 0
                    and on_step is not None
                    and (self.step % self.config.log_every == 0 or self.step == self.config.steps)
                ):
                    on_step(metrics)
                if self.step % self.config.save_every == 0:
                    self.save_state()
            self.save_state()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
        return self.step >= self.config.steps

    def _ask_to_stop(self, *_: Any) -> None:
        self._stop = True

    def _anybody(self, stop: bool) -> bool:
        """Whether any process wants to stop: all of them must do it at the same step."""
        if self.processes == 1:
            return stop
        flag = torch.tensor(int(stop))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def _rows(self) -> Iterator[Row]:
        """Rows from the current position on; one shard after the other, without end."""
        while True:
            number, at = self._position
            shard = self.shard_of(number)
            for next_row in range(at + 1, len(shard) + 1):
                self._position = (number, next_row) if next_row < len(shard) else (number + 1, 0)
                yield shard[next_row - 1]

    def _one_step(self, rows: Iterator[Row]) -> dict[str, Any]:
        started = time.monotonic()
        config = self.config
        whole = [next(rows) for _ in range(config.rows_per_step)]
        qat.enable(self.model, self.step >= config.steps - config.qat_steps)
        context_weight = config.context_weight if self.step < config.context_steps else 0.0
        sampled_count = sum(int(r.sampled_T[1:].sum()) for r in whole)
        total_weight = sampled_count + context_weight * sum(int(r.context_T[1:].sum()) for r in whole)
        batch = whole[self.rank :: self.processes]
        ids = torch.from_numpy(np.stack([r.ids_T for r in batch]))
        segments = torch.from_numpy(np.stack([r.segments_T for r in batch]))
        sampled = torch.from_numpy(np.stack([r.sampled_T for r in batch]))[:, 1:]
        context = torch.from_numpy(np.stack([r.context_T for r in batch]))[:, 1:]
        for group, peak in zip(self.optimizer.param_groups, self._peak):
            group["lr"] = peak * rate(config, self.step)
        trace = Trace()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            # Every process divides by the weight of all of them, so that summed gradients are the mean's.
            weights = sampled.float() + context_weight * context
            loss, sampled_loss = self._loss(ids, segments, weights, sampled, trace)
            loss, sampled_loss = loss / total_weight, sampled_loss / max(1, sampled_count)
        loads = trace.expert_load(segments != PADDING)
        loss.backward()
        loss = loss.detach()
        self._sum_over_processes((loss, sampled_loss, *loads.values()))
        if not math.isfinite(float(loss)):
            # Before the weights are touched: the state on disk stays the last good one.
            raise Diverged(
                f"the loss is {float(loss)} at step {self.step + 1}; the state of an earlier step is kept in "
                f"{self.out}; hint: a lower lr_muon, or fewer steps between saves (save_every={config.save_every})"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._balance(loads)
        self.step += 1
        self.tokens += sum(int((r.segments_T != PADDING).sum()) for r in whole)
        seconds = time.monotonic() - started
        worst = max((float(load.max() / load.float().mean()) for load in loads.values()), default=0.0)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": float(loss),
            "sampled_loss": float(sampled_loss),
            "lr": self.optimizer.param_groups[0]["lr"],
            "tok_s": config.rows_per_step * config.row_length / seconds,
            "expert_load_max_over_mean": worst,
        }

    def _loss(
        self, ids: torch.Tensor, segments: torch.Tensor, weights: torch.Tensor, sampled: torch.Tensor, trace: Trace
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted sum of the targets' cross-entropies, and (no gradient) the sum over the sampled ones.

        The head runs on positions whose target has a weight, and on no other."""
        hidden = self.model.hidden(ids, segments_BT=segments, trace=trace)
        targets = weights > 0
        logits = self.model.lm_head(hidden[:, :-1][targets])
        losses = F.cross_entropy(logits.float(), ids[:, 1:][targets], reduction="none")
        return (losses * weights[targets]).sum(), losses.detach()[sampled[targets]].sum()

    def _sum_over_processes(self, numbers: Iterable[torch.Tensor]) -> None:
        """Sum gradients and these numbers, in place; gradients as one buffer, which is one message."""
        if self.processes == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        together = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(together)
        for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients])):
            gradient.copy_(summed.view_as(gradient))
        for tensor in numbers:
            dist.all_reduce(tensor)

    @torch.no_grad()
    def _balance(self, loads: Mapping[int, torch.Tensor]) -> None:
        """Selection bias up for experts under the mean load, down for those above it (zero-mean)."""
        if not self.config.bias_rate:
            return
        for layer, moe in self.model.moe_layers().items():
            load = loads[layer].float()
            sign = torch.sign(load.mean() - load)
            moe.gate.e_score_correction_bias += self.config.bias_rate * (sign - sign.mean())

    # state

    def save_state(self) -> None:
        """Everything that an exact resume needs, written whole or not at all."""
        if self.rank != 0:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "tokens": self.tokens,
            "position": self._position,
        }
        temporary, path, previous = (self.out / name for name in ("state.pt.tmp", "state.pt", PREVIOUS))
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # a second name for the old state, so that at every moment a whole one is there
            previous.unlink(missing_ok=True)
            os.link(path, previous)
        temporary.replace(path)

    def resume(self) -> bool:
        """Load the state in `out` if there is one; True when there was.

        Raises ValueError for a damaged state and for one of another model; nothing is changed then."""
        path = self.out / "state.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:
            older = self.out / PREVIOUS
            hint = f"rename {older} to {path.name} to go on from the save before it" if older.exists() else "start anew"
            raise ValueError(f"{path} is damaged ({type(error).__name__}); hint: {hint}") from error
        expected = {n: tuple(t.shape) for n, t in self.model.state_dict().items()}
        found = {n: tuple(t.shape) for n, t in state["model"].items()}
        if found != expected:
            name = next(n for n in (*expected, *found) if found.get(n) != expected.get(n))
            raise ValueError(
                f"{path} holds another model: {name} is {found.get(name)} there and {expected.get(name)} here; "
                "hint: use the settings that the run was started with"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.step, self.tokens, self._position = state["step"], state["tokens"], tuple(state["position"])
        return True

    def export(self, path: Path, extra_files: Mapping[str, str | bytes] | None = None, int4: bool = True) -> None:
        """Write the model as a checkpoint in Hugging Face layout, routed experts in INT4 if asked for."""
        tensors = {n: t.detach().float().numpy() for n, t in self.model.state_dict().items()}
        save_checkpoint(path, self.config.model, tensors, int4=int4, extra_files=extra_files or {}, overwrite=True)


def append_metrics(path: Path) -> Callable[[dict[str, Any]], None]:
    """A callback that appends each step's numbers to a JSON-lines file."""

    def write(metrics: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    return write

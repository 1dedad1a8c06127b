"""The step loop: packed rows in, a checkpoint out; stops cleanly, resumes exactly.

Plain on purpose: one device per process, a warm-up-stable-decay schedule, MuonClip. Under torchrun
the rows of a step are divided among the processes and gradients are summed; the losses are those of
one process, and so they are when a step is computed in microbatches or with activation
checkpointing. Everything that a run depends on is in RunConfig and in the saved state
(train/state.py), so that a resumed run repeats the losses of one that was never stopped.

Not here: sharded weights (every process holds the whole model), overlap of communication with
computing.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from abruzzi.checkpoint import save_checkpoint
from abruzzi.data.packing import PADDING, Row
from abruzzi.model import K2Model, Trace, fast
from abruzzi.train import balance, qat
from abruzzi.train.cross_entropy import weighted_cross_entropy
from abruzzi.train.meter import Pace, step_flop
from abruzzi.train.muonclip import MuonClip, clip_heads, split_parameters
from abruzzi.train.run_config import RunConfig as RunConfig
from abruzzi.train.run_config import fast_bfloat16 as fast_bfloat16
from abruzzi.train.run_config import rate as rate
from abruzzi.train.state import read_state, write_state
from abruzzi.types import UserError

# Rows of shard number k; must be deterministic in k, and may be called from another process.
ShardOf = Callable[[int], Sequence[Row]]


class Diverged(UserError):
    """The loss or a weight is not a finite number any more; the last good state is kept."""


@dataclass(slots=True)
class _Totals:
    """What the microbatches of one step add up to."""

    loss: Tensor
    sampled_loss: Tensor
    balance_loss: Tensor
    loads: dict[int, Tensor] = field(default_factory=dict)
    max_logit_N: dict[int, Tensor] = field(default_factory=dict)

    def add(self, loss: Tensor, sampled_loss: Tensor, balance_loss: Tensor, trace: Trace, counted_BT: Tensor) -> None:
        self.loss, self.sampled_loss = self.loss + loss, self.sampled_loss + sampled_loss
        self.balance_loss = self.balance_loss + balance_loss
        for layer, load_E in trace.expert_load(counted_BT).items():
            self.loads[layer] = self.loads[layer] + load_E if layer in self.loads else load_E
        for layer, largest_N in trace.max_logit_N.items():
            seen = self.max_logit_N.get(layer)
            self.max_logit_N[layer] = largest_N if seen is None else torch.maximum(seen, largest_N)


class Trainer:
    """A model, its optimizer and a position in the data."""

    def __init__(
        self,
        config: RunConfig,
        shard_of: ShardOf,
        out: Path,
        model: K2Model | None = None,
        peak_flops: float | None = None,
    ) -> None:
        """model: weights to begin with, float32; None = random ones from the seed. peak_flops: what
        the device of one process can do per second, for model FLOP utilisation; None = that is not
        reported."""
        self.config, self.shard_of, self.out = config, shard_of, out
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        parts = self.processes * config.grad_accum_steps
        if config.rows_per_step % parts:
            raise ValueError(
                f"rows_per_step={config.rows_per_step} does not divide among {self.processes} processes"
                f" x {config.grad_accum_steps} microbatches; hint: --set rows_per_step={parts}"
            )
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device 'cuda' is asked for, but torch finds no CUDA device; hint: --device cpu")
        torch.manual_seed(config.seed)
        self.model = (model or K2Model(config.model, seed=config.seed)).to(config.device)
        fast.enable(self.model)
        if config.activation_checkpointing:
            for layer in self.model.layers():
                # No random numbers in a layer, so none need to be replayed.
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        peak_lr = {"muon": config.lr_muon, "adamw": config.lr_adamw}
        self.optimizer = MuonClip(
            [{**group, "lr": peak_lr[group["kind"]]} for group in split_parameters(self.model, config.optimizer)],
            weight_decay=config.weight_decay,
            ns_dtype=torch.bfloat16 if config.autocast else torch.float32,
        )
        self._peak_lr = [group["lr"] for group in self.optimizer.param_groups]
        self._peak_flops, self._pace = peak_flops, Pace()
        self.step = 0
        self.tokens = 0
        # Spent in steps: in all starts of the run; what was lost with a state that was not saved is
        # not in it.
        self.seconds = self.flop = 0.0
        self._stop = False
        self.interrupted = False  # by SIGINT, which is a person's
        self._position = (0, 0)  # shard, row in it: the next row to be read

    def train(self, time_limit: float | None = None, on_step: Callable[[dict[str, Any]], None] | None = None) -> bool:
        """Run until the last step, the time limit (seconds) or SIGTERM / SIGINT. True when all
        steps are done.

        on_step gets the numbers of every `log_every`th step and of the last. State is saved
        whenever it returns."""
        previous = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        deadline = math.inf if time_limit is None else time.monotonic() + time_limit
        try:
            rows = self._rows()
            while self.step < self.config.steps and not self._anybody(self._stop or time.monotonic() >= deadline):
                metrics = self._one_step(rows)
                if self.rank == 0 and on_step is not None and self._is_logged(self.step):
                    on_step(metrics)
                if self.step % self.config.save_every == 0:
                    self.save_state()
            self.save_state()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
        return self.step >= self.config.steps

    def _ask_to_stop(self, number: int, _: Any) -> None:
        self._stop = True
        self.interrupted = self.interrupted or number == signal.SIGINT

    def _is_logged(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step == self.config.steps

    def _anybody(self, stop: bool) -> bool:
        """Whether any process wants to stop: all of them must do it at the same step."""
        if self.processes == 1:
            return stop
        flag = torch.tensor(int(stop), device=self.config.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def _rows(self) -> Iterator[Row]:
        """Rows from the current position on; one shard after the other, without end."""
        while True:
            number, at = self._position
            shard = self.shard_of(number)
            if not len(shard):
                raise ValueError(f"shard {number} of the data holds no rows; hint: longer rows (row_length), more data")
            for next_row in range(at + 1, len(shard) + 1):
                self._position = (number, next_row) if next_row < len(shard) else (number + 1, 0)
                yield shard[next_row - 1]

    def _one_step(self, rows: Iterator[Row]) -> dict[str, Any]:
        started = time.monotonic()
        config = self.config
        whole = [next(rows) for _ in range(config.rows_per_step)]
        qat.enable(self.model, self.step >= config.steps - config.qat_steps)
        for group, peak in zip(self.optimizer.param_groups, self._peak_lr):
            group["lr"] = peak * rate(config, self.step)
        logged = self._is_logged(self.step + 1)
        totals = self._gradients(whole, exact_logits=logged)
        if not math.isfinite(float(totals.loss)):
            # Before the weights are touched: the state on disk stays the last good one.
            raise Diverged(
                f"the loss is {float(totals.loss)} at step {self.step + 1}; the state of an earlier step is kept in "
                f"{self.out}; hint: a lower lr_muon, or fewer steps between saves (save_every={config.save_every})"
            )
        norm = self._gradient_norm() if logged else 0.0
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clipped = clip_heads(self.model, totals.max_logit_N, config.qk_clip_tau) if config.qk_clip_tau else None
        if config.bias_rate:
            balance.level_bias(self.model, totals.loads, config.bias_rate)
        self.step += 1
        self.tokens += sum(int((r.segments_T != PADDING).sum()) for r in whole)
        flop = step_flop(config.model, whole)
        self.flop += flop
        seconds = time.monotonic() - started
        self.seconds += seconds
        self._pace.add(seconds)
        return self._metrics(totals, flop, seconds, norm, clipped) if logged else {}

    def _gradients(self, whole: list[Row], exact_logits: bool) -> _Totals:
        """Forward and backward of a step's rows: this process's share, in microbatches, then the
        sum of all."""
        config = self.config
        context_weight = config.context_weight if self.step < config.context_steps else 0.0
        sampled_count = sum(int(r.sampled_T[1:].sum()) for r in whole)
        total_weight = sampled_count + context_weight * sum(int(r.context_T[1:].sum()) for r in whole)
        if not total_weight:
            raise ValueError(f"step {self.step + 1} holds no token to train on; hint: the data's loss masks are empty")
        mine = whole[self.rank :: self.processes]
        size = len(mine) // config.grad_accum_steps
        zero = torch.zeros((), device=config.device)
        totals = _Totals(zero, zero, zero)
        for start in range(0, len(mine), size):
            batch = mine[start : start + size]
            ids, segments, sampled, context = self._tensors(batch)
            counted = segments != PADDING
            trace = Trace(
                max_logits=exact_logits or config.qk_clip_tau is not None,
                above=None if exact_logits else config.qk_clip_tau,
                counted_BT=counted,
            )
            with torch.autocast(config.device, torch.bfloat16, enabled=config.autocast):
                # Every process divides by the weight of all of them, so that summed gradients are
                # the mean's.
                weights = sampled.float() + context_weight * context
                loss, sampled_loss = self._loss(ids, segments, weights, sampled, trace)
                loss, sampled_loss = loss / total_weight, sampled_loss / max(1, sampled_count)
            unequal = self._balance_loss(trace, counted)
            totals.add(loss.detach(), sampled_loss, unequal.detach(), trace, counted)
            (loss + config.sequence_loss_alpha * unequal if config.sequence_loss_alpha else loss).backward()
        self._sum_over_processes(totals)
        return totals

    def _tensors(self, batch: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ids and segments [B, T], sampled and context [B, T - 1]: of the target at the next
        position."""
        ids, segments, sampled, context = (
            torch.from_numpy(np.stack(arrays)).to(self.config.device)
            for arrays in zip(*((r.ids_T, r.segments_T, r.sampled_T, r.context_T) for r in batch))
        )
        return ids, segments, sampled[:, 1:], context[:, 1:]

    def _loss(
        self, ids: Tensor, segments: Tensor, weights: Tensor, sampled: Tensor, trace: Trace
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the targets' cross-entropies, and (no gradient) the sum over the sampled
        ones.

        The head runs on positions whose target has a weight, and on no other."""
        hidden = self.model.hidden(ids, segments_BT=segments, trace=trace)
        targets = weights > 0
        head = self.model.lm_head.weight
        loss, losses = weighted_cross_entropy(hidden[:, :-1][targets], head, ids[:, 1:][targets], weights[targets])
        return loss, losses[sampled[targets]].sum()

    def _balance_loss(self, trace: Trace, counted: Tensor) -> Tensor:
        """The sequence loss, a mean over layers and the rows of the whole step; zero when it is
        switched off."""
        scores = trace.router_scores.values()
        if not self.config.sequence_loss_alpha or not scores:
            return torch.zeros((), device=counted.device)
        top_k = self.config.model.num_experts_per_tok
        layers = [balance.sequence_loss(s, top_k, counted) for s in scores]
        return torch.stack(layers).sum() / (len(layers) * self.config.rows_per_step)

    def _sum_over_processes(self, totals: _Totals) -> None:
        """Sum gradients and numbers over processes: one message for gradients, one for all numbers,
        one for maxima."""
        if self.processes == 1:
            return
        trained = [p for p in self.model.parameters() if p.grad is not None]
        together = torch.cat([cast(Tensor, p.grad).flatten() for p in trained])
        dist.all_reduce(together)
        for p, summed in zip(trained, together.split([p.numel() for p in trained])):
            p.grad = summed.view_as(p)
        # In float64, which holds a load exactly.
        losses = torch.stack((totals.loss, totals.sampled_loss, totals.balance_loss)).double()
        numbers = torch.cat((losses, *(load.double() for load in totals.loads.values())))
        dist.all_reduce(numbers)
        totals.loss, totals.sampled_loss, totals.balance_loss = numbers[:3].float().unbind()
        sizes = [len(load) for load in totals.loads.values()]
        totals.loads = {k: load.long() for k, load in zip(totals.loads, numbers[3:].split(sizes))}
        if totals.max_logit_N:
            largest = torch.stack(list(totals.max_logit_N.values()))
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            totals.max_logit_N = dict(zip(totals.max_logit_N, largest))

    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _metrics(
        self, totals: _Totals, flop: float, seconds: float, norm: float, clipped: Tensor | None
    ) -> dict[str, Any]:
        """One line of metrics.jsonl. tok_s counts padding as well; tokens does not."""
        config = self.config
        worst = balance.worst_load(totals.loads)
        metrics: dict[str, Any] = {
            "step": self.step,
            "tokens": self.tokens,
            "loss": float(totals.loss),
            "sampled_loss": float(totals.sampled_loss),
            "lr": self.optimizer.param_groups[0]["lr"],
            "tok_s": config.rows_per_step * config.row_length / seconds,
            "max_logit": max(float(largest.max()) for largest in totals.max_logit_N.values()),
            "expert_load_max_over_mean": max(worst.values(), default=0.0),
            "expert_load_by_layer": {layer: round(load, 4) for layer, load in worst.items()},
            "gradient_norm": norm,
            "seconds": round(self.seconds, 3),
            "eta_s": round(self._pace.left(config.steps - self.step), 1),
            "flop_s": flop / seconds,
        }
        if self._peak_flops is not None:
            metrics["mfu"] = flop / seconds / (self._peak_flops * self.processes)
        if clipped is not None:
            metrics["clipped_heads"] = int(clipped)
        if config.sequence_loss_alpha:
            metrics["balance_loss"] = float(totals.balance_loss)
        return metrics

    # state

    def save_state(self) -> None:
        """Everything that an exact resume needs, written whole or not at all.

        Raises Diverged instead of replacing a good state by weights that are not finite."""
        if self.rank != 0:
            return
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise Diverged(
                f"weights are not finite after step {self.step}; the state of an earlier step is kept in {self.out}; "
                "hint: a lower lr_muon"
            )
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "tokens": self.tokens,
            "position": self._position,
            "seconds": self.seconds,
            "flop": self.flop,
        }
        if self.config.device == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        write_state(self.out, state)

    def resume(self) -> bool:
        """Load the state in `out` if there is one; True when there was. A run may go on on another
        device.

        Raises ValueError for a damaged state and for one of another model; nothing is changed
        then."""
        state = read_state(self.out, {n: tuple(t.shape) for n, t in self.model.state_dict().items()})
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        if self.config.device == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.step, self.tokens, self._position = state["step"], state["tokens"], tuple(state["position"])
        # States of older versions do not have these.
        self.seconds, self.flop = state.get("seconds", 0.0), state.get("flop", 0.0)
        return True

    def export(
        self,
        path: Path,
        extra_files: Mapping[str, str | bytes] | None = None,
        int4: bool = True,
        dtype: str = "bfloat16",
    ) -> None:
        """Write the model as a checkpoint in Hugging Face layout, routed experts in INT4 if asked
        for.

        dtype: of what is not INT4."""
        tensors = {n: t.detach().float().cpu().numpy() for n, t in self.model.state_dict().items()}
        files = extra_files or {}
        save_checkpoint(path, self.config.model, tensors, dtype=dtype, int4=int4, extra_files=files, overwrite=True)


def append_metrics(path: Path) -> Callable[[dict[str, Any]], None]:
    """A callback that appends each step's numbers to a JSON-lines file."""

    def write(metrics: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    return write

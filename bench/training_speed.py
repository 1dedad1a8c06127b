"""Tokens/s of our training step beside transformers' DeepseekV3, on two cores: same weights, batch,
dtype, AdamW.

    python bench/training_speed.py --size 4M --dtype bfloat16 --out FILE      # 3 to 6 minutes on a quiet machine

Both sides start from one checkpoint and take whole steps (forward, loss on every token, backward,
gradients summed over processes, AdamW) on the same rows of 256 tokens. First a short sweep finds
each side's best layout, one process with two threads or two processes with one (gloo;
DistributedDataParallel on the peer's side), and for the peer the best of its implementations of
experts and attention. Then the winners take turns (ABCABC), ours against the peer's best with each
way through the experts; medians, and the ratio to the faster of those. bfloat16 means autocast over
float32 weights, which is how either side trains in it. AdamW is torch's fused one for the peer.
Neither side is compiled. The losses of the first step are compared, so that both compute the same
thing.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abruzzi.arch import ModelConfig
from abruzzi.cost.parameters import parameters
from machine import describe, emit, output_option

WANTED = 1.3
CONTEXT = 256
ROWS = 16
THREADS = 2
SIZES = {"1.3M": (160, 5, 4, 128, 384, 96, 64, 32), "4M": (256, 6, 8, 192, 704, 128, 96, 32)}
SIZES["12M"] = (384, 8, 12, 304, 1024, 192, 128, 32)
EXPERTS = ("grouped_mm", "eager", "batched_mm")
SLOW_S = 10.0  # a first step this slow is not repeated


@dataclass(frozen=True)
class Side:
    """One way to train: whose step, in how many processes, with what implementations (the peer's
    names)."""

    owner: str
    processes: int
    experts: str = "auto"
    attention: str = "auto"

    @property
    def name(self) -> str:
        chosen = "" if self.owner == "abruzzi" else f" {self.experts} {self.attention}"
        return f"{self.owner}{chosen} {self.processes}x{THREADS // self.processes}"


def main(arguments: list[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="1.3M")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--worker", default=None, help="internal: one process of a side, as JSON")
    given = parser.parse_args(arguments)
    if given.worker is not None:
        return work(json.loads(given.worker))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint", SIZES[given.size])
        common = {"checkpoint": str(checkpoint), "dtype": given.dtype}
        swept: dict[Side, float] = {}
        for side in [Side("abruzzi", 1), Side("abruzzi", 2), *peers(given.size)]:
            swept[side] = glance(side, common)
        # Other attention only where the layout is best: it does not depend on that.
        for experts in EXPERTS[:2]:
            other = replace(best(swept, "transformers", experts), attention="eager")
            swept[other] = glance(other, common)
        # Both of the peer's ways through the experts stay in: one gets faster for minutes, as
        # oneDNN gets to know the loads that experts can have, and would be sorted out by a glance.
        ours = best(swept, "abruzzi")
        sides = [ours, *(best(swept, "transformers", experts) for experts in EXPERTS[:2])]
        with ExitStack() as stack:
            running = [stack.enter_context(Running(side, common)) for side in sides]
            samples: dict[str, list[float]] = {side.name: [] for side in sides}
            for number in range(given.turns + 3):
                for side, processes in zip(sides, running):
                    seconds = processes.turn(given.steps)
                    if number >= 3:  # the first rounds warm up
                        samples[side.name].append(rate(seconds))
        peer = max(sides[1:], key=lambda side: statistics.median(samples[side.name]))
        losses = running[0].first_loss, running[sides.index(peer)].first_loss
    emit(record(given, swept, ours, peer, samples, losses), given.out)
    return 0


def peers(size: str) -> list[Side]:
    """The peer's layouts and implementations of experts. batched_mm copies weights for every token,
    2.4 GB at the smallest size and a multiple of this machine's memory at the largest: tried at the
    smallest only."""
    experts = EXPERTS if size == "1.3M" else EXPERTS[:2]
    return [Side("transformers", p, e, "sdpa") for e in experts for p in (1, 2)]


def glance(side: Side, common: dict[str, Any]) -> float:
    """Seconds per step, roughly: the median of three after a warm-up, or the first if that is very
    slow."""
    with Running(side, common) as running:
        seconds = running.turn(1)
        if seconds < SLOW_S:
            seconds = statistics.median(running.turn(1) for _ in range(3))
    print(f"{side.name}: {rate(seconds):,.0f} tok/s in the sweep", file=sys.stderr, flush=True)
    return seconds


def best(swept: dict[Side, float], owner: str, experts: str | None = None) -> Side:
    """The fastest side of one owner, with those experts if they are named."""
    of_owner = (side for side in swept if side.owner == owner)
    return min((side for side in of_owner if experts in (None, side.experts)), key=swept.__getitem__)


def rate(seconds_per_step: float) -> float:
    """Tokens per second."""
    return ROWS * CONTEXT / seconds_per_step


def record(
    given: Any,
    swept: dict[Side, float],
    ours: Side,
    peer: Side,
    samples: dict[str, list[float]],
    losses: tuple[float, float],
) -> dict[str, Any]:
    """The JSON of a run."""
    medians = {name: statistics.median(rates) for name, rates in samples.items()}
    ratios = [a / b for a, b in zip(samples[ours.name], samples[peer.name])]
    counted = parameters(config_of(SIZES[given.size]))
    return {
        "bench": "training_speed",
        **describe(threads=THREADS),
        "versions": versions(),
        "settings": {
            "size": given.size,
            "active_without_embedding_and_head": counted.active_without_either,
            "total": counted.total,
            "dtype": given.dtype,
            "optimizer": "AdamW",
            "rows": ROWS,
            "context": CONTEXT,
            "steps_per_turn": given.steps,
            "turns": given.turns,
            "compiled": False,
        },
        "sweep_tok_s": {side.name: round(rate(seconds), 1) for side, seconds in swept.items()},
        "tok_s": {name: round(value, 1) for name, value in medians.items()},
        "samples_tok_s": {name: [round(v, 1) for v in rates] for name, rates in samples.items()},
        "ratio": round(medians[ours.name] / medians[peer.name], 3),
        "ratio_of_neighbouring_turns": [round(r, 3) for r in sorted(ratios)],
        "wanted_ratio": WANTED,
        "loss_of_first_step": {"abruzzi": losses[0], "transformers": losses[1]},
    }


def versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def config_of(sizes: Iterable[int]) -> ModelConfig:
    """A decoder with 16 experts, two of them and a shared one used by each token, the first layer
    dense."""
    hidden, layers, heads, expert, dense, q_rank, kv_rank, head = sizes
    return ModelConfig(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=dense,
        moe_intermediate_size=expert,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        n_routed_experts=16,
        num_experts_per_tok=2,
        n_shared_experts=1,
        routed_scaling_factor=1.4,
        q_lora_rank=q_rank,
        kv_lora_rank=kv_rank,
        qk_nope_head_dim=head,
        qk_rope_head_dim=16,
        v_head_dim=head,
        rope_theta=1000.0,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
    )


def write_checkpoint(path: Path, sizes: Iterable[int]) -> Path:
    """Random weights that both sides begin with."""
    from abruzzi.checkpoint import save_checkpoint
    from abruzzi.model import K2Model

    config = config_of(sizes)
    weights = {n: t.numpy() for n, t in K2Model(config, seed=0).state_dict().items()}
    save_checkpoint(path, config, weights, dtype="float32", int4=False)
    return path


class Running:
    """The processes of one side, waiting for turns; between turns they use no CPU."""

    def __init__(self, side: Side, common: dict[str, Any]) -> None:
        port = free_port()
        self._processes = []
        for rank in range(side.processes):
            given = {**common, "owner": side.owner, "experts": side.experts, "attention": side.attention}
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": str(THREADS // side.processes),
                "RANK": str(rank),
                "WORLD_SIZE": str(side.processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            command = [sys.executable, __file__, "--worker", json.dumps(given)]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._processes.append(subprocess.Popen(command, env=environment, **pipes))
        self.first_loss = self._answers()[0]

    def turn(self, steps: int) -> float:
        """Seconds per step of the slowest process."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        return max(self._answers()) / steps

    def _answers(self) -> list[float]:
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("a process of the bench ended; what it said is above")
            answers.append(float(line))
        return answers

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# one process of a side


def work(given: dict[str, Any]) -> int:
    """Take as many steps as each line of stdin says, and answer with their seconds; the first
    answer is a loss."""
    import torch
    import torch.distributed as dist

    processes = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(THREADS // processes)
    torch.manual_seed(0)
    if processes > 1:
        dist.init_process_group("gloo")
    step = our_step(given) if given["owner"] == "abruzzi" else their_step(given)
    print(step(), flush=True)
    for line in sys.stdin:
        if processes > 1:
            dist.barrier()
        started = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - started, flush=True)
    if processes > 1:
        dist.destroy_process_group()
    return 0


def batches(rows: int = ROWS, context: int = CONTEXT) -> Iterator[Any]:
    """The same token ids [rows, context] for both sides, without end; int64 arrays."""
    import numpy as np

    rng = np.random.default_rng(0)
    while True:
        # Not uniform: some experts and some tokens are more in demand than others, as in text.
        yield np.minimum(rng.zipf(1.3, (rows, context)), 1024) - 1


def our_step(given: dict[str, Any]) -> Callable[[], float]:
    import numpy as np
    import torch

    from abruzzi import model as k2
    from abruzzi.data.packing import Row
    from abruzzi.train.loop import RunConfig, Trainer

    model = k2.load(given["checkpoint"])
    config = RunConfig(
        model=model.config,
        steps=10**9,
        rows_per_step=ROWS,
        row_length=CONTEXT,
        optimizer="adamw",
        warmup=0,
        lr_adamw=1e-3,
        decay=1,
        autocast=given["dtype"] == "bfloat16",
        log_every=10**9,
        save_every=10**9,
    )
    everything = np.arange(CONTEXT) > 0
    nothing, one = np.zeros(CONTEXT, bool), np.zeros(CONTEXT, np.int32)
    rows = (Row(ids, everything, nothing, one) for batch in batches() for ids in batch)
    trainer = Trainer(config, lambda _: [], Path(tempfile.gettempdir()), model)
    losses: list[float] = []

    gradients = trainer._gradients
    trainer._gradients = lambda *a, **k: noted(gradients(*a, **k))  # type: ignore[method-assign]

    def noted(totals: Any) -> Any:
        losses.append(float(totals.loss))
        return totals

    def step() -> float:
        trainer._one_step(rows)
        return losses.pop()

    assert torch.get_num_threads() * int(os.environ["WORLD_SIZE"]) == THREADS
    return step


def their_step(given: dict[str, Any]) -> Callable[[], float]:
    import torch
    import torch.distributed as dist
    import transformers

    transformers.logging.set_verbosity_error()
    processes, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        given["checkpoint"],
        dtype=torch.float32,
        attn_implementation=given["attention"],
        experts_implementation=given["experts"],
    ).train()
    assert model.config._attn_implementation == given["attention"]
    assert model.config._experts_implementation == given["experts"]
    trained = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if processes > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    rows = iter(batches())

    def step() -> float:
        ids = torch.from_numpy(next(rows)[rank::processes])
        with torch.autocast("cpu", torch.bfloat16, enabled=given["dtype"] == "bfloat16"):
            loss = trained(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total = loss.detach()
        if processes > 1:
            dist.all_reduce(total)
        return float(total) / processes

    return step


if __name__ == "__main__":
    raise SystemExit(main())

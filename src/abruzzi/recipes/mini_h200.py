"""mini_h200: the model that ships with abruzzi as nano. nano_cpu's recipe at 11 M active of 48 M
parameters (39 MB in INT4), embedding and head included, for one H200 (device cuda): seven minutes.

The same tasks, tokenizer and loop; 123 thousand tokens a step, bfloat16, QK-Clip at K2's tau.
Samples are made by the processor's other cores while the GPU computes.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from abruzzi.arch import ModelConfig
from abruzzi.recipes import Prepared, nano
from abruzzi.train.loop import RunConfig

STEPS = 3281
ROWS = 96


def model_config(small: ModelConfig) -> ModelConfig:
    """nano's shape, wider and deeper, with more experts."""
    return replace(
        small,
        hidden_size=384,
        intermediate_size=1024,
        moe_intermediate_size=192,
        num_hidden_layers=8,
        num_attention_heads=8,
        n_routed_experts=26,
        q_lora_rank=192,
        kv_lora_rank=128,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=48,
    )


def prepare(out: Path) -> Prepared:
    """The run, with its tokenizer in `out`: nano's own."""
    small = nano.prepare(out)
    small.close()  # one process would not keep up
    shards = Shards((out / "tokenizer.json").read_text(encoding="utf-8"))
    return replace(small, config=run_config(small.config, STEPS), shard_of=shards, close=shards.close)


def run_config(small: RunConfig, steps: int) -> RunConfig:
    """nano's settings for 122,880 tokens a step on a GPU. Fewer rows would not be faster: a step's
    few thousand kernels keep one core of the processor busy for 0.1 s whatever their size."""
    return replace(
        small,
        model=model_config(small.model),
        steps=steps,
        rows_per_step=ROWS,
        lr_muon=6.5e-3,
        lr_adamw=2e-3,
        warmup=200,
        decay=steps * 5 // 6,
        context_steps=steps // 3,
        qat_steps=steps // 10,
        qk_clip_tau=100.0,
        autocast=True,
        device="cuda",
        log_every=50,
        save_every=1000,
    )


class Shards(nano.Shards):
    """nano's shards, made by as many processes as there are cores but two."""

    def __init__(self, tokenizer_json: str) -> None:
        workers = max(
            1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) - 2
        )
        super().__init__(tokenizer_json, ahead=2 * workers)
        self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

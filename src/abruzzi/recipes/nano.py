"""nano on two CPU cores: tokenizer, data and training in one file. What ships is its larger sister,
mini_h200.

    abruzzi train nano_cpu --out runs/nano --time-limit 90m     # --resume goes on where it stopped
    torchrun --nproc-per-node 2 -m abruzzi.cli.main train nano_cpu --out runs/nano --threads 1   # a process per core

Every sample is a task of `abruzzi.tasks` with its gold trajectory in one of four modes (thinking x
tools, in equal numbers), rendered as the product renders it. What users and tools say counts half
in the first third of the run; slips that a gold trajectory makes on purpose are never targets. No
other text is used.
"""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import torch

from abruzzi import tokenizer
from abruzzi.arch import ModelConfig
from abruzzi.data.packing import Conversation, Row, pack
from abruzzi.recipes import Prepared
from abruzzi.tasks import Split, Task, hurried, make, mistyped
from abruzzi.tasks.vocabulary import MEN, WOMEN
from abruzzi.tokenizer import ChatDefaults, Tokenizer
from abruzzi.tokenizer.formats.spans import first_user
from abruzzi.tokenizer.train import train_words
from abruzzi.train.loop import RunConfig, fast_bfloat16
from abruzzi.types import Message

SYSTEM = "You are nano, a very small model. You think, use tools and answer."
VOCAB_SIZE = 2048
CONTEXT = 4096
ROW_LENGTH = 1280
SHARD = 512  # samples
STEPS = 4200
# Family and split of 24 tasks in a row: mostly what is asked for, one in five longer than that.
MIX: tuple[tuple[str, Split], ...] = (
    *(("word_problems", "trained"), ("table_questions", "trained"), ("folder_facts", "trained"), ("chains", "trained")),
    *(("word_problems", "trained"), ("dates_and_units", "trained"), ("puzzles", "trained")),
    ("word_problems", "longer"),
    *(("table_questions", "trained"), ("folder_facts", "trained"), ("word_problems", "trained"), ("chains", "longer")),
    *(("table_questions", "trained"), ("folder_facts", "trained"), ("dates_and_units", "trained")),
    *(("word_problems", "trained"), ("table_questions", "longer"), ("chains", "trained"), ("folder_facts", "trained")),
    *(("table_questions", "trained"), ("puzzles", "trained"), ("word_problems", "trained"), ("folder_facts", "longer")),
    ("dates_and_units", "longer"),
)
HURRIED = 6  # one question in so many is typed in a hurry
MISTYPED = 3  # and in one in so many some words are typed wrongly
# Seeds of training tasks; evaluation uses others (abruzzi.evals), and texts are compared there.
FIRST_SEED = 1_000_000_000
DEFAULTS = ChatDefaults(system=SYSTEM, preserve_thinking=True, cut_long_runs=False)


def model_config(vocab: Tokenizer) -> ModelConfig:
    """K2's architecture at 4.1 M active parameters of 10.9 M, embedding and head included."""
    return ModelConfig(
        vocab_size=vocab.vocab_size,
        hidden_size=256,
        intermediate_size=704,
        moe_intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=6,
        n_routed_experts=16,
        num_experts_per_tok=2,
        n_shared_experts=1,
        # The rule that K2's 2.827 follows: the routed sum keeps the size of a dense MLP's output.
        routed_scaling_factor=1.4,
        q_lora_rank=128,
        kv_lora_rank=64,
        qk_nope_head_dim=24,
        qk_rope_head_dim=24,
        v_head_dim=32,
        # Wavelengths from 6 tokens to the whole context: 50,000 would leave most of the 12 pairs
        # standing still.
        rope_theta=1000.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=CONTEXT,
        bos_token_id=vocab.id_of(vocab.format.special["bos_token"]),
        eos_token_id=vocab.marker_ids.end_of_turn,
        pad_token_id=vocab.id_of(vocab.format.special["pad_token"]),
    )


def prepare(out: Path, texts: int = 6000) -> Prepared:
    """The run, with its tokenizer in `out`: built there from `texts` samples by the first process,
    read by all."""
    first, several = _first_process()
    vocab_file = out / "tokenizer.json"
    if first and not vocab_file.exists():
        vocab_file.write_text(build_tokenizer(texts).to_json(), encoding="utf-8")
    if several:
        torch.distributed.barrier()
    text = vocab_file.read_text(encoding="utf-8")
    vocab = tokenizer.from_json(text, DEFAULTS)
    shards = Shards(text)
    files = tokenizer.chat_files(vocab, max_context=CONTEXT)
    return Prepared(run_config(vocab, STEPS), shards, files, shards.close)


def build_tokenizer(texts: int) -> Tokenizer:
    """nano's own vocabulary, from so many samples: frequent words whole, names and the rest
    spelled."""
    names = {name.lower() for name in (*MEN, *WOMEN)}
    return tokenizer.from_json(train_words(_texts(texts), VOCAB_SIZE, spelled=names), DEFAULTS)


def sample(vocab: Tokenizer, number: int) -> Conversation:
    """Training sample `number`: which task and which mode follow from it alone."""
    thinking, tools = number % 2 == 0, number // 2 % 2 == 0
    task = training_task(number)
    messages, specs = conversation(task, thinking, tools)
    rendered = tokenizer.render(vocab, messages, specs, add_generation_prompt=False)
    sampled = rendered.sampled
    question = first_user(vocab, rendered.ids)
    assert question is not None
    context = [at > question and not was for at, was in enumerate(sampled)]
    if thinking and tools:
        for slip in task.mistakes():
            _forget(vocab, messages, specs, slip + 1, sampled)
    return Conversation(rendered.ids, sampled, context)


def training_task(number: int) -> Task:
    """The task of a training sample: four samples in a row cover the four modes of different
    tasks."""
    task = clean_task(number)
    rng = random.Random(f"hurried/{number}")
    if rng.randrange(HURRIED) == 0:
        task = hurried(task, rng)
    return mistyped(task, rng) if rng.randrange(MISTYPED) == 0 else task


def clean_task(number: int) -> Task:
    """The same task as somebody writes it who takes the time."""
    family, split = MIX[number // 4 % len(MIX)]
    return make(family, split, FIRST_SEED + number)


def conversation(task: Task, thinking: bool, tools: bool) -> tuple[list[Message], list]:
    """The messages of a gold trajectory, and the tools that are declared."""
    prompt = task.prompt if tools else task.prompt_without_tools
    specs = []
    if tools:
        with task.open_tools() as opened:
            specs = [tool.spec for tool in opened]
    return [Message("user", prompt), *task.gold(thinking, tools)], specs


def shard(tokenizer_json: str, number: int) -> list[Row]:
    """Rows of shard `number`; a function of its arguments, so it can run in another process."""
    vocab = tokenizer.from_json(tokenizer_json, DEFAULTS)
    numbers = range(number * SHARD, (number + 1) * SHARD)
    made = [s for i in numbers if len((s := sample(vocab, i)).ids) <= ROW_LENGTH]
    return list(pack(made, ROW_LENGTH, vocab.control[vocab.format.special["pad_token"]]))


class Shards:
    """Shards by number, the next ones already being made in another process."""

    def __init__(self, tokenizer_json: str, ahead: int = 2) -> None:
        self._json = tokenizer_json
        self._ahead = ahead
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._waiting: dict[int, Future[list[Row]]] = {}

    def __call__(self, number: int) -> Sequence[Row]:
        for n in range(number, number + self._ahead + 1):
            if n not in self._waiting:
                self._waiting[n] = self._pool.submit(shard, self._json, n)
        return self._waiting.pop(number).result()

    def close(self) -> None:
        """End the other process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def run_config(vocab: Tokenizer, steps: int) -> RunConfig:
    """nano on two CPU cores: 10,240 tokens a step."""
    return RunConfig(
        model=model_config(vocab),
        steps=steps,
        rows_per_step=8,
        row_length=ROW_LENGTH,
        lr_muon=8e-3,
        lr_adamw=2.4e-3,
        weight_decay=0.02,
        warmup=100,
        decay=max(1, steps * 9 // 10),
        context_weight=0.5,
        context_steps=steps * 3 // 10,
        qat_steps=steps // 10,
        qk_clip_tau=100.0,
        autocast=fast_bfloat16(),
        save_every=100,
        log_every=10,
    )


def _texts(count: int) -> Iterator[str]:
    """All that is said in each of `count` samples."""
    for number in range(count):
        messages, specs = conversation(clean_task(number), number % 2 == 0, number // 2 % 2 == 0)
        said = [SYSTEM, "tool_declare", "system"]
        said += (json.dumps(s.to_openai(), sort_keys=True, separators=(",", ":")) for s in specs)
        for message in messages:
            said += filter(None, (message.content, message.reasoning_content, message.role))
            said += (c.arguments for c in message.tool_calls)
            said += (f"functions.{c.name}:0" for c in message.tool_calls)
            said.append("## Return of functions.calculator:0\n")
        yield "\n".join(said)


def _forget(vocab: Tokenizer, messages: list[Message], specs: list, index: int, sampled: list[bool]) -> None:
    """Take message `index` out of the loss. Rendering is append-only, so its span is between two
    lengths."""
    start, end = (
        len(tokenizer.render(vocab, messages[:upto], specs, add_generation_prompt=False).ids)
        for upto in (index, index + 1)
    )
    sampled[start:end] = [False] * (end - start)


def _first_process() -> tuple[bool, bool]:
    """Whether this is the first process, and whether there are others."""
    if not torch.distributed.is_initialized():
        return True, False
    return torch.distributed.get_rank() == 0, True

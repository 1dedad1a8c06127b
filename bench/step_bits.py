"""SHA-256 of a step's logits, for small random shapes, every weight mode and every instruction set
of this machine.

    python bench/step_bits.py --out before.json                     # on one commit
    python bench/step_bits.py --against before.json [--out FILE]    # on another: equal, bit for bit, or exit code 1

A change of structure must leave every digest as it was; a change of arithmetic must not. Digests
hold for one machine (libm's cos and sin, the instruction sets there), so they are compared and
never kept as expectations.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.config import ModelConfig
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.state import Chunk, KvCache
from abruzzi.kernels import supported_isas
from machine import describe, emit, output_option

BLOCK = 8
BLOCKS = 96
BASE: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 96,
    "intermediate_size": 160,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "q_lora_rank": 48,
    "max_position_embeddings": 1024,
}
YARN: dict[str, Any] = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "q_lora": {},
    "q_proj": {"q_lora_rank": None},
    "dense only": {"first_k_dense_replace": 3},
    "experts only": {"first_k_dense_replace": 0, "q_lora_rank": None},
    "groups, yarn": {"n_group": 4, "topk_group": 2, "rope_scaling": YARN},
    "odd sizes": {
        "hidden_size": 72,
        "num_attention_heads": 5,
        "kv_lora_rank": 33,
        "v_head_dim": 17,
        "q_lora_rank": 41,
        "intermediate_size": 101,
        "moe_intermediate_size": 37,
    },
}
# How the checkpoint is stored, the precision, the weight mode.
MODES = [
    ("float32", "exact", "native"),
    ("bfloat16", "exact", "native"),
    ("int4", "exact", "native"),
    ("int4", "fast", "native"),
    ("bfloat16", "exact", "int8-dense"),
    ("bfloat16", "fast", "int8-dense"),
    ("bfloat16", "exact", "all-4-bit"),
    ("bfloat16", "fast", "all-4-bit"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--against", type=Path, default=None, help="a record of another commit to compare with")
    given = parser.parse_args(arguments)
    rows = list(digests())
    result: dict[str, Any] = {"bench": "step_bits", **describe(threads=2), "isas": list(supported_isas()), "rows": rows}
    differing: list[dict[str, Any]] = []
    if given.against is not None:
        other = json.loads(given.against.read_text(encoding="utf-8"))
        before, after = (json.dumps(r, sort_keys=True) for r in (other["rows"], rows))
        differing = [new for old, new in zip(other["rows"], rows) if old != new]
        result["against"] = {"commit": other["commit"], "equal": before == after, "rows": len(other["rows"])}
        print(f"{len(rows)} digests, {len(differing)} differ from {other['commit']}", file=sys.stderr)
        if before != after:
            emit(result, given.out)
            return 1
    emit(result, given.out)
    return 0


def digests() -> Iterator[dict[str, Any]]:
    """One row per shape, mode and instruction set: prefill, decode and a batch of sequences."""
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, changes) in enumerate(SHAPES.items()):
            config = _config(**changes)
            folders = {s: _write(Path(scratch) / f"{number}-{s}", config, s) for s in ("float32", "bfloat16", "int4")}
            for storage, precision, weights in MODES:
                if storage == "int4" and config.hidden_size % 32:
                    continue  # INT4 is stored in groups of 32 columns
                if storage == "int4" and config.first_k_dense_replace >= config.num_hidden_layers:
                    continue  # no experts, nothing in INT4
                for isa in supported_isas():
                    with open_checkpoint(folders[storage]) as checkpoint:
                        runner = NativeRunner.load(checkpoint, isa=isa, threads=2, precision=precision, weights=weights)
                    yield {
                        "shape": name,
                        "stored": storage,
                        "precision": precision,
                        "weights": weights,
                        "isa": isa,
                        **{work: _sha(logits) for work, logits in _work(runner, config)},
                    }


def _config(rope_scaling: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    config = ModelConfig(**{**BASE, **changes})
    return ModelConfig.from_dict({**config.to_dict(), "rope_scaling": rope_scaling}) if rope_scaling else config


def _write(folder: Path, config: ModelConfig, storage: str) -> Path:
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.uniform(0.5, 1.5, s.shape) if len(s.shape) == 1 else rng.normal(0, 0.15, s.shape)).astype(np.float32)
        for name, s in expected_tensors(config).items()
    }
    if storage == "int4" and (config.hidden_size % 32 or config.moe_intermediate_size % 32):
        return folder
    save_checkpoint(
        folder, config, tensors, dtype="float32" if storage == "float32" else "bfloat16", int4=storage == "int4"
    )
    return folder


def _work(runner: NativeRunner, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Logits of every position: a prompt in one piece and in parts, tokens one by one, several
    sequences at once."""
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 300)
    table = np.random.default_rng(2).permutation(BLOCKS).astype(np.int32)

    def run(*pieces: tuple[int, int, int]) -> np.ndarray:
        """Pieces (first block, start, end) of one step."""
        chunks = [Chunk(ids[a:b], a, table[at : at - (-b // BLOCK)], all_logits=True) for at, a, b in pieces]
        return np.concatenate(runner.forward(chunks, cache))

    cache = KvCache(config, BLOCKS * BLOCK, BLOCK)
    yield "prefill", run((0, 0, 300))
    cache = KvCache(config, BLOCKS * BLOCK, BLOCK)
    yield "parts", np.concatenate([run((0, a, b)) for a, b in ((0, 7), (7, 100), (100, 101), (101, 300))])
    cache = KvCache(config, BLOCKS * BLOCK, BLOCK)
    yield "decode", np.concatenate([run((0, 0, 280)), *(run((0, i, i + 1)) for i in range(280, 300))])
    cache = KvCache(config, BLOCKS * BLOCK, BLOCK)
    first = run((0, 0, 270), (40, 0, 30), (50, 0, 5))
    rest = [run((0, 270 + i, 271 + i), (40, 30 + 2 * i, 32 + 2 * i), (50, 5 + i, 6 + i)) for i in range(10)]
    yield "batch", np.concatenate([first, *rest, run((60, 0, 12), (0, 280, 281), (40, 50, 70))])


def _sha(logits: np.ndarray) -> str:
    assert np.isfinite(logits).all()
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

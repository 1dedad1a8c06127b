"""Every family against transformers: random twins, every weight loud, through the readable step and
the compiled one.

Logits in float32 within 1e-4 of the largest, argmax equal at every position. A switch of the family
that is planted wrong turns it red. Second opinion where it lies there: a forward pass in NumPy that
nobody here wrote (shared/oracles/families_reference.py).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from abruzzi.arch.rope import LinearScaling
from abruzzi.checkpoint import open_checkpoint
from abruzzi.engine.attention.gqa import GqaWeights
from abruzzi.engine.step.native import NativeRunner
from abruzzi.engine.step.plain import PlainRunner
from abruzzi.engine.step.state import Chunk, KvCache, StepRunner
from abruzzi.engine.weights.load import load_weights
from abruzzi.kernels import supported_isas
from abruzzi.kernels.dispatch import ISAS

LENGTH = 40
TOLERANCE = 1e-4
RUNNERS = ("numpy", *ISAS)

# Sizes differ from each other, so that a mixed-up axis cannot fit by accident. A small theta and short
# original contexts turn a short sequence through every kind of frequency.
GQA = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
THETA = {"rope_type": "default", "rope_theta": 500.0}
LLAMA3 = {
    **THETA,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 28}
GLM = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 72,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "kv_lora_rank": 24,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_group": 1,
    "topk_group": 1,
    "rms_norm_eps": 1e-5,
    "routed_scaling_factor": 1.8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TWINS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **GQA, "rope_parameters": THETA},
    "llama-tied-llama3": {"model_type": "llama", **GQA, "rope_parameters": LLAMA3, "tie_word_embeddings": True},
    "llama-biased-linear": {
        "model_type": "llama",
        **GQA,
        "num_key_value_heads": 6,
        "head_dim": 8,
        "attention_bias": True,
        "rope_parameters": {**THETA, "rope_type": "linear", "factor": 3.0},
    },
    "llama-yarn": {"model_type": "llama", **GQA, "num_key_value_heads": 3, "rope_parameters": YARN},
    "qwen3": {"model_type": "qwen3", **GQA, "head_dim": 32, "rope_parameters": THETA},
    "qwen3-tied-yarn": {"model_type": "qwen3", **GQA, "tie_word_embeddings": True, "rope_parameters": YARN},
    "qwen3-biased": {"model_type": "qwen3", **GQA, "attention_bias": True, "rope_parameters": THETA},
    "qwen3_moe": {"model_type": "qwen3_moe", **GQA, **EXPERTS, "norm_topk_prob": True, "rope_parameters": THETA},
    "qwen3_moe-raw": {"model_type": "qwen3_moe", **GQA, **EXPERTS, "norm_topk_prob": False, "rope_parameters": THETA},
    "qwen3_moe-biased-yarn": {
        "model_type": "qwen3_moe",
        **GQA,
        **EXPERTS,
        "num_experts_per_tok": 1,
        "norm_topk_prob": True,
        "attention_bias": True,
        "rope_parameters": YARN,
    },
    "glm4_moe_lite": {
        "model_type": "glm4_moe_lite",
        **GLM,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "rope_parameters": THETA,
    },
    "glm4_moe_lite-no-lora": {
        "model_type": "glm4_moe_lite",
        **GLM,
        "q_lora_rank": None,
        "mlp_layer_types": ["sparse"] * 3,
        "rope_parameters": THETA,
    },
    "glm4_moe_lite-raw": {
        "model_type": "glm4_moe_lite",
        **GLM,
        "norm_topk_prob": False,
        "n_shared_experts": 2,
        "mlp_layer_types": ["dense", "dense", "sparse"],
        "rope_parameters": THETA,
    },
}
Made = Callable[[str], tuple[Path, np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """name -> a checkpoint as transformers writes it, ids, and its logits; made once."""

    @functools.cache
    def make(name: str) -> tuple[Path, np.ndarray, np.ndarray]:
        folder = tmp_path_factory.mktemp("family") / "m"
        given = dict(TWINS[name])
        config = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight_name, weight in [*model.named_parameters(), *model.named_buffers()]:
                if "inv_freq" in weight_name:
                    continue
                if weight_name.endswith("e_score_correction_bias") or weight_name.endswith(".bias"):
                    weight.normal_(0, 0.5, generator=rng)
                elif weight.ndim == 1:
                    weight.uniform_(0.5, 1.5, generator=rng)
                else:
                    weight.normal_(0, 1.5 / weight.shape[-1] ** 0.5, generator=rng)
        model.save_pretrained(folder)
        ids = torch.randint(0, config.vocab_size, (1, LENGTH), generator=rng)
        with torch.no_grad():
            logits = model(ids).logits[0].numpy()
        return folder, ids[0].numpy(), logits

    return make


def runner_of(folder: Path, kind: str) -> StepRunner:
    if kind != "numpy" and kind not in supported_isas():
        pytest.skip(f"this CPU lacks {kind}")
    with open_checkpoint(folder) as checkpoint:
        if kind == "numpy":
            return PlainRunner(checkpoint.config, load_weights(checkpoint))
        return NativeRunner.load(checkpoint, isa=kind, threads=2)


def logits_of(runner: StepRunner, ids: np.ndarray, chunks: list[int], block: int = 4) -> np.ndarray:
    """All logits [T, V], the ids run in chunks of these lengths over blocks in no order."""
    blocks = np.random.default_rng(len(chunks)).permutation(-(-len(ids) // block) + 3).astype(np.int32)
    cache = KvCache(runner.config, len(blocks) * block, block)
    rows, start = [], 0
    for length in chunks:
        part = ids[start : start + length]
        rows += runner.forward([Chunk(part, start, blocks, all_logits=True)], cache)
        start += length
    return np.concatenate(rows)


def off_by(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("name", TWINS)
def test_logits_are_those_of_transformers(made: Made, name: str, kind: str) -> None:
    folder, ids, theirs = made(name)
    runner = runner_of(folder, kind)
    for chunks in ([LENGTH], [17, 1, 1, 21], [1] * LENGTH):
        ours = logits_of(runner, ids, chunks)
        assert off_by(ours, theirs) < TOLERANCE, chunks
        assert (ours.argmax(-1) == theirs.argmax(-1)).all(), chunks


# one switch of a family wrong


def _config(**changes: Any) -> Callable[[PlainRunner], None]:
    def plant(runner: PlainRunner) -> None:
        config = replace(runner.config, **{k: v(runner.config) if callable(v) else v for k, v in changes.items()})
        runner.__init__(config, runner.weights)

    return plant


def _attention(change: Callable[[GqaWeights], GqaWeights]) -> Callable[[PlainRunner], None]:
    def plant(runner: PlainRunner) -> None:
        layers = tuple(replace(layer, attention=change(layer.attention)) for layer in runner.weights.layers)
        runner.__init__(runner.config, replace(runner.weights, layers=layers))

    return plant


def _without(what: str, part: str) -> Callable[[PlainRunner], None]:
    return _attention(lambda w: replace(w, **{what: {k: v for k, v in getattr(w, what).items() if k != part}}))


def _other_heads(w: GqaWeights) -> GqaWeights:
    """Keys of the next head of keys and values."""
    k = w.matrices["k"].reshape(-1, w.width, w.matrices["k"].shape[1])
    return replace(w, matrices={**w.matrices, "k": np.roll(k, 1, axis=0).reshape(w.matrices["k"].shape)})


def _as_pairs(w: GqaWeights) -> GqaWeights:
    """Rows of q and k as a reader would have them that takes half-split rotation for pairs."""
    return replace(w, matrices={**w.matrices, **{n: w.turned(n, w.matrices[n]) for n in ("q", "k")}})


PLANTED: list[tuple[str, str, Callable[[PlainRunner], None]]] = [
    ("llama", "theta", _config(rope_theta=lambda c: c.rope_theta * 2)),
    ("llama", "eps", _config(rms_norm_eps=1e-2)),
    ("llama", "shared heads", _attention(_other_heads)),
    ("llama", "pairs", _attention(_as_pairs)),
    ("llama-tied-llama3", "scaling left out", _config(rope_scaling=None)),
    ("llama-tied-llama3", "llama3 as linear", _config(rope_scaling=LinearScaling(8.0))),
    ("llama-biased-linear", "linear left out", _config(rope_scaling=None)),
    *(("llama-biased-linear", f"bias of {part}", _without("biases", part)) for part in ("q", "v", "o")),
    ("llama-yarn", "yarn left out", _config(rope_scaling=None)),
    *(("qwen3", f"norm of {part}", _without("norms", part)) for part in ("q", "k")),
    ("qwen3_moe", "not divided by their sum", _config(norm_topk_prob=False)),
    ("qwen3_moe", "one expert fewer", _config(num_experts_per_tok=2)),
    ("qwen3_moe-raw", "divided by their sum", _config(norm_topk_prob=True)),
    ("glm4_moe_lite", "scale", _config(routed_scaling_factor=1.0)),
    ("glm4_moe_lite-raw", "divided by their sum", _config(norm_topk_prob=True)),
]


@pytest.mark.parametrize(("name", "what", "plant"), PLANTED, ids=[f"{n}: {w}" for n, w, _ in PLANTED])
def test_a_switch_that_is_planted_wrong_is_seen(
    made: Made, name: str, what: str, plant: Callable[[PlainRunner], None]
) -> None:
    folder, ids, theirs = made(name)
    runner = runner_of(folder, "numpy")
    assert isinstance(runner, PlainRunner)
    plant(runner)
    assert off_by(logits_of(runner, ids, [LENGTH]), theirs) > 3 * TOLERANCE


def test_a_router_that_scores_by_sigmoid_is_seen(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ids, theirs = made("qwen3_moe-raw")
    runner = runner_of(folder, "numpy")
    monkeypatch.setattr(type(runner.config), "ROUTER_SCORE", "sigmoid")
    assert off_by(logits_of(runner, ids, [LENGTH]), theirs) > 3 * TOLERANCE


# the same bits whoever shares the work


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "llama-biased-linear"])
@pytest.mark.parametrize("kind", ISAS)
def test_a_token_gets_the_same_bits_in_every_crowd(made: Made, name: str, kind: str) -> None:
    folder, ids, _ = made(name)
    if kind not in supported_isas():
        pytest.skip(f"this CPU lacks {kind}")
    rng = np.random.default_rng(1)
    others = [rng.integers(0, 101, n) for n in (1, 9, 33)]
    with open_checkpoint(folder) as checkpoint:
        runners = [NativeRunner.load(checkpoint, isa=kind, threads=n) for n in (1, 2, 3)]
    alone = logits_of(runners[0], ids, [LENGTH])
    for runner in runners:
        for cuts in ([LENGTH], [1] * LENGTH, [7, 13, 20]):
            assert (logits_of(runner, ids, cuts) == alone).all(), cuts
        cache = KvCache(runner.config, 200, 1)
        crowd, first = [], 0
        for tokens in (others[0], others[1], ids, others[2]):
            crowd.append(Chunk(tokens, 0, np.arange(first, first + len(tokens), dtype=np.int32), all_logits=True))
            first += len(tokens)
        assert (runner.forward(crowd, cache)[2] == alone).all()


def test_long_contexts_in_parts_are_those_of_the_readable_step(made: Made) -> None:
    folder, _, _ = made("qwen3")
    ids = np.random.default_rng(2).integers(0, 101, 1300)
    plain, native = runner_of(folder, "numpy"), runner_of(folder, supported_isas()[-1])
    theirs = logits_of(plain, ids, [len(ids)])
    assert off_by(logits_of(native, ids, [len(ids)]), theirs) < TOLERANCE
    assert (logits_of(native, ids, [1024, 1, 275]) == logits_of(native, ids, [len(ids)])).all()


# a second opinion


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_moe", "glm4_moe_lite"])
def test_the_second_opinion_agrees(made: Made, shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # it sets this, and would for every test behind it
    file = shared / "oracles" / "families_reference.py"
    spec = importlib.util.spec_from_file_location("families_reference", file)
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    folder, ids, _ = made(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    theirs = reference.Ref(model.config.to_dict(), state).forward(ids)
    assert off_by(logits_of(runner_of(folder, "numpy"), ids, [LENGTH]), theirs) < TOLERANCE

"""Checkpoints that we write, read by transformers; checkpoints that transformers writes, read by
us.

The INT4 case has three bounds. transformers (with compressed-tensors) dequantizes into the scale's
dtype, bfloat16, and so rounds every weight once more, and it then computes the experts in bfloat16.
With its weights computed in float32 and that rounding repeated on our side the logits agree to
float32's precision; without the rounding to 5e-3; as it loads, bfloat16 experts and all, to 1e-2.
The last two with routing pinned: a rounded weight can tip a route, and then two right models differ
by anything.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from abruzzi import model as k2
from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint, quantize_checkpoint, save_checkpoint
from tests.oracles import twins

SIZES = {"hidden_size": 64, "moe_intermediate_size": 32, "kv_lora_rank": 32, "v_head_dim": 16}
CONFIGS: dict[str, ModelConfig] = {
    "lora-yarn": replace(twins.CONFIGS["lora-g4-s2-yarn"], **SIZES),
    "plain": replace(twins.CONFIGS["q-g1-s1-rope"], **SIZES),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def twin(request: pytest.FixtureRequest) -> twins.Twin:
    return twins.make_twin(CONFIGS[request.param], seed=3)


def arrays(twin: twins.Twin) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in twin.weights.items()}


def theirs_from(path: Path) -> torch.nn.Module:
    """transformers' model of a directory in float32; every key must be used and found."""
    loaded, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return loaded.eval()


@torch.no_grad()
def their_logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(ids, use_cache=False).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard", [5_000_000_000, 60_000], ids=["single", "sharded"])
def test_transformers_reads_what_we_write(
    twin: twins.Twin, dtype: str, shard: int, tmp_path: Path, record_property
) -> None:
    save_checkpoint(tmp_path / "m", twin.config, arrays(twin), dtype=dtype, max_shard_bytes=shard)
    assert (len(list((tmp_path / "m").glob("*.safetensors"))) > 1) == (shard < 10**6)
    ids = twin.ids()
    source = copy.deepcopy(twin.theirs)
    if dtype == "bfloat16":
        with torch.no_grad():
            for name, tensor in source.state_dict().items():
                if not name.endswith("e_score_correction_bias"):
                    tensor.copy_(tensor.bfloat16().float())
    want = their_logits(source, ids)
    loaded = their_logits(theirs_from(tmp_path / "m"), ids)
    with torch.no_grad():
        ours = k2.load(tmp_path / "m")(ids)
    record_property("largest_difference", twins.difference(ours, want))
    assert twins.difference(loaded, want) <= 1e-4
    assert twins.difference(ours, want) <= 1e-4


def test_we_read_what_transformers_writes(twin: twins.Twin, tmp_path: Path) -> None:
    twin.theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.files) > 1
        assert set(checkpoint.names()) == set(twin.weights)
        for name, tensor in twin.weights.items():
            np.testing.assert_array_equal(checkpoint.array(name), tensor.numpy(), err_msg=name)
    ids = twin.ids(seed=1)
    with torch.no_grad():
        assert twins.difference(k2.load(tmp_path)(ids), their_logits(twin.theirs, ids)) <= 1e-4


def in_float32(loaded: torch.nn.Module, twin: twins.Twin) -> twins.Twin:
    """transformers' model with the weights that it dequantized, computing in float32."""
    theirs = copy.deepcopy(twin.theirs)
    theirs.load_state_dict({name: tensor.float() for name, tensor in loaded.state_dict().items()})
    return replace(twin, theirs=theirs)


@pytest.fixture(scope="module")
def int4_dirs(twin: twins.Twin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("int4")
    save_checkpoint(folder / "bf16", twin.config, arrays(twin))
    quantize_checkpoint(folder / "bf16", folder / "int4")
    return folder / "int4", theirs_from(folder / "int4")


def round_experts(model: k2.K2Model) -> k2.K2Model:
    """Round dequantized experts to bfloat16, as transformers does."""
    with torch.no_grad():
        for moe in model.moe_layers().values():
            for stack in moe.experts.parameters():
                stack.copy_(stack.bfloat16().float())
    return model


@torch.no_grad()
def int4_differences(ours: k2.K2Model, loaded: torch.nn.Module, twin: twins.Twin) -> tuple[float, float, float]:
    """Against float32 with their rounding repeated (routing free), without it, and against the
    model as loaded."""
    ids = twin.ids(seed=2)
    wide, wide_routes = twins.their_logits(in_float32(loaded, twin), ids)
    narrow, narrow_routes = twins.their_logits(replace(twin, theirs=loaded), ids)
    return (
        twins.difference(round_experts(copy.deepcopy(ours))(ids), wide),
        twins.difference(ours(ids, routing=wide_routes), wide),
        twins.difference(ours(ids, routing=narrow_routes), narrow),
    )


def test_transformers_reads_our_int4(
    twin: twins.Twin, int4_dirs: tuple[Path, torch.nn.Module], record_property
) -> None:
    path, theirs = int4_dirs
    with open_checkpoint(path) as checkpoint:
        experts = [n for n in checkpoint.names() if ".experts." in n]
        assert experts and all(checkpoint.is_int4(n) == (n in experts) for n in checkpoint.names())
    rounded, plain, as_loaded = int4_differences(k2.load(path), theirs, twin)
    record_property("largest_difference_same_rounding", rounded)
    record_property("largest_difference", plain)
    record_property("largest_difference_bf16_experts", as_loaded)
    assert rounded <= 1e-4
    assert plain <= 5e-3
    assert as_loaded <= 1e-2


@pytest.mark.parametrize("mistake", ["one expert swapped", "gate and up swapped", "scale off by one group"])
def test_the_int4_oracle_sees_planted_mistakes(
    mistake: str, twin: twins.Twin, int4_dirs: tuple[Path, torch.nn.Module]
) -> None:
    path, theirs = int4_dirs
    model = k2.load(path)
    with torch.no_grad():
        experts = next(iter(model.moe_layers().values())).experts
        if mistake == "one expert swapped":
            experts.down_proj[[0, 1]] = experts.down_proj[[1, 0]]
        elif mistake == "gate and up swapped":
            gate = experts.gate_proj.clone()
            experts.gate_proj.copy_(experts.up_proj)
            experts.up_proj.copy_(gate)
        else:
            experts.gate_proj.copy_(experts.gate_proj.roll(32, dims=-1))
    assert all(difference > 5e-2 for difference in int4_differences(model, theirs, twin))


def test_compressed_tensors_dequantizes_our_experts_to_the_same_bits(int4_dirs: tuple[Path, torch.nn.Module]) -> None:
    from compressed_tensors.compressors.pack_quantized import unpack_from_int32  # type: ignore

    path, theirs = int4_dirs
    with open_checkpoint(path) as checkpoint:
        name = "model.layers.1.mlp.experts.3.up_proj.weight"
        stored = checkpoint.packed(name)
        codes = unpack_from_int32(torch.from_numpy(stored.packed.copy()), 4, torch.Size(stored.shape)).numpy()
        scale = np.repeat(stored.scale.astype(np.float32), 32, axis=1)
        np.testing.assert_array_equal(checkpoint.array(name), codes * scale)
        # And the matrix inside transformers' model is this one, rounded to bfloat16.
        inner = checkpoint.config.moe_intermediate_size
        fused = theirs.state_dict()["model.layers.1.mlp.experts.gate_up_proj"][3, inner:]
        np.testing.assert_array_equal(fused.float().numpy(), torch.from_numpy(codes * scale).bfloat16().float().numpy())


def test_nothing_but_the_scales_dtype_separates_us(
    twin: twins.Twin, int4_dirs: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    """The same file with its scales widened to float32: now transformers dequantizes exactly, as we
    do."""
    shutil.copytree(int4_dirs[0], tmp_path / "wide")
    file = tmp_path / "wide" / "model.safetensors"
    tensors = {n: t.float() if n.endswith("_scale") else t for n, t in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    ids = twin.ids(seed=2)
    with torch.no_grad():
        ours = k2.load(int4_dirs[0])(ids)
    assert twins.difference(ours, their_logits(in_float32(theirs_from(tmp_path / "wide"), twin).theirs, ids)) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_reads_our_dtype(twin: twins.Twin, dtype: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", twin.config, arrays(twin), dtype=dtype)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").dtype == getattr(torch, dtype)

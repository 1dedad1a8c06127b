"""`abruzzi.model.load` on checkpoints that `abruzzi.checkpoint` and safetensors wrote."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_model_moe import CONFIG, loud

from abruzzi.checkpoint import open_checkpoint, quantize_checkpoint
from abruzzi.model import K2Model, load


def write(path: Path, dtype: torch.dtype, drop: str = "") -> K2Model:
    """A loud model as a checkpoint in `path`; returns the model, its numbers rounded to dtype."""
    config = replace(CONFIG, moe_intermediate_size=32)
    model = loud(K2Model(config))
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 2.0**10 if dtype == torch.float16 else 2.0**100  # beyond float16
    model.to(dtype).float()
    model.moe_layers()[1].gate.e_score_correction_bias.copy_(torch.linspace(-0.5, 0.777, 6))
    bias = "e_score_correction_bias"
    tensors = {k: v.clone() if bias in k else v.to(dtype).clone() for k, v in model.state_dict().items()}
    path.mkdir()
    config.save(path)
    save_file({k: v for k, v in tensors.items() if k != drop}, path / "model.safetensors", {"format": "pt"})
    return model


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_arrives(tmp_path: Path, stored: torch.dtype) -> None:
    want = write(tmp_path / "m", stored).state_dict()
    got = load(tmp_path / "m").state_dict()
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == torch.float32 and torch.equal(got[name], tensor), name


def test_dtype_is_obeyed_except_by_the_bias(tmp_path: Path) -> None:
    write(tmp_path / "m", torch.float32)
    model = load(tmp_path / "m", dtype=torch.bfloat16)
    dtypes = {name: t.dtype for name, t in model.state_dict().items() if t.dtype != torch.bfloat16}
    assert dtypes == {"model.layers.1.mlp.gate.e_score_correction_bias": torch.float32}
    assert bool(model(torch.tensor([[1, 2]])).isfinite().all())


def test_int4_experts_arrive_dequantized(tmp_path: Path) -> None:
    write(tmp_path / "m", torch.float32)
    quantize_checkpoint(tmp_path / "m", tmp_path / "q")
    got = load(tmp_path / "q").state_dict()
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    with open_checkpoint(tmp_path / "q") as checkpoint:
        assert checkpoint.is_int4(name)
        assert torch.equal(got[name], torch.tensor(checkpoint.array(name)))
    before = load(tmp_path / "m").state_dict()[name]
    assert 0 < (got[name] - before).norm() < 0.2 * before.norm()


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    gone = "model.layers.1.mlp.experts.3.up_proj.weight"
    write(tmp_path / "m", torch.float32, drop=gone)
    with pytest.raises(ValueError, match=gone):
        load(tmp_path / "m")


def test_importing_the_room_does_not_import_torch() -> None:
    code = (
        "import sys, abruzzi.model; print('torch' in sys.modules); abruzzi.model.K2Model; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]

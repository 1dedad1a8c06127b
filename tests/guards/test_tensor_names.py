"""A tensor's name is written once: in its family's file. Whoever needs it asks the inventory by
role and part."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from abruzzi.cost.published import KIMI_K2

SRC = Path(__file__).resolve().parents[2] / "src" / "abruzzi"
# torch modules are named as the tensors are, by design, and training reaches into them.
TORCH = ("model", "train")
# What any program may say: these words are not the name of one tensor.
WORDS = {"model", "layers", "mlp", "self_attn", "experts", "shared_experts", "norm", "weight", "gate", "lm_head"}
SHARED = {"gate_proj", "up_proj", "down_proj"}  # of every gated MLP, put together in arch/tensors.py


def names() -> set[str]:
    """Parts of tensor names that stand for one tensor: kv_b_proj, e_score_correction_bias, ..."""
    found: set[str] = set()
    for config in (KIMI_K2, replace(KIMI_K2, q_lora_rank=None)):
        for tensor in config.tensors():
            found |= set(tensor.name.replace("{l}.", "").replace("{e}.", "").split("."))
    return found - WORDS - SHARED


def breaches(source: str) -> set[str]:
    """Names of tensors in a file's code or prose. `kv_b_proj.weight` is one, `my_kv_b_proj_` is
    none."""
    return {name for name in names() if re.search(rf"(?<!\w){name}(?!\w)", source)}


def test_the_names_are_those_that_matter() -> None:
    assert {"kv_a_proj_with_mqa", "kv_b_proj", "e_score_correction_bias", "q_proj", "q_b_proj"} <= names()
    assert {"embed_tokens", "input_layernorm", "post_attention_layernorm", "kv_a_layernorm"} <= names()


FILES = [p for p in sorted(SRC.rglob("*.py")) if p.relative_to(SRC).parts[0] not in (*TORCH, "arch")]


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(SRC)) for p in FILES])
def test_no_other_file_spells_a_tensor(path: Path) -> None:
    assert not breaches(path.read_text(encoding="utf-8"))


def test_within_arch_only_the_family_does() -> None:
    spelled = {p.name for p in (SRC / "arch").glob("*.py") if breaches(p.read_text(encoding="utf-8"))}
    assert spelled == {"deepseek.py", "gqa.py"}  # the others are made of these two


@pytest.mark.parametrize("line", ['f"{at}.kv_b_proj.weight"', "name.endswith('.mlp.gate.e_score_correction_bias')"])
def test_the_guard_sees_a_planted_name(line: str) -> None:
    assert len(breaches(line)) == 1
    assert not breaches("the projection back into the heads; kv_b per head")

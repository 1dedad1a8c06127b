"""Reading: what is right arrives; what is wrong is named, with its file, in one line with a
hint."""

from __future__ import annotations

import builtins
import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_weights import BIAS, CONFIG, UP, rewrite_header, weights

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.quant.int4 import quantize_matrix

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    save_checkpoint(folder / "single", CONFIG, weights())
    save_checkpoint(folder / "sharded", CONFIG, weights(), max_shard_bytes=30_000)
    save_checkpoint(folder / "int4", CONFIG, weights(), int4=True)
    return folder


@pytest.fixture
def copy(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        return Path(shutil.copytree(originals / kind, tmp_path / kind))

    return make


def complaint(folder: Path, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught, open_checkpoint(folder) as checkpoint:
        assert checkpoint.end_ids is not None
    text = str(caught.value)
    assert "\n" not in text and "hint:" in text and folder.name in text
    return text


def change_tensors(file: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def first_shard_with(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


# what is right


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_arrays_are_views_of_the_stored_numbers(originals: Path, kind: str) -> None:
    with open_checkpoint(originals / kind) as checkpoint:
        assert (len(checkpoint.files) > 1) == (kind == "sharded")
        assert checkpoint.names() == list(weights()) and checkpoint.skipped == ()
        for name, want in weights().items():
            got = checkpoint.array(name)
            assert checkpoint.stored_dtype(name) == ("float32" if name == BIAS else "bfloat16")
            assert np.array_equal(got, want.astype(got.dtype)) and got.shape == checkpoint.shape(name)
            assert not got.flags.owndata and not got.flags.writeable and got.flags.aligned
            assert np.shares_memory(got, checkpoint.raw(name))


def test_int4_comes_as_numbers_or_as_parts(originals: Path) -> None:
    want = quantize_matrix(weights()[UP])
    with open_checkpoint(originals / "int4") as checkpoint:
        assert checkpoint.config.int4 is not None and checkpoint.names() == list(weights())
        assert [n for n in checkpoint.names() if checkpoint.is_int4(n)] == [n for n in weights() if ".experts." in n]
        parts = checkpoint.packed(UP)
        assert np.array_equal(parts.packed, want.packed) and np.array_equal(parts.scale, want.scale)
        assert parts.shape == (32, 64) and parts.scale.dtype == ml_dtypes.bfloat16
        assert np.shares_memory(parts.packed, checkpoint.raw(f"{UP}_packed"))
        assert np.array_equal(checkpoint.array(UP), want.dequantize())
        with pytest.raises(ValueError, match="not stored in INT4"):
            checkpoint.packed(NORM)
        with pytest.raises(KeyError, match="no tensor"):
            checkpoint.array("model.nothing")


def test_arrays_outlive_the_checkpoint_but_reading_does_not(originals: Path) -> None:
    with open_checkpoint(originals / "single") as checkpoint:
        norm = checkpoint.array(NORM)
    assert np.isfinite(norm).all()
    with pytest.raises(ValueError, match="is closed"):
        checkpoint.array(NORM)


def test_a_misaligned_tensor_is_read_aligned(originals: Path, tmp_path: Path) -> None:
    """Other writers may put anything at any byte; whoever computes on the array need not know."""
    shutil.copytree(originals / "single", tmp_path / "m")
    want = load_file(originals / "single" / FILE)
    rewrite_header(tmp_path / "m" / FILE, lambda h: {**h, "__metadata__": {"pad": "x" * (len(json.dumps(h)) % 2)}})
    raw = (tmp_path / "m" / FILE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    odd = length + 1 - length % 2
    text = raw[8 : 8 + length] + b" " * (odd - length)
    (tmp_path / "m" / FILE).write_bytes(odd.to_bytes(8, "little") + text + raw[8 + length :])
    with open_checkpoint(tmp_path / "m") as checkpoint:
        for name in checkpoint.names():
            got = checkpoint.array(name)
            assert got.flags.aligned and np.array_equal(got, want[name])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_other_float_types_are_read(originals: Path, tmp_path: Path, dtype: type) -> None:
    tensors = {name: array.astype(dtype) for name, array in weights().items()}
    shutil.copytree(originals / "single", tmp_path / "m")
    save_file(tensors, tmp_path / "m" / FILE)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert all(
            np.array_equal(checkpoint.array(n), a) and checkpoint.array(n).dtype == dtype for n, a in tensors.items()
        )


def test_prediction_layers_and_old_frequencies_are_skipped_by_rule(tmp_path: Path) -> None:
    config = replace(CONFIG, num_nextn_predict_layers=1)
    save_checkpoint(tmp_path / "m", config, weights())
    extra = {
        "model.layers.2.eh_proj.weight": np.ones((3, 5), np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    change_tensors(tmp_path / "m" / FILE, lambda t: t.update(extra))
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert set(checkpoint.skipped) == set(extra) and not set(extra) & set(checkpoint.names())
    replace(config, num_nextn_predict_layers=0, raw={}).save(tmp_path / "m")
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert set(checkpoint.skipped) == set(extra)


PREDICTION = ("enorm", "hnorm", "eh_proj", "embed_tokens", "shared_head.norm", "shared_head.head", "input_layernorm")


@pytest.mark.parametrize(
    ("names", "skipped"),
    [
        (["model.rotary_emb.inv_freq"], True),
        (["model.layers.1.self_attn.rotary_emb.cos_cached", "model.layers.1.self_attn.rotary_emb.sin_cached"], True),
        ([f"model.layers.2.{n}.weight" for n in PREDICTION], True),
        (["model.layers.2.eh_proj.weight", "model.layers.2.mlp.experts.3.up_proj.weight_packed"], True),
        (["model.layers.2.eh_proj.weight", "model.layers.2.mlp.gate.e_score_correction_bias"], True),
        (["model.layers.2.eh_proj.weight", "model.layers.2.lora.weight"], False),
        (["model.layers.2.eh_proj.weight", "model.layers.3.input_layernorm.weight"], False),
        (["model.layers.2.input_layernorm.weight"], False),  # a layer that config.json forgot
        (["model.layers.1.eh_proj.weight"], False),
        (["rotary_emb.inv_freq"], False),
        (["model.rotary_emb.inv_freq.weight"], False),
    ],
)
def test_what_is_known_and_unused_is_known_by_its_exact_name(tmp_path: Path, names: list[str], skipped: bool) -> None:
    save_checkpoint(tmp_path / "m", CONFIG, weights())
    change_tensors(tmp_path / "m" / FILE, lambda t: t.update({n: np.ones(4, np.float32) for n in names}))
    if skipped:
        with open_checkpoint(tmp_path / "m") as checkpoint:
            assert set(checkpoint.skipped) == set(names)
    else:
        assert f"{names[-1]} in {FILE} is not part of this model" in complaint(tmp_path / "m")


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ("{}", (5,)),
        ('{"eos_token_id": null}', (5,)),
        ('{"eos_token_id": 7}', (5, 7)),
        ('{"eos_token_id": [7, 5, 3]}', (5, 7, 3)),
    ],
)
def test_ends_of_the_generation_config_count(tmp_path: Path, said: str, ends: tuple[int, ...]) -> None:
    config = replace(CONFIG, eos_token_id=5)
    save_checkpoint(tmp_path / "m", config, weights(), extra_files={"generation_config.json": said})
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.end_ids == ends and checkpoint.config.eos_token_id == 5


def rename(tensors: dict[str, np.ndarray], prefix: str) -> None:
    for name in list(tensors):
        tensors[prefix + name] = tensors.pop(name)


HINTS: dict[str, tuple[Callable[[dict[str, np.ndarray]], Any], str, list[str]]] = {
    "missing": (lambda t: t.pop(UP), "a download that is not complete", ["surplus", "shapes", "dtype", "mixed"]),
    "surplus": (lambda t: t.update({"model.x": t[NORM]}), "fewer layers or experts", ["missing:", "shapes", "dtype"]),
    "shape": (
        lambda t: t.update({NORM: np.ones(63, np.float32)}),
        "another size of this model",
        ["missing", "surplus"],
    ),
    "dtype": (
        lambda t: t.update({NORM: np.ones(64, np.int8)}),
        "convert the checkpoint to bf16",
        ["missing:", "shapes"],
    ),
    "fp8": (lambda t: t.update({f"{UP}_scale_inv": t[NORM]}), "belongs to FP8 weights", ["missing:"]),
    "wrapper": (lambda t: rename(t, "language_model."), "begin with 'language_model.'", ["missing:", "surplus:"]),
}


@pytest.mark.parametrize("case", HINTS)
def test_each_misfit_has_a_hint_of_its_own(case: str, copy: Callable[[str], Path]) -> None:
    change, says, not_this = HINTS[case]
    folder = copy("single")
    change_tensors(folder / FILE, change)
    hint = complaint(folder).partition("hint: ")[2]
    assert says in hint and not [word for word in not_this if word in hint], hint


def test_many_of_one_kind_do_not_hide_another(copy: Callable[[str], Path]) -> None:
    folder = copy("single")

    def damage(tensors: dict[str, np.ndarray]) -> None:
        for name in [n for n in tensors if "experts" in n]:
            del tensors[name]
        tensors[NORM] = np.ones(63, np.float32)

    change_tensors(folder / FILE, damage)
    assert "has shape [63]" in complaint(folder) and " more" in complaint(folder)


# what is wrong

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n"
DAMAGE: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "missing": (
        "single",
        lambda d: change_tensors(d / FILE, lambda t: t.pop(UP)),
        [f"{UP} is missing from {FILE}"],
    ),
    "surplus": (
        "single",
        lambda d: change_tensors(d / FILE, lambda t: t.update({"model.extra.weight": t[NORM]})),
        [f"model.extra.weight in {FILE} is not part of this model"],
    ),
    "misshapen": (
        "single",
        lambda d: change_tensors(d / FILE, lambda t: t.update({NORM: np.ones(63, np.float32)})),
        [f"{NORM} in {FILE} has shape [63], expected [64]"],
    ),
    "transposed": (
        "single",
        lambda d: change_tensors(d / FILE, lambda t: t.update({UP: np.ascontiguousarray(t[UP].T)})),
        [f"{UP} in {FILE} has shape [64, 32], expected [32, 64]"],
    ),
    "integers": (
        "single",
        lambda d: change_tensors(d / FILE, lambda t: t.update({NORM: np.ones(64, np.int32)})),
        [f"{NORM} in {FILE} is I32, expected F32 or BF16 or F16"],
    ),
    "scales in float32": (
        "int4",
        lambda d: change_tensors(d / FILE, lambda t: t.update({f"{UP}_scale": np.ones((32, 2), np.float32)})),
        [f"{UP}_scale in {FILE} is F32, expected BF16"],
    ),
    "unquantized where INT4 is due": (
        "int4",
        lambda d: change_tensors(d / FILE, lambda t: t.update({UP: t.pop(f"{UP}_scale").repeat(32, axis=1)})),
        [f"{UP}_scale is missing", f"{UP} in {FILE} is not part of this model"],
    ),
    "several at once": (
        "sharded",
        lambda d: (
            change_tensors(first_shard_with(d, UP), lambda t: t.pop(UP)),
            change_tensors(first_shard_with(d, NORM), lambda t: t.update({NORM: np.ones(63, np.float32)})),
        ),
        [f"{UP} is not in model-0000", NORM, "has shape [63]"],
    ),
    "in two shards": (
        "sharded",
        lambda d: change_tensors(
            first_shard_with(d, "model.embed_tokens.weight"), lambda t: t.update({NORM: np.ones(64, np.float32)})
        ),
        [f"{NORM} is in model-00001-of-00005.safetensors and again in model-00005-of-00005.safetensors"],
    ),
    "in another shard": (
        "sharded",
        lambda d: edit_index(d, lambda i: i["weight_map"].update({UP: i["weight_map"]["model.embed_tokens.weight"]})),
        [f"{UP} is not in model-00001-of-", "where model.safetensors.index.json says it is; it is in model-0000"],
    ),
    "not in the index": (
        "sharded",
        lambda d: edit_index(d, lambda i: i["weight_map"].pop(UP)),
        [f"{UP} is in model-0000", "but model.safetensors.index.json does not name it"],
    ),
    "a shard is gone": (
        "sharded",
        lambda d: (d / "model-00002-of-00005.safetensors").unlink(),
        ["model-00002-of-00005.safetensors is not there"],
    ),
    "a shard is truncated": (
        "sharded",
        lambda d: (d / "model-00002-of-00005.safetensors").write_bytes(
            (d / "model-00002-of-00005.safetensors").read_bytes()[:-1]
        ),
        ["model-00002-of-00005.safetensors", "is truncated or corrupt"],
    ),
    "truncated": (
        "single",
        lambda d: (d / FILE).write_bytes((d / FILE).read_bytes()[:20_000]),
        [f"{FILE}: tensor model.layers.", "of ", "truncated or corrupt, fetch it again"],
    ),
    "empty file": ("single", lambda d: (d / FILE).write_bytes(b""), [f"{FILE} has 0 bytes"]),
    "not safetensors": ("single", lambda d: (d / FILE).write_bytes(b"PK\x03\x04" * 99), [f"{FILE} is a zip archive"]),
    "noise": ("single", lambda d: (d / FILE).write_bytes(b"\xf7" * 99), [f"{FILE} claims a header of"]),
    "a page": ("single", lambda d: (d / FILE).write_bytes(b"<!doctype html><html>"), [f"{FILE} is a web page"]),
    "git-lfs": ("sharded", lambda d: [f.write_text(POINTER) for f in d.glob("*1-of*")], ["git-lfs", "git lfs pull"]),
    "index git-lfs": ("sharded", lambda d: (d / INDEX).write_text(POINTER), [INDEX, "git-lfs pointer", "git lfs pull"]),
    "config git-lfs": (
        "single",
        lambda d: (d / "config.json").write_text(POINTER),
        ["git-lfs pointer", "git lfs pull"],
    ),
    "end that is no id": (
        "single",
        lambda d: (d / "generation_config.json").write_text('{"eos_token_id": "</s>"}'),
        ["generation_config.json", "eos_token_id='</s>'"],
    ),
    "index is no JSON": ("sharded", lambda d: (d / INDEX).write_text("{"), [INDEX, "not valid JSON"]),
    "index is a list": ("sharded", lambda d: (d / INDEX).write_text("[]"), [INDEX, "no weight_map"]),
    "index leads out": (
        "sharded",
        lambda d: edit_index(d, lambda i: i["weight_map"].update({UP: "../x.safetensors"})),
        ["'../x.safetensors'", "in the same directory"],
    ),
    "single and index": ("sharded", lambda d: (d / FILE).write_bytes(b""), ["holds both"]),
    "config is of another size": (
        "single",
        lambda d: replace(ModelConfig.load(d), hidden_size=32, raw={}).save(d),
        ["model.embed_tokens.weight in model.safetensors has shape [21, 64], expected [21, 32]", "; and ", " more"],
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case: str, copy: Callable[[str], Path]) -> None:
    kind, damage, says = DAMAGE[case]
    folder = copy(kind)
    with open_checkpoint(folder):
        pass
    damage(folder)
    text = complaint(folder)
    assert all(part in text for part in says), text
    assert len(text) < 3000


def test_no_such_directory_and_no_such_files(originals: Path, tmp_path: Path) -> None:
    assert "no such directory" in complaint(tmp_path / "nothing", FileNotFoundError)
    assert "that is a file" in complaint(originals / "single" / FILE, FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert "config.json does not exist" in complaint(tmp_path / "empty", FileNotFoundError)
    CONFIG.save(tmp_path / "empty")
    assert f"neither {FILE} nor {INDEX}" in complaint(tmp_path / "empty", FileNotFoundError)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl"])
def test_pickle_is_refused_alone_and_never_opened_beside(
    name: str, copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("single")
    monkeypatch.chdir(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Trap()))
    opened: list[str] = []
    for module in (builtins, io):
        monkeypatch.setattr(module, "open", lambda f, *a, _open=open, **k: opened.append(str(f)) or _open(f, *a, **k))
    with open_checkpoint(folder) as checkpoint:
        for tensor in checkpoint.names():
            checkpoint.array(tensor)
    assert str(folder / FILE) in opened and str(folder / "config.json") in opened and str(folder / name) not in opened
    (folder / FILE).unlink()
    text = complaint(folder)
    assert "unpickling can run any code" in text and "refused" in text and name in text
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("kind", "stored", "logical"), [("single", UP, UP), ("int4", f"{UP}_scale", UP), ("single", BIAS, BIAS)]
)
def test_values_that_are_not_finite(
    kind: str, stored: str, logical: str, value: float, copy: Callable[[str], Path]
) -> None:
    folder = copy(kind)

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[stored] = tensors[stored].copy()
        tensors[stored].reshape(-1)[-1] = value

    change_tensors(folder / FILE, spoil)
    with open_checkpoint(folder) as checkpoint:
        last = [n - 1 for n in checkpoint.raw(stored).shape]
        with pytest.raises(ValueError) as caught:
            checkpoint.array(logical)
        said = str(caught.value)
        assert f"{folder / FILE}: {stored} holds NaN or infinity, first at {last}" in said and "hint:" in said
        assert not np.isfinite(checkpoint.array(logical, check_finite=False)).all()
        for name in checkpoint.names():
            if name != logical:
                checkpoint.array(name)


def test_a_weight_shape_that_lies(copy: Callable[[str], Path]) -> None:
    folder = copy("int4")
    change_tensors(folder / FILE, lambda t: t.update({f"{UP}_shape": np.array([64, 32])}))
    with open_checkpoint(folder) as checkpoint, pytest.raises(ValueError, match=r"says \[64, 32\].*means \[32, 64\]"):
        checkpoint.array(UP)

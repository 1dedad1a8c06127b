"""Writing: whole or not at all, whatever fails and wherever it is killed; and what must not be
written is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tiny_weights import BIAS, CONFIG, UP, weights

from abruzzi.arch import Int4Scheme, ModelConfig, YarnScaling
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.checkpoint.write import write_checkpoint

EMBED = "model.embed_tokens.weight"


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def first_number(folder: Path) -> float:
    with open_checkpoint(folder) as checkpoint:
        for name in checkpoint.names():
            checkpoint.array(name)
        return float(checkpoint.array(EMBED)[0, 0])


@pytest.mark.parametrize("int4", [False, True])
@pytest.mark.parametrize("limit", [5_000_000_000, 20_000, 1])
def test_shards(tmp_path: Path, limit: int, int4: bool) -> None:
    """Whatever the limit, the same tensors; no shard exceeds it but for one matrix larger than
    it."""
    save_checkpoint(tmp_path / "m", CONFIG, weights(), int4=int4, max_shard_bytes=limit)
    save_checkpoint(tmp_path / "one", CONFIG, weights(), int4=int4)
    files = sorted(f.name for f in (tmp_path / "m").glob("*.safetensors"))
    with open_checkpoint(tmp_path / "m") as some, open_checkpoint(tmp_path / "one") as one:
        assert all(np.array_equal(some.array(n), one.array(n)) for n in one.names())
        assert [f.name for f in some.files] == files
        if limit > 10**9:
            assert files == ["model.safetensors"] and not (tmp_path / "m" / "model.safetensors.index.json").exists()
            return
        assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
        index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
        held = {name: some.raw(name) for name in index["weight_map"]}
        assert index["metadata"]["total_size"] == sum(a.nbytes for a in held.values())
        for file in files:
            mine = {n: a for n, a in held.items() if index["weight_map"][n] == file}
            logical = {n.split(".weight")[0] for n in mine}
            assert sum(a.nbytes for a in mine.values()) <= limit or len(logical) == 1


def test_the_config_says_how_the_weights_are_stored(tmp_path: Path) -> None:
    scheme = Int4Scheme(ignore=(*Int4Scheme().ignore, "re:.*experts.0.*"))
    config = replace(CONFIG, rope_scaling=YarnScaling(8.0, 32), raw={})
    for name, given, int4, dtype, want in (
        ("plain", config, None, "bfloat16", None),
        ("k2", config, True, "bfloat16", Int4Scheme()),
        ("as the config says", config.with_int4(scheme), None, "float32", scheme),
        ("its own scheme", config.with_int4(scheme), True, "bfloat16", scheme),
        ("unquantized", config.with_int4(scheme), False, "float32", None),
    ):
        save_checkpoint(tmp_path / name, given, weights(), dtype=dtype, int4=int4)
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.config == given.with_int4(want) and checkpoint.config.int4 == want
            assert checkpoint.stored_dtype(EMBED) == dtype and checkpoint.stored_dtype(BIAS) == "float32"
            assert checkpoint.is_int4(UP) == (want is not None)
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert written["torch_dtype"] == dtype and "dtype" not in written


def test_dtype_is_said_under_the_key_that_was_read(tmp_path: Path) -> None:
    five = ModelConfig.from_dict({**CONFIG.to_dict(), "dtype": "float16", "our_note": [1]})
    save_checkpoint(tmp_path / "m", five, weights(), dtype="float32")
    assert ModelConfig.load(tmp_path / "m").to_dict() == {**five.to_dict(), "dtype": "float32"}
    both = ModelConfig.from_dict({**five.to_dict(), "torch_dtype": "float16"})
    save_checkpoint(tmp_path / "both", both, weights())
    written = json.loads((tmp_path / "both" / "config.json").read_text())
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"


def test_rounding_to_bf16_is_half_to_even_and_spares_the_bias(tmp_path: Path) -> None:
    tensors = weights()
    tensors[EMBED][0, :4] = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8]
    tensors[BIAS][0] = 1 + 2**-20
    save_checkpoint(tmp_path / "m", CONFIG, tensors)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        got = checkpoint.array(EMBED)[0, :4].astype(np.float32)
        assert got.tolist() == [1, 1 + 2**-6, 1 + 2**-7, -1]
        assert np.array_equal(checkpoint.array(BIAS), tensors[BIAS])


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def read(name: str) -> np.ndarray:
        nonlocal most
        array = np.ones(specs[name].shape, np.float32)
        alive.append(weakref.ref(array))
        most = max(most, sum(r() is not None for r in alive))
        return array

    specs = expected_tensors(CONFIG)
    write_checkpoint(
        tmp_path / "m", CONFIG, read, dtype="float32", int4=True, max_shard_bytes=10**9, extra_files={}, overwrite=False
    )
    assert len(alive) == len(specs) and most <= 2  # the new one, and the one that is just being dropped


# what is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({UP: None}, f"{UP} is missing"),
    "surplus": ({"model.extra.weight": np.ones(3, np.float32)}, "model.extra.weight is not part of this model"),
    "misshapen": ({UP: np.ones((64, 32), np.float32)}, f"{UP} has shape [64, 32], expected [32, 64]"),
    "integers": ({UP: np.ones((32, 64), np.int64)}, f"{UP} is int64; expected a NumPy array"),
    "float64": ({UP: np.ones((32, 64))}, f"{UP} is float64"),
    "NaN": ({UP: np.full((32, 64), np.nan, np.float32)}, f"{UP} holds NaN or infinity, first at [0, 0]"),
    "infinity": ({EMBED: np.full((21, 64), -np.inf, np.float32)}, f"{EMBED} holds NaN or infinity"),
    "too large for bf16": (
        {EMBED: np.full((21, 64), np.finfo(np.float32).max, np.float32)},
        f"{EMBED} holds a value too large for bfloat16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("int4", [False, True])
def test_refused_tensors_leave_the_old_checkpoint_as_it_was(case: str, int4: bool, tmp_path: Path) -> None:
    change, says = REFUSED[case]
    save_checkpoint(tmp_path / "m", CONFIG, weights(), extra_files={"notes.md": "mine"})
    before = content(tmp_path)
    tensors = {n: a for n, a in {**weights(seed=1), **change}.items() if a is not None}
    with pytest.raises(ValueError) as caught:
        save_checkpoint(tmp_path / "m", CONFIG, tensors, int4=int4, overwrite=True)
    assert says in str(caught.value)
    assert content(tmp_path) == before


def test_refused_targets_and_options(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", CONFIG, weights())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"text")
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="hint: choose another name"):
        save_checkpoint(tmp_path / "m", CONFIG, weights())
    for name in ("photos", "file"):
        with pytest.raises(FileExistsError, match="not a checkpoint"):
            save_checkpoint(tmp_path / name, CONFIG, weights(), overwrite=True)
    for extra in ("config.json", "../x", "a/b", "", "..", "model.safetensors.index.json", "x.safetensors", "y.bin"):
        with pytest.raises(ValueError, match="extra file"):
            save_checkpoint(tmp_path / "new", CONFIG, weights(), extra_files={extra: b""})
    with pytest.raises(ValueError, match="expected one of bfloat16, float32"):
        save_checkpoint(tmp_path / "new", CONFIG, weights(), dtype="float16")
    with pytest.raises(ValueError, match="max_shard_bytes=0"):
        save_checkpoint(tmp_path / "new", CONFIG, weights(), max_shard_bytes=0)
    with pytest.raises(ValueError, match="hidden_size"):
        save_checkpoint(tmp_path / "new", replace(CONFIG, hidden_size=0), weights())
    with pytest.raises(ValueError, match="20 columns; INT4 expects a multiple of 32"):
        save_checkpoint(tmp_path / "new", replace(CONFIG, moe_intermediate_size=20), weights(), int4=True)
    assert content(tmp_path) == before


def test_an_empty_directory_and_a_link_are_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", CONFIG, weights())
    (tmp_path / "latest").symlink_to("empty", target_is_directory=True)
    save_checkpoint(tmp_path / "latest", CONFIG, weights(seed=1), overwrite=True)
    assert (tmp_path / "latest").is_symlink() and sorted(os.listdir(tmp_path)) == ["empty", "latest"]
    assert first_number(tmp_path / "latest") == weights(seed=1)[EMBED][0, 0].astype(ml_dtypes.bfloat16)


# failure and death at every step

STEPS = ("mkdir", "open", "write", "fsync", "rename")


def save_dying(folder: Path, step: str, at: int, die: Any) -> None:
    """Overwrite `folder` with weights of seed 1, calling `die` at the `at`-th system call of kind
    `step`.

    "open" and "write" are those of the weights' files; returns normally if there are fewer
    calls."""
    left = at

    def dying(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                die()
            return real(*args, **kwargs)

        return call

    import abruzzi.checkpoint.write as write

    patch = pytest.MonkeyPatch()
    try:
        if step == "write":
            patch.setattr(write, "_stored", dying(write._stored))
        elif step in ("mkdir", "open"):
            patch.setattr(Path, step, dying(getattr(Path, step)))
        else:
            patch.setattr(os, step, dying(getattr(os, step)))
        save_checkpoint(folder, CONFIG, weights(seed=1), max_shard_bytes=60_000, overwrite=True)
    finally:
        patch.undo()


def fail() -> None:
    raise OSError(28, "no space left on device (planted)")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "replace"])
def test_whatever_fails_the_target_is_whole(step: str, fresh: bool, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    old, new = (float(weights(seed=s)[EMBED][0, 0].astype(ml_dtypes.bfloat16)) for s in (0, 1))
    failures = 0
    for at in range(1, 200):
        if not fresh:
            save_checkpoint(folder, CONFIG, weights(seed=0), overwrite=True)
        try:
            save_dying(folder, step, at, fail)
        except OSError as error:
            assert "planted" in str(error)
            failures += 1
        else:
            assert first_number(folder) == new and os.listdir(tmp_path) == ["m"]
            break
        rest = [n for n in os.listdir(tmp_path) if n != "m"]
        # Only the very last steps, behind the renames, may find the new one in place; the old one
        # is then aside.
        if folder.exists() and first_number(folder) == new:
            assert step in ("fsync", "rename")
            assert [first_number(tmp_path / n) for n in rest] == ([] if fresh else [old])
        elif fresh:
            assert not folder.exists() and rest == []
        else:
            assert first_number(folder) == old and rest == []
        for name in (*rest, *(["m"] if fresh and folder.exists() else [])):
            for file in (tmp_path / name).iterdir():
                file.unlink()
            (tmp_path / name).rmdir()
    else:
        pytest.fail("never got through")
    assert failures >= 1


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_checkpoint_write import save_dying
save_dying(Path({folder!r}), {step!r}, {at}, lambda: os._exit(9))
"""


@pytest.mark.parametrize(
    ("step", "at"), [("write", 1), ("write", 20), ("fsync", 4), ("rename", 1), ("rename", 2), ("rename", 3)]
)
def test_a_killed_writer_loses_nothing_and_does_not_disturb(step: str, at: int, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_checkpoint(folder, CONFIG, weights(seed=0))
    old, new = (float(weights(seed=s)[EMBED][0, 0].astype(ml_dtypes.bfloat16)) for s in (0, 1))
    code = KILLED.format(path=sys.path, folder=str(folder), step=step, at=at)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    rest = [n for n in os.listdir(tmp_path) if n != "m"]
    assert all(n.startswith((".m.writing-", ".m.old-")) for n in rest) and rest
    for name in rest:
        if name.startswith(".m.old-"):
            assert first_number(tmp_path / name) == old
    if (step, at) == ("rename", 2):  # between the two renames: the error says what to do, and that works
        with pytest.raises(FileNotFoundError, match=r"hint: .*killed.*rename (\S+) back") as caught:
            open_checkpoint(folder)
        said = str(caught.value).split("rename ")[1].split(" back")[0]
        Path(said).rename(folder)
    assert first_number(folder) == (new if (step, at) == ("rename", 3) else old)
    save_checkpoint(folder, CONFIG, weights(seed=1), overwrite=True)
    assert first_number(folder) == new


@pytest.mark.parametrize("int4", [False, None])
def test_a_checkpoint_without_int4_has_no_quantization_config_at_all(tmp_path: Path, int4: bool | None) -> None:
    """transformers 5 refuses a key whose value is null."""
    packed = ModelConfig.from_dict(CONFIG.with_int4(Int4Scheme()).to_dict())
    for config in (packed, replace(packed, quantization_config=None)) if int4 is False else (CONFIG,):
        save_checkpoint(tmp_path / "m", config, weights(), int4=int4, overwrite=True)
        written = json.loads((tmp_path / "m" / "config.json").read_text())
        assert "quantization_config" not in written and ModelConfig.from_dict(written).int4 is None

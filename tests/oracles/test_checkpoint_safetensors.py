"""Our reader and writer of safetensors against the safetensors library, and fuzzed headers.

The rule of the fuzz: whatever bytes a file holds, ours raises ValueError or reads what the library
reads. It runs in a process of its own (this file as a script), so that a crash is a failure and not
the end of the test run. To look into one case: python tests/oracles/test_checkpoint_safetensors.py
SEED
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from abruzzi.arch import ModelConfig
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.checkpoint.safetensors_file import DTYPES, SafetensorsFile, write_safetensors

TINY = ModelConfig(
    vocab_size=5,
    hidden_size=32,
    intermediate_size=8,
    moe_intermediate_size=32,
    num_hidden_layers=1,
    first_k_dense_replace=0,
    num_attention_heads=1,
    n_routed_experts=2,
    num_experts_per_tok=1,
    kv_lora_rank=4,
    qk_nope_head_dim=4,
    qk_rope_head_dim=2,
    v_head_dim=4,
)
# Shapes with odd byte counts between wide types, a scalar and empty tensors.
ARRAYS: dict[str, np.ndarray] = {
    "bytes": np.arange(3, dtype=np.uint8),
    "a.weight": np.arange(15).reshape(3, 5).astype(ml_dtypes.bfloat16),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((2, 0, 3), np.float16),
    "b": np.array([[-(2**40)], [7]], np.int64),
    "c": np.array([-(2**31), 5, 2**31 - 1], np.int32),
    "half": np.array([1.5, -2.5], np.float16),
    "Ünïcode name": np.array([1e300]),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write(path: Path) -> None:
    entries = {name: (NAMES[a.dtype], a.shape) for name, a in ARRAYS.items()}
    write_safetensors(path, entries, reversed(ARRAYS.items()))


def equal(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    write(tmp_path / "f.safetensors")
    theirs = safetensors.numpy.load_file(tmp_path / "f.safetensors")
    assert theirs.keys() == ARRAYS.keys() and all(equal(ARRAYS[n], a) for n, a in theirs.items())
    with safetensors.safe_open(tmp_path / "f.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    ours = SafetensorsFile(tmp_path / "f.safetensors")
    for name, array in ARRAYS.items():
        view = ours.view(name)
        assert equal(view, array) and view.flags.aligned and not view.flags.owndata, name


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    for number, metadata in enumerate((None, {"format": "pt", "ü": "x"})):
        path = tmp_path / f"{number}.safetensors"
        safetensors.numpy.save_file(ARRAYS, path, metadata)
        ours = SafetensorsFile(path)
        assert ours.entries.keys() == ARRAYS.keys() and all(equal(ours.view(n), a) for n, a in ARRAYS.items())


@pytest.mark.parametrize(
    ("entries", "arrays", "says"),
    [
        ({"a": ("F32", (2,))}, [("a", np.zeros(3, np.float32))], "a is float32"),
        ({"a": ("F32", (2,))}, [("a", np.zeros(2, np.float16))], "expected F32"),
        ({"a": ("F32", (2,))}, [("a", np.zeros(2, np.float32))] * 2, "comes twice"),
        ({"a": ("F32", (2,))}, [("b", np.zeros(2, np.float32))], "b is not planned"),
        ({"a": ("F32", (2,)), "b": ("F32", (2,))}, [("a", np.zeros(2, np.float32))], "b is planned"),
    ],
)
def test_the_writer_keeps_to_its_plan(entries: Any, arrays: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        write_safetensors(tmp_path / "f.safetensors", entries, arrays)


def test_an_old_file_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "f.safetensors").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write(tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == b"old"


def crafted(**offsets: tuple[int, int]) -> str:
    """A header of uint8 vectors at these offsets."""
    entries = {n: {"dtype": "U8", "shape": [e - b], "data_offsets": [b, e]} for n, (b, e) in offsets.items()}
    return json.dumps(entries)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (crafted(a=(0, 4), b=(2, 8)), "tensor b overlaps"),
        (crafted(a=(0, 8), b=(0, 8)), "tensor b overlaps"),
        (crafted(a=(0, 2), b=(4, 8)), "tensor b leaves a hole"),
        (crafted(a=(2, 8)), "tensor a leaves a hole"),
        (crafted(a=(0, 4)), "8 bytes of data but its tensors take 4"),
        (crafted(a=(0, 9)), "tensor a ends at byte 9 of 8"),
        (crafted(), "8 bytes of data but its tensors take 0"),
        (crafted(a=(0, 8))[:-1] + "," + crafted(a=(0, 8))[1:], "names 'a' twice"),
        (crafted(a=(0, 8)).replace('"shape"', '"dtype": "I8", "shape"'), "names 'dtype' twice"),
        (crafted(a=(0, 8)).replace("[8]", "[true, 8]"), "has shape [True, 8]"),
        ('{"__metadata__": {"n": 1}}', "__metadata__"),
        ("[" * 10**5, "not JSON"),
    ],
)
def test_crafted_headers_are_refused(header: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(join(header.encode(), bytes(8)))
    with pytest.raises(ValueError) as caught:
        SafetensorsFile(path)
    assert str(caught.value).startswith(str(path)) and says in str(caught.value) and "hint:" in str(caught.value)


# the fuzz


def test_fuzzed_files_are_refused_or_read_right() -> None:
    done = subprocess.run([sys.executable, __file__, "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    counts = json.loads(done.stdout)
    assert counts["refused"] > 3000 and counts["read"] > 300 and counts["checkpoint refused"] > 500, counts
    assert counts["checkpoint read"] > 20, counts


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + data


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """One of many kinds of damage: blind (bits, cuts, lengths) and knowing (offsets, dtypes,
    shapes, junk)."""
    header, data = split(raw)
    name = rng.choice([n for n in header if n != "__metadata__"])
    entry = header[name]
    number = rng.choice(
        [-1, 0, 1, 2, 3, 7, 8, 255, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.0, 0.5, True, None, "1"]
    )
    junk = rng.choice([None, [], {}, 0, "x", [[]], {"dtype": "F32"}, [1, [2, [3]]], float("nan"), "\x1b[2J", {"": {}}])
    kind = rng.randrange(14)
    if kind == 0:  # bits of the length or the header
        out = bytearray(raw)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            out[rng.randrange(len(raw) - len(data))] ^= 1 << rng.randrange(8)
        return bytes(out)
    if kind == 1:
        return raw[: rng.randrange(len(raw))]
    if kind == 2:
        return raw + rng.randbytes(rng.randrange(1, 9))
    if kind == 3:
        return (
            rng.choice([0, 1, 2**16, 2**31, 2**32, 2**63, 2**64 - 1, len(raw) - 8, len(raw) - 7]).to_bytes(8, "little")
            + raw[8:]
        )
    if kind == 4:
        entry["data_offsets"][rng.randrange(2)] = number
    elif kind == 5:  # an overlap, a hole, a swap
        other = header[rng.choice([n for n in header if n != "__metadata__"])]
        entry["data_offsets"], other["data_offsets"] = other["data_offsets"], entry["data_offsets"]
    elif kind == 6:
        entry["dtype"] = rng.choice([*DTYPES, "F8_E5M2", "BOOL", "U64", "C64", "f32", "", "🤗", 4, None, ["F32"], junk])
    elif kind == 7:
        entry["shape"] = rng.choice(
            [[number], [number, *entry["shape"]], entry["shape"][::-1], [2**32, 2**32], [0, number], junk]
        )
    elif kind == 8:
        header[rng.choice([name, "new", "__metadata__", "\ud800", "a\nb"])] = junk
    elif kind == 9:
        entry[rng.choice(["dtype", "shape", "data_offsets", "more"])] = junk
    elif kind == 10:  # a key twice, and other things that a JSON library would not write
        text = json.dumps(header)
        twice = f'{{"{name}": {json.dumps(entry)}, ' + text[1:]
        deep = "[" * 50_000 + "]" * 50_000
        huge = text.replace("[0", "[" + "9" * 5000, 1)
        wide = text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
        return join(
            rng.choice([twice.encode(), deep.encode(), huge.encode(), wide, b"\xff" + text.encode(), b"", b"[]"]), data
        )
    elif kind == 11:  # the right length in the wrong place
        move = rng.choice([-8, -2, -1, 1, 2, 8])
        entry["data_offsets"] = [offset + move for offset in entry["data_offsets"]]
    elif kind == 12:  # still right: blanks, order, escapes
        text = json.dumps(dict(sorted(header.items(), key=lambda _: rng.random())), indent=rng.choice([None, 0, 3]))
        return join(text.encode() + b" " * rng.randrange(9), data)
    else:  # still right: other values
        data = rng.randbytes(len(data))
    return join(header, data)


def replace_file(path: Path, raw: bytes) -> None:
    path.unlink(missing_ok=True)  # file systems flush a file that is cut to nothing and written again: slow
    path.write_bytes(raw)


def fuzz_file(raw: bytes, path: Path, counts: Counter[str]) -> None:
    replace_file(path, raw)
    try:
        ours = SafetensorsFile(path)
        arrays = {name: ours.view(name) for name in ours.entries}
    except ValueError as error:
        assert str(path) in str(error) and "hint:" in str(error), error
        counts["refused"] += 1
        return
    theirs = dict(safetensors.deserialize(raw))
    assert arrays.keys() == theirs.keys()
    for name, array in arrays.items():
        entry = theirs[name]
        assert list(array.shape) == entry["shape"] and DTYPES[entry["dtype"]] == array.dtype
        assert array.tobytes() == bytes(entry["data"])
    counts["read"] += 1


def fuzz_checkpoint(raw: bytes, folder: Path, want: dict[str, np.ndarray], counts: Counter[str]) -> None:
    """The whole reader on a damaged file: one line that says what and where, or the right
    numbers."""
    replace_file(folder / "model.safetensors", raw)
    try:
        with open_checkpoint(folder) as checkpoint:
            for name in checkpoint.names():
                got = checkpoint.array(name)
                assert got.shape == want[name].shape and np.isfinite(got).all()
    except ValueError as error:
        text = str(error)
        assert str(folder) in text and "model.safetensors" in text and "hint:" in text and text.isprintable(), text
        counts["checkpoint refused"] += 1
        return
    counts["checkpoint read"] += 1


def cases(raw: bytes, rng: random.Random, mutations: int) -> Iterator[bytes]:
    header_end = 8 + int.from_bytes(raw[:8], "little")
    yield from (raw[:end] for end in range(0, len(raw), max(1, (len(raw) - header_end) // 200)))
    yield from (raw[:end] for end in range(header_end + 1) if len(raw) < 2000)
    yield from (mutated(raw, rng) for _ in range(mutations))


def main(seed: int) -> None:
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        write(folder / "good.safetensors")
        for number, raw in enumerate(cases((folder / "good.safetensors").read_bytes(), rng, 5000)):
            try:
                fuzz_file(raw, folder / "f.safetensors", counts)
            except BaseException:
                print(f"seed {seed}, file case {number}: {raw[:3000]!r}", file=sys.stderr)
                raise
        specs = expected_tensors(TINY)
        weights = {n: np.full(s.shape, 0.5, np.float32) for n, s in specs.items()}
        save_checkpoint(folder / "m", TINY, weights, int4=True)
        for number, raw in enumerate(cases((folder / "m" / "model.safetensors").read_bytes(), rng, 700)):
            try:
                fuzz_checkpoint(raw, folder / "m", weights, counts)
            except BaseException:
                print(f"seed {seed}, checkpoint case {number}: {raw[:3000]!r}", file=sys.stderr)
                raise
    print(json.dumps(counts))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]))

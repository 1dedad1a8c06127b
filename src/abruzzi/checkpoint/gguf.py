"""A GGUF file as a checkpoint: the same named arrays as from a directory, the converter's changes
undone.

Undone are: rows of q and k in pairs (arch `llama`), experts of a layer in one tensor, kv_b split in two
with its keys transposed (`deepseek2`), layers of multi-token prediction behind the last one. Nothing
of it runs code, and nothing is read that the header does not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abruzzi.arch import ModelConfig
from abruzzi.arch.gguf import FREQUENCIES, SPLIT_KEYS, SPLIT_VALUES, config_of, left_out, pairs_by_rows, tensor_name
from abruzzi.arch.tensors import Tensor
from abruzzi.checkpoint.read import LISTED, Checkpoint, first_non_finite
from abruzzi.checkpoint.safetensors_file import stands_in
from abruzzi.quant.ggml import GgmlMatrix
from abruzzi.quant.gguf_file import MAGIC, Entry, GgufFile, begins, open_shards


@dataclass(frozen=True, slots=True)
class Place:
    """Where a logical tensor lies. expert: which slice of the stored one."""

    tensor: Tensor
    stored: str
    expert: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape


class GgufCheckpoint(Checkpoint):
    """Named arrays of one GGUF file, or of its shards (see Checkpoint). metadata: of the first
    file."""

    def __init__(self, path: Path) -> None:
        if not begins(path, MAGIC) and (complaint := stands_in(path)):
            raise ValueError(complaint.replace("safetensors", "GGUF"))
        self._shards = open_shards(path)
        self.metadata: dict[str, Any] = self._shards[0].metadata
        self._entries: dict[str, Entry] = {n: e for shard in self._shards for n, e in shard.entries.items()}
        self._of_file: dict[str, GgufFile] = {n: shard for shard in self._shards for n in shard.entries}
        shapes = {name: entry.shape for name, entry in self._entries.items()}
        frequencies = self._entries.get(FREQUENCIES)
        try:
            factors = [] if frequencies is None else frequencies.array().tolist()
            self.config = ModelConfig.from_dict(config_of(self.metadata, shapes, factors))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        # Of a head, where the family's rows are to be put back in order.
        self._width: int = getattr(self.config, "head_width", 0)
        self.folder = path
        self.files = [shard.path for shard in self._shards]
        self.inventory = self.config.inventory
        self._places = dict(_places(self.config, self._entries))
        self.skipped = tuple(n for n in self._entries if left_out(n, self.config.num_hidden_layers))
        self._check(path)

    @property
    def architecture(self) -> str:
        """GGUF's name of the family."""
        return self.metadata["general.architecture"]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The file's end of a text; the tokenizer knows those of its chat format."""
        return self.config.eos_token_ids

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def let_go(self) -> None:
        for shard in self._shards:
            shard.let_go()

    def names(self) -> list[str]:
        return list(self._places)

    def is_int4(self, name: str) -> bool:
        return False  # INT4 is the safetensors layout of K2-Thinking

    def shape(self, name: str) -> tuple[int, ...]:
        return self._place(name).shape

    def tensor(self, name: str) -> Tensor:
        return self._place(name).tensor

    def stored_dtype(self, name: str) -> str:
        """Its block type in small letters: "q4_k", "f32"."""
        place = self._place(name)
        at = place.stored if place.stored in self._entries else _beside(place.stored, SPLIT_VALUES)
        return self._entries[at].kind.name.lower()

    def raw(self, stored_name: str) -> np.ndarray:
        """A stored tensor's bytes, uint8, unchecked. stored_name: the file's."""
        if stored_name not in self._entries:
            raise KeyError(f"no stored tensor {stored_name!r} in {self.folder}")
        return self._entries[stored_name].data

    def array(self, name: str, check_finite: bool = True) -> np.ndarray:
        """A logical tensor, float32. Raises ValueError that names it for NaN or infinity, and for a
        quantization that is not read."""
        place = self._place(name)
        array = self._read(place)
        bad = first_non_finite(array) if check_finite else None
        if bad is not None:
            raise ValueError(
                f"{self.folder}: {place.stored} holds NaN or infinity, first at {bad}; "
                "hint: the weights are damaged, fetch them again"
            )
        return array

    def blocks(self, name: str, check_finite: bool = True) -> GgmlMatrix | None:
        """A matrix in its blocks, rows in the order of the family; None where it is no quantized matrix
        of its own. Raises ValueError for scales that are not finite."""
        place = self._place(name)
        entry = self._entries.get(place.stored)
        if entry is None or len(place.shape) != 2 or entry.kind.elements == 1:
            return None
        rows, columns = place.shape
        data = entry.data.reshape(-1, rows, columns // entry.kind.elements * entry.kind.bytes)
        matrix = GgmlMatrix(entry.kind, data[place.expert or 0], columns)
        if check_finite and not matrix.is_finite():
            self.array(name)  # says where
        if self._in_pairs(place):
            matrix = matrix.in_order(_half_split(np.arange(rows), self._width))
        return matrix

    def _in_pairs(self, place: Place) -> bool:
        rotated = place.tensor.part in ("q", "k") and place.tensor.role in ("attention", "bias")
        return rotated and pairs_by_rows(self.architecture)

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise KeyError(f"no tensor {name!r} in {self.folder}")
        return self._places[name]

    def _read(self, place: Place) -> np.ndarray:
        if place.stored not in self._entries:
            return self._joined_kv_b(place)
        entry = self._entries[place.stored]
        if place.expert is not None:
            size = entry.kind.size(place.shape)
            entry = Entry(entry.name, place.shape, entry.kind, entry.data[place.expert * size :][:size])
        array = entry.array().reshape(place.shape)
        if self._in_pairs(place):
            return _half_split(array, self._width)
        return array

    def _joined_kv_b(self, place: Place) -> np.ndarray:
        """[N (K + H), R] of keys [N, R, K] and values [N, H, R]."""
        keys, values = (self._entries[_beside(place.stored, name)].array() for name in (SPLIT_KEYS, SPLIT_VALUES))
        return np.concatenate((keys.transpose(0, 2, 1), values), axis=1).reshape(place.shape)

    def _check(self, path: Path) -> None:
        """Everything that the config calls for is there in its shape, and nothing else is."""
        problems, used = [], {FREQUENCIES, *self.skipped}
        for name, place in self._places.items():
            for stored, shape in self._stored(place):
                used.add(stored)
                entry = self._entries.get(stored)
                if entry is None:
                    problems.append(f"{stored} is missing (for {name})")
                elif entry.shape != shape:
                    problems.append(f"{stored} has shape {list(entry.shape)}, expected {list(shape)}")
                elif entry.kind.read is None:
                    problems.append(
                        f"{stored} is {entry.kind.name}, which is not read; hint: fetch another quantization"
                    )
        problems += [f"{name} is not part of this model" for name in self._entries if name not in used]
        if problems:
            shown = list(dict.fromkeys(problems))
            more = f"; and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
            raise ValueError(f"{path} does not fit its own metadata: {'; '.join(shown[:LISTED])}{more}")

    def _stored(self, place: Place) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The tensors of the file that a logical one is made of, and their shapes."""
        if place.expert is not None:
            yield place.stored, (place.tensor.experts, *place.shape)
        elif place.tensor.part == "kv_b" and place.stored not in self._entries:
            c = self.config
            heads, rank = c.num_attention_heads, c.kv_lora_rank
            yield _beside(place.stored, SPLIT_KEYS), (heads, rank, c.qk_nope_head_dim)
            yield _beside(place.stored, SPLIT_VALUES), (heads, c.v_head_dim, rank)
        else:
            yield place.stored, place.shape


def _places(config: ModelConfig, stored: dict[str, Entry]) -> Iterator[tuple[str, Place]]:
    for tensor in config.inventory.tensors:
        for layer in [None] if tensor.layers is None else tensor.layers:
            at = tensor_name(tensor, layer, stored)
            for expert in range(tensor.experts) if tensor.experts else [None]:
                yield tensor.full_name(layer, expert), Place(tensor, at, expert)


def _beside(stored: str, other: str) -> str:
    """Another tensor of the same layer."""
    return ".".join((*stored.split(".")[:2], other))


def _half_split(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of heads whose rotary pairs are neighbours, back in the order in which j turns with
    j + width / 2."""
    order = np.arange(width).reshape(-1, 2).T.ravel()
    return np.ascontiguousarray(rows.reshape(-1, width, *rows.shape[1:])[:, order].reshape(rows.shape))

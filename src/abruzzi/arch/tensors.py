"""The inventory of a model's tensors: name pattern, shape and role of each, from which everything
else follows.

A family lists its tensors once (deepseek.py:DeepseekConfig.tensors). Names and shapes of a
checkpoint, parameter counts, FLOP, bytes, the loader and the random model are all read off that
list:

    Tensor("routed_experts", "up", "model.layers.{l}.mlp.experts.{e}.up_proj.weight", (2048, 7168),
           layers=range(1, 61), experts=384, chosen=8)

is 60 x 384 matrices, of which a token goes through 60 x 8. Code asks for a tensor by role and part,
never by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Role = Literal[
    "embedding",
    "head",
    "attention",
    "dense_mlp",
    "shared_experts",
    "routed_experts",
    "router",
    "router_bias",
    "norm",
    "bias",
]
# Modules of class Linear, which a quantization scheme may target; the router is none in these
# families.
LINEAR: tuple[Role, ...] = ("attention", "dense_mlp", "shared_experts", "routed_experts", "head")


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` matrices of rows x columns that the engine makes of a tensor. decoded: a decode step
    reads them."""

    count: int
    rows: int
    columns: int
    decoded: bool = True


@dataclass(frozen=True, slots=True)
class Tensor:
    """One line of the inventory: a tensor, or the same one of many layers and experts.

    part: which tensor of its role, the name that code asks for. name: its full name in a
    checkpoint, with {l} for the layer and {e} for the expert. layers: those that have it, None = it
    stands outside the layers. experts: how many a layer has, 0 = it is no expert's; chosen: how
    many of them a token goes through. split: the pieces that the engine holds instead of the
    matrix, if it does not hold it as it is."""

    role: Role
    part: str
    name: str
    shape: tuple[int, ...]
    layers: Sequence[int] | None = None
    experts: int = 0
    chosen: int = 0
    split: tuple[Piece, ...] = ()

    @property
    def size(self) -> int:
        """Elements of one of them."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many there are, over all layers and experts."""
        return (1 if self.layers is None else len(self.layers)) * (self.experts or 1)

    @property
    def active(self) -> int:
        """How many of them one token uses."""
        return self.count // self.experts * self.chosen if self.experts else self.count

    @property
    def is_linear(self) -> bool:
        return self.role in LINEAR

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What the engine makes of one matrix."""
        rows, columns = self.shape
        return self.split or (Piece(1, rows, columns),)

    def full_name(self, layer: int | None = None, expert: int | None = None) -> str:
        """The name in a checkpoint of one of them."""
        return self.name.format(l=layer, e=expert)

    def _has(self, layer: int | None) -> bool:
        return layer is None if self.layers is None else layer in self.layers


class Inventory:
    """All tensors of a model: iterates over (full name, tensor) layer by layer, and looks up by
    role and part."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self._by_part: dict[tuple[str, str], list[Tensor]] = {}
        for tensor in self.tensors:
            self._by_part.setdefault((tensor.role, tensor.part), []).append(tensor)

    def find(self, role: Role, part: str, layer: int | None = None) -> Tensor | None:
        """The tensor of this layer; None where the model has none (a layer without router)."""
        return next((t for t in self._by_part.get((role, part), ()) if t._has(layer)), None)

    def get(self, role: Role, part: str, layer: int | None = None) -> Tensor:
        """As `find`. Raises KeyError where the model has none."""
        tensor = self.find(role, part, layer)
        if tensor is None:
            raise KeyError(f"the model has no {part!r} of {role} in layer {layer}")
        return tensor

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its full name: layer by layer, and within a layer expert by expert."""
        for in_layers, block in groupby(self.tensors, key=lambda t: t.layers is not None):
            rows = tuple(block)
            if not in_layers:
                yield from ((t.name, t) for t in rows)
                continue
            for layer in range(1 + max((max(t.layers, default=-1) for t in rows if t.layers), default=-1)):
                yield from _of_layer([t for t in rows if t._has(layer)], layer)


def _of_layer(tensors: Sequence[Tensor], layer: int) -> Iterator[tuple[str, Tensor]]:
    for experts, block in groupby(tensors, key=lambda t: t.experts):
        rows = tuple(block)
        for expert in range(experts or 1):
            yield from ((t.full_name(layer, expert), t) for t in rows)


def gated_mlp(
    role: Role,
    prefix: str,
    hidden: int,
    inner: int,
    layers: Sequence[int],
    experts: int = 0,
    chosen: int = 0,
) -> Iterator[Tensor]:
    """Gate, up and down of a SwiGLU MLP: down(silu(gate(x)) * up(x)). prefix: of the names, up to
    the dot."""
    for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
        yield Tensor(role, part, f"{prefix}.{part}_proj.weight", shape, layers, experts, chosen)

"""Parameter counts: how many a model has, and how many of them one token uses.

Sums over the family's inventory (arch/tensors.py), from which FLOP (flops.py) and bytes (bytes.py)
follow as well. Not counted: multi-token prediction modules, which plain readers ignore
(DeepSeek-V3's hub page says 685 B with them, 671 B without).
"""

from __future__ import annotations

from dataclasses import dataclass

from abruzzi.arch import ModelConfig
from abruzzi.arch.tensors import Role


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts. A token uses one row of the embedding; `active` nevertheless counts all of it, as
    published figures do (K2's 32.9 B), and `active_without_embedding` does not (31.7 B): that is
    what is multiplied. `active_without_either` leaves out embedding and head (30.5 B)."""

    total: int
    active: int
    embedding: int
    head: int
    routed_experts: int

    @property
    def active_without_embedding(self) -> int:
        return self.active - self.embedding

    @property
    def active_without_either(self) -> int:
        return self.active - self.embedding - self.head


def parameters(config: ModelConfig) -> Parameters:
    """Count every parameter of the model that config.json describes."""
    tensors = tuple(config.tensors())

    def sum_of(role: Role) -> int:
        return sum(t.size * t.count for t in tensors if t.role == role)

    return Parameters(
        total=sum(t.size * t.count for t in tensors),
        active=sum(t.size * t.active for t in tensors),
        embedding=sum_of("embedding"),
        head=sum_of("head"),
        routed_experts=sum_of("routed_experts"),
    )

"""Serving cost: tokens per second of a node by its roofline, dollars and watt-hours per million
tokens.

    step = max(bytes / (bandwidth x its efficiency), FLOP / (peak x its efficiency)) + overhead

A model of a well-made server, not a measurement. It assumes that the GPUs divide weights and cache
evenly, that tokens are routed evenly to experts, and absorbed MLA in decode. Checked against
DeepSeek's published day of serving and the figures in tests/unit/cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from abruzzi.arch import ModelConfig
from abruzzi.cost import bytes as cost_bytes
from abruzzi.cost import flops
from abruzzi.cost.hardware import PUE, WATTS_PER_GPU, Gpu

RESERVE = 0.05  # of the memory: activations, the communication's buffers


@dataclass(frozen=True, slots=True)
class Node:
    """GPUs that serve together, and what of their peaks a server reaches. overhead: seconds per
    step that neither peak explains (launches, communication)."""

    gpu: Gpu
    gpus: int = 8
    usd_per_gpu_hour: float = 2.5
    bandwidth_share: float = 0.6
    compute_share: float = 0.45
    overhead: float = 0.006

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ValueError(f"gpus={self.gpus}; expected 1 or more")
        for name in ("bandwidth_share", "compute_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected a share above 0 and up to 1")
        for name in ("usd_per_gpu_hour", "overhead"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}; expected a number, 0 or more")

    @property
    def usd_per_hour(self) -> float:
        return self.gpus * self.usd_per_gpu_hour

    @property
    def watts(self) -> float:
        """With cooling."""
        return self.gpus * WATTS_PER_GPU * PUE

    def seconds(self, read_bytes: float, flop: float) -> tuple[float, float]:
        """Seconds that one step needs for memory and for arithmetic, without overhead."""
        by_memory = read_bytes / (self.gpus * self.gpu.bandwidth * self.bandwidth_share)
        return by_memory, flop / (self.gpus * self.gpu.bf16_flop_s * self.compute_share)


@dataclass(frozen=True, slots=True)
class ServingCost:
    """tok_s: decoded by the node, all sequences together; tok_s_per_user: by one. usd_per_mtok: if
    the node did nothing but decode; usd_per_mtok_input: nothing but prefill. bound: what limits
    decode."""

    tok_s: float
    tok_s_per_user: float
    usd_per_mtok: float
    wh_per_mtok: float
    bound: str
    prefill_tok_s: float
    usd_per_mtok_input: float
    weights_bytes: int
    kv_bytes: int
    memory_bytes: int
    max_batch: int


def serving_cost(config: ModelConfig, node: Node, batch: int, context: int, weights: str = "native") -> ServingCost:
    """`batch` sequences decoded at `context` tokens each, weights in a mode of bytes.py.

    Raises ValueError, with both numbers, for what does not fit into the node's memory."""
    if batch < 1 or context < 1:
        raise ValueError(f"batch={batch}, context={context}; expected 1 or more of each")
    held = cost_bytes.weights_bytes(config, weights)
    per_sequence = cost_bytes.kv_bytes_per_token(config) * context
    memory = int(node.gpus * node.gpu.memory)
    most = int((memory * (1 - RESERVE) - held) // per_sequence)
    if most < batch:
        limit = f"holds at most {most} sequences" if most > 0 else "does not hold the weights and one sequence"
        raise ValueError(
            f"batch {batch} at context {context} needs {(held + batch * per_sequence) / 1e9:.1f} GB "
            f"({held / 1e9:.1f} GB of weights), but {node.gpus} x {node.gpu.name} has {memory / 1e9:.0f} GB, of which "
            f"{RESERVE:.0%} stay free, and {limit}; hint: fewer sequences, a shorter context or more GPUs"
        )
    read = cost_bytes.decode_bytes(config, weights, batch, context)
    by_memory, by_compute = node.seconds(read, batch * flops.decode(config, context).total)
    step = max(by_memory, by_compute) + node.overhead
    prefill_tok_s = 1 / node.seconds(0, flops.prefill(config, context).total)[1]
    return ServingCost(
        tok_s=batch / step,
        tok_s_per_user=1 / step,
        usd_per_mtok=usd_per_mtok(node.usd_per_hour, batch / step),
        wh_per_mtok=node.watts / (batch / step) / 3600 * 1e6,
        bound="memory bandwidth" if by_memory >= by_compute else "arithmetic",
        prefill_tok_s=prefill_tok_s,
        usd_per_mtok_input=usd_per_mtok(node.usd_per_hour, prefill_tok_s),
        weights_bytes=held,
        kv_bytes=batch * per_sequence,
        memory_bytes=memory,
        max_batch=most,
    )


def usd_per_mtok(usd_per_hour: float, tok_s: float) -> float:
    """Dollars per million tokens of a machine that gives `tok_s`."""
    return usd_per_hour / 3600 / tok_s * 1e6

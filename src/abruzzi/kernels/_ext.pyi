"""The compiled kernels (csrc/bind/). Call them through ops.py, which checks what it is given."""

from collections.abc import Mapping, Sequence

import numpy as np

class Packed:
    """One matrix in the layout of the products (csrc/kernels/matrix.h)."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def data(self) -> np.ndarray: ...

class DenseWeights:
    """One SwiGLU (csrc/step/mlp.h)."""

    def __init__(self, gate: Packed, up: Packed, down: Packed) -> None: ...

class MoeWeights:
    """Router, shared experts (None: there are none) and routed ones (csrc/step/mlp.h)."""

    def __init__(
        self, *, router: Packed, bias: np.ndarray, shared: DenseWeights | None, experts: Sequence[DenseWeights]
    ) -> None: ...

class Model:
    """Weights and the step over them (csrc/step/model.h); engine/step/native.py is its user. Sizes and the weights of
    attention are read by name (csrc/bind/model.cpp); a name that is not there is a KeyError."""

    def __init__(self, isa: int, threads: int, shape: Mapping[str, object]) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    def set_embedding_f32(self, w: np.ndarray) -> None: ...
    def set_embedding_bf16(self, w: np.ndarray) -> None: ...
    def set_head(self, norm: np.ndarray, head: Packed) -> None: ...
    def add_layer(
        self,
        *,
        input_norm: np.ndarray,
        post_norm: np.ndarray,
        attention: Mapping[str, object],
        mlp: DenseWeights | MoeWeights,
    ) -> None: ...
    def forward(
        self,
        ids: np.ndarray,
        chunks: np.ndarray,
        tables: np.ndarray,
        block_tokens: int,
        cache: np.ndarray,
        logits: np.ndarray,
    ) -> None: ...

def best_isa() -> int: ...
def rmsnorm(isa: int, x: np.ndarray, weight: np.ndarray, eps: float, y: np.ndarray) -> None: ...
def pack_f32(w: np.ndarray) -> Packed: ...
def pack_bf16(w: np.ndarray) -> Packed: ...
def pack_int4(words: np.ndarray, scale: np.ndarray) -> Packed: ...
def pack_random(kind: int, rows: int, columns: int, seed: int) -> Packed: ...
def packed_view(kind: int, rows: int, columns: int, data: np.ndarray) -> Packed: ...
def quantize_f32(kind: int, w: np.ndarray) -> Packed: ...
def quantize_bf16(kind: int, w: np.ndarray) -> Packed: ...
def measure_bandwidth(threads: int, bytes: int, seconds: float) -> list[float]: ...
def measure_int8_peak(isa: int, threads: int, seconds: float) -> list[float]: ...
def matmul(isa: int, w: Packed, x: np.ndarray, y: np.ndarray) -> None: ...
def matmul8(isa: int, w: Packed, x: np.ndarray, y: np.ndarray) -> None: ...
def gate_up(isa: int, gate: Packed, up: Packed, x: np.ndarray, y: np.ndarray) -> None: ...
def silu_mul(isa: int, gate: np.ndarray, up: np.ndarray, y: np.ndarray) -> None: ...
def log_partition(isa: int, x: np.ndarray, temperature: float) -> float: ...
def sample(isa: int, x: np.ndarray, draw: object, uniform: float) -> int: ...
def rope(isa: int, x: np.ndarray, cos: np.ndarray, sin: np.ndarray, y: np.ndarray) -> None: ...
def route(
    isa: int,
    logits: np.ndarray,
    bias: np.ndarray,
    groups: int,
    kept: int,
    renormalize: bool,
    scale: float,
    score: int,
    chosen: np.ndarray,
    weight: np.ndarray,
) -> None: ...
def mla_naive(
    isa: int,
    q: np.ndarray,
    q_pe: np.ndarray,
    latents: np.ndarray,
    table: np.ndarray,
    block_tokens: int,
    positions: int,
    expand_k: Sequence[Packed],
    expand_v: Sequence[Packed],
    scale: float,
    out: np.ndarray,
) -> None: ...
def gqa(
    isa: int,
    q: np.ndarray,
    rows: np.ndarray,
    table: np.ndarray,
    block_tokens: int,
    positions: int,
    kv_heads: int,
    scale: float,
    segment: int,
    out: np.ndarray,
) -> None: ...
def pack_ggml(kind: int, columns: int, rows: np.ndarray) -> Packed: ...
def mla_absorbed(
    isa: int,
    q: np.ndarray,
    q_pe: np.ndarray,
    latents: np.ndarray,
    table: np.ndarray,
    block_tokens: int,
    positions: int,
    absorb_k: Sequence[Packed],
    expand_v: Sequence[Packed],
    scale: float,
    segment: int,
    out: np.ndarray,
) -> None: ...
def can_attend_documents() -> bool: ...
def attend_documents(
    threads: int,
    edges: np.ndarray,
    q: np.ndarray,
    kv: np.ndarray,
    k_pe: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    scale: float,
    o: np.ndarray,
    log_sum: np.ndarray,
    largest: np.ndarray,
) -> None: ...
def attend_documents_backward(
    threads: int,
    edges: np.ndarray,
    q: np.ndarray,
    kv: np.ndarray,
    k_pe: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    scale: float,
    o: np.ndarray,
    log_sum: np.ndarray,
    d_o: np.ndarray,
    dq: np.ndarray,
    dkv: np.ndarray,
    dk_pe: np.ndarray,
) -> None: ...

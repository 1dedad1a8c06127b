"""Fast twins of the plain model, for training: the same sums in fewer passes over memory.

    fast.enable(model)     # the trainer does; load and K2Model give the plain model

The plain modules name what may be replaced: `Linear.product`, `RMSNorm.norm`, `Mlp.product`,
`Experts.product`, `Attention.inner` and `K2Model.pack`; `enable` sets these attributes and nothing
else. TWINS holds what stands against what, and this file holds the whole rule of what runs where. A
twin looks at its input's device, dtype and whether a gradient is wanted, and falls to the plain
formula where that is the faster one or the only one:

    on a CPU, gradient wanted   products.linear (float32), fused_experts; attention: documents with
                                our kernel (bfloat16, AVX-512) or for long ones, else packed_attention
    on a CPU, no gradient       grouped_experts; attention as above
    on a GPU                    grouped_experts, documents with torch's kernel; what lies between
                                products is compiled

Every file here names its slow twin, which tests hold it against: logits, gradients, largest logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abruzzi.model import moe
from abruzzi.model.attention.mla import Attention
from abruzzi.model.fast import fused_experts, grouped_experts
from abruzzi.model.fast.documents import Documents, has_kernel
from abruzzi.model.fast.mla import packed
from abruzzi.model.fast.norm import rms_norm
from abruzzi.model.fast.packed_attention import LONGEST, Packing
from abruzzi.model.fast.products import linear
from abruzzi.model.k2 import K2Model
from abruzzi.model.linear import Linear
from abruzzi.model.norm import RMSNorm
from abruzzi.model.norm import rms_norm as plain_rms_norm


def enable(model: K2Model, on: bool = True) -> None:
    """Let `model` compute with the fast twins from now on, or (on=False) no longer. Idempotent."""
    for module in model.modules():
        for kind, attribute, plain, fast in TWINS:
            if isinstance(module, kind):
                setattr(module, attribute, fast if on else plain)
    # Without a mask only if every layer can do without.
    model.pack = pack if all(layer.self_attn.inner is not None for layer in model.layers()) else None


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """moe.swiglu: fused where gradients are wanted on a CPU, else with its activation as one kernel
    on a GPU."""
    if _trains_on_cpu(x):
        return fused_experts.swiglu(x, gate, up, down, _product_dtype(x, gate))
    return F.linear(grouped_experts.activate(F.linear(x, gate), F.linear(x, up)), down)


def experts(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
) -> Tensor:
    """moe.one_by_one: fused where gradients are wanted on a CPU, else grouped if the sizes allow
    it."""
    if _trains_on_cpu(x_TD):
        way = fused_experts.experts
    elif grouped_experts.groupable(gate, dtype):
        way = grouped_experts.experts
    else:
        way = moe.one_by_one
    return way(x_TD, expert_TK, weight_TK, gate, up, down, dtype)


def pack(model: K2Model, begins_BT: Tensor, rotation: tuple[Tensor, Tensor]) -> Documents | Packing:
    """Packed rows as `Attention.inner` takes them, made once for all layers.

    begins_BT: bool, the first token of each document. A Packing of them on a CPU without our
    kernel, if all are short enough for it."""
    c, device = model.config, begins_BT.device
    documents = Documents.of(begins_BT, rotation)
    dtype = _product_dtype(begins_BT, model.lm_head.weight)
    if device.type != "cpu" or has_kernel(device, dtype, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim):
        return documents
    return Packing.of(documents.lengths, rotation) if max(documents.lengths) <= LONGEST else documents


def _trains_on_cpu(x: Tensor) -> bool:
    """Where operations with a backward pass of their own pay; for a few tokens and no gradient they
    do not."""
    return x.device.type == "cpu" and torch.is_grad_enabled()


def _product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's on x's device if that is on, else the weight's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


# Module, its attribute, the plain way, the fast one.
TWINS: tuple[tuple[type, str, Any, Any], ...] = (
    (Linear, "product", F.linear, linear),
    (RMSNorm, "norm", plain_rms_norm, rms_norm),
    (moe.Mlp, "product", moe.swiglu, swiglu),
    (moe.Experts, "product", moe.one_by_one, experts),
    (Attention, "inner", None, packed),
)

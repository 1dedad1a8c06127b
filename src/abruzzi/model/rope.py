"""Rotary positions: pair j of a query or key is turned by position * inv_freq[j] (arXiv
2104.09864).

DeepSeek's family stores the rotary part interleaved: elements (0, 1) are the first pair, (2, 3) the
second. The frequencies, with YaRN's step (arXiv 2309.00071), come from `ModelConfig.rope_inv_freq`;
YaRN's other half, the larger softmax scale, is `ModelConfig.softmax_scale` and is applied in
mla.py.

Shape suffixes: B batch, T tokens, P rope dim (qk_rope_head_dim), p = P/2 pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abruzzi.arch import ModelConfig


def rotations(config: ModelConfig, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [B, T, p], of every pair's angle at every position.

    The angle is formed in float64 (which Apple's MPS lacks): at position 262,143 a float32 product
    is off by up to 0.02 rad."""
    inv_freq_p = torch.tensor(config.rope_inv_freq(), dtype=torch.float64, device=positions_BT.device)
    angle_BTp = positions_BT.double()[..., None] * inv_freq_p
    factor = config.rope_attention_factor
    return (angle_BTp.cos() * factor).float(), (angle_BTp.sin() * factor).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[2j], x[2j+1]) of the last axis; computed in float32, returned in x's dtype.

    x: [..., P]; cos, sin: [..., p], broadcast over the axes between (heads)."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)

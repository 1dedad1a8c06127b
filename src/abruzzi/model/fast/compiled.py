"""Small functions that torch.compile turns into one kernel on a GPU; elsewhere they run as they are
written.

Between its products a step of a small model only moves memory: on a GPU every line of such a
function would read and write all activations once. Compiling whole layers would save more and break
at QK-Clip's look at single heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, the first of which says where it runs. Compiled at the first call on a
    GPU (seconds)."""
    made: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(first: Tensor, *rest: Any) -> Any:
        if first.device.type != "cuda":
            return function(first, *rest)
        if not made:
            made.append(torch.compile(function))
        return made[0](first, *rest)

    return call

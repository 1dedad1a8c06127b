"""The readable truth: Kimi K2's mathematics (DeepSeek-V3 architecture) in plain PyTorch.

    model = abruzzi.model.load("path/to/checkpoint")     # float32, on the CPU
    logits_BTV = model(ids_BT)

Read k2.py first (the model from top to bottom), then attention/mla.py, moe.py, norm.py and rope.py.
The module tree's names are the checkpoint's tensor names, so nothing translates between the two.
fast/ holds faster twins for training, which `fast.enable(model)` puts in; a loaded or new model is
the plain one, and so is what PlainSampler and evaluations run. Not here: training (room `train`),
fast inference (room `engine`), anything distributed. torch is imported on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from abruzzi.model.attention.mla import LatentCache
    from abruzzi.model.generate import PlainSampler
    from abruzzi.model.k2 import K2Model
    from abruzzi.model.trace import Trace

__all__ = ["K2Model", "LatentCache", "PlainSampler", "Trace", "load"]

_HOMES = {
    "K2Model": "abruzzi.model.k2",
    "LatentCache": "abruzzi.model.attention.mla",
    "PlainSampler": "abruzzi.model.generate",
    "Trace": "abruzzi.model.trace",
}


def load(path: str | Path, dtype: torch.dtype | None = None, device: str = "cpu") -> K2Model:
    """Read a checkpoint directory in Hugging Face layout; INT4 experts arrive dequantized.

    dtype: of the parameters, float32 when None; the selection bias stays float32. Holds the model
    once in memory, plus one tensor. Raises what the checkpoint's reader raises: FileNotFoundError,
    or ValueError that lists tensors which are missing, surplus, of another shape or not finite.
    Multi-token-prediction layers are no part of the model and are left out."""
    import torch

    from abruzzi.checkpoint import open_checkpoint
    from abruzzi.model.k2 import K2Model

    with open_checkpoint(path) as checkpoint:
        with torch.device("meta"):
            model = K2Model(checkpoint.config)
        model = model.to(dtype or torch.float32).to_empty(device=device)
        slots = model.state_dict()  # views: writing into them writes into the model
        assert set(slots) == set(checkpoint.names()), "the reader's list of tensors and the module tree disagree"
        for name, slot in slots.items():
            slot.copy_(_tensor(checkpoint.array(name)))
    return model


def _tensor(array: Any) -> torch.Tensor:
    import numpy as np
    import torch

    own = np.array(array)  # a copy: the reader's arrays may be read-only views of the file
    if own.dtype.name == "bfloat16":  # ml_dtypes' type, unknown to torch.from_numpy
        return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(own)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'abruzzi.model' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

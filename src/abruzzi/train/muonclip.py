"""MuonClip: Muon for matrices, AdamW for the rest, QK-Clip against growing attention logits.

Muon (Moonlight, arXiv 2502.16982, section 2): momentum, five Newton-Schulz steps that make the
update nearly orthogonal, then a scale of 0.2 sqrt(max(rows, cols)) so that its RMS equals what
AdamW's would be; learning rate and weight decay tuned for AdamW carry over. QK-Clip (Kimi K2, arXiv
2507.20534, section 2.1, Algorithm 1) rescales the query and key weights of a head whose largest
softmax input of this step exceeded tau.

Which parameter goes where (Moonshot's rule): two or more dimensions and neither embedding nor head:
Muon; the others AdamW. A stacked [experts, rows, cols] parameter is orthogonalized expert by
expert.

Under torch.distributed every process orthogonalizes its share of the matrices and hands the result
round (Moonlight's distributed Muon, without sharded state).

Not here: sharded state (use FSDP2), gradient clipping (Muon's update has a fixed size anyway).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.adamw import adamw

from abruzzi.model import K2Model

NS_A, NS_B, NS_C = 3.4445, -4.7750, 2.0315
CACHED = 512 * 1024  # bytes of matrices that go through Newton-Schulz together: half of a core's cache


def newton_schulz(update: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of `update` [..., rows, cols], same
    shape.

    X <- aX + b(XX^T)X + c(XX^T)^2 X, from X0 = update / its Frobenius norm; singular values end
    within about 0.7 to 1.2. Works in the dtype given (Moonshot uses bfloat16)."""
    transposed = update.shape[-2] > update.shape[-1]
    x = (update.mT if transposed else update).reshape(-1, *sorted(update.shape[-2:]))
    # On a CPU a few at a time, so that all five steps stay in its cache.
    size = x.shape[1] * x.shape[2] * x.element_size()
    at_once = max(1, CACHED // size) if x.device.type == "cpu" else len(x)
    x = torch.cat([_iterate(part, steps, eps) for part in x.split(at_once)])
    return (x.mT if transposed else x).reshape(update.shape)


def _iterate(x: Tensor, steps: int, eps: float) -> Tensor:
    """newton_schulz of wide matrices [matrices, rows, cols]; sums are rounded once, inside the
    products."""
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=NS_B, alpha=NS_C), x, beta=NS_A)
    return x


class MuonClip(torch.optim.Optimizer):
    """One optimizer over both kinds of parameters; `split_parameters` makes the groups.

    lr, weight_decay: shared by both kinds, as in Moonshot's runs; a schedule scales every group's
    lr. momentum, ns_steps, ns_dtype: Muon's. betas, eps: AdamW's.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 2e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        ns_dtype: torch.dtype = torch.bfloat16,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
            "betas": betas,
            "eps": eps,
        }
        super().__init__(list(groups), defaults)
        for group in self.param_groups:
            if group.get("kind") not in ("muon", "adamw"):
                raise ValueError(f"parameter group kind {group.get('kind')!r}; expected 'muon' or 'adamw'")
            for p in group["params"]:
                if group["kind"] == "muon" and p.ndim not in (2, 3):
                    raise ValueError(f"Muon needs matrices or stacks of matrices, got shape {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("MuonClip takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["kind"] == "muon" else self._adamw)(params, group)

    def _muon(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        # Same shapes go through Newton-Schulz in one batch: many small products cost more than one
        # large.
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in params:
            by_shape.setdefault((p.shape[-2], p.shape[-1]), []).append(p)
        for (rows, cols), same in by_shape.items():
            for p in same:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            gradients = [cast(Tensor, p.grad) for p in same]
            buffers = [self.state[p]["momentum"] for p in same]
            # Lists at once: on a GPU one kernel each.
            torch._foreach_mul_(buffers, group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(buffers, gradients)  # pyright: ignore[reportPrivateImportUsage]
            nesterov = torch._foreach_add(gradients, buffers, alpha=group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
            stacked = torch.cat([n.reshape(-1, rows, cols) for n in nesterov]).to(group["ns_dtype"])
            orthogonal = _orthogonalize(stacked, group["ns_steps"]).to(same[0].dtype)
            updates = orthogonal.split([math.prod(p.shape[:-2]) for p in same])
            scale = 0.2 * math.sqrt(max(rows, cols))
            weights = cast("list[Tensor]", same)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(weights, [u.view_as(p) for u, p in zip(updates, same)], alpha=-group["lr"] * scale)  # pyright: ignore[reportPrivateImportUsage]

    def _adamw(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in params:
            state = self.state[p]
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            elif not isinstance(state["step"], Tensor):  # states of older versions hold a number
                state["step"] = torch.tensor(float(state["step"]), device=p.device)
            elif state["step"].device != p.device:  # load_state_dict leaves it on the CPU
                state["step"] = state["step"].to(p.device)
        states = [self.state[p] for p in params]
        beta1, beta2 = group["betas"]
        # torch's own rule, in one pass over memory.
        adamw(
            cast("list[Tensor]", params),
            [cast(Tensor, p.grad) for p in params],
            *([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _orthogonalize(stacked: Tensor, steps: int) -> Tensor:
    """newton_schulz of [matrices, rows, cols], divided among the processes if there are several."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return newton_schulz(stacked, steps)
    shares = list(stacked.tensor_split(dist.get_world_size()))
    own = dist.get_rank()
    shares[own] = newton_schulz(shares[own], steps).contiguous()
    for process, share in enumerate(shares):
        if len(share):
            dist.broadcast(share, src=process)
    return torch.cat(shares)


def split_parameters(model: nn.Module, optimizer: str = "muonclip") -> list[dict[str, Any]]:
    """Two groups by Moonshot's rule: matrices (and stacks of them) to Muon, the rest to AdamW.

    With optimizer "adamw" everything is in one group: what Muon is compared with."""
    muon, adamw = [], []
    for name, p in model.named_parameters():
        is_table = "embed_tokens" in name or "lm_head" in name
        (adamw if optimizer == "adamw" or p.ndim < 2 or is_table else muon).append(p)
    groups = [{"params": muon, "kind": "muon"}, {"params": adamw, "kind": "adamw"}]
    return [group for group in groups if group["params"]]


def clip_heads(model: K2Model, max_logit_N: Mapping[int, Tensor], tau: float) -> Tensor:
    """QK-Clip of every layer, after the optimizer's step; returns how many heads were rescaled,
    int64 [].

    max_logit_N: per layer, the largest softmax input of each head over the whole batch of this step
    (all microbatches, all processes), as `Trace.max_logit_N` records it."""
    layers = enumerate(model.layers())
    return torch.stack([layer.self_attn.clip_(max_logit_N[number], tau) for number, layer in layers]).sum()

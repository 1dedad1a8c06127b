"""Mixture of experts: a sigmoid router, many small experts of which each token uses a few, and shared ones.

Router (DeepSeek-V3, arXiv 2412.19437, eqs 12-16): score = sigmoid(gate), choice by score + bias, where the
bias only balances the load and never enters the weights. With groups, only the best groups may be chosen
from; a dropped group is masked with -inf (older software used 0, which differs when biased scores are
negative). Every token reaches all its experts: nothing is dropped for capacity.

Not here: the update of the bias and the balance loss (room `train`), expert parallelism.

Shape suffixes: B batch, T tokens (of the whole batch), D hidden_size, E experts, G expert groups,
K experts per token, M = T * K token-expert pairs sorted by expert, F expert inner (moe_intermediate_size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abruzzi.config import ModelConfig
from abruzzi.model.fast import fused_experts
from abruzzi.model.fast.compiled import compiled
from abruzzi.model.trace import Trace, count

MATMULS = ("auto", "loop", "grouped", "fused")


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). The dense layers and the shared experts."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if _trains_on_cpu(x):
            weights = self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight
            return fused_experts.swiglu(x, *weights, _product_dtype(x, weights[0]))
        return self.down_proj(_activate(self.gate_proj(x), self.up_proj(x)))


class Router(nn.Module):
    """Chooses experts and weighs them; float32 whatever the model's dtype or autocast, and so is its bias."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.groups, self.kept_groups = config.n_group, config.topk_group
        self.renormalize, self.scale = config.norm_topk_prob, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_TD: Tensor, pinned_TK: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Expert ids [T, K], their weights float32 [T, K], and all scores float32 [T, E].

        pinned_TK: take these experts and only weigh them."""
        with torch.autocast(x_TD.device.type, enabled=False):
            score_TE = F.linear(x_TD.float(), self.weight.float()).sigmoid()
            expert_TK = self.choose(score_TE) if pinned_TK is None else pinned_TK
            return expert_TK, self.weigh(score_TE, expert_TK), score_TE

    @torch.no_grad()
    def choose(self, score_TE: Tensor) -> Tensor:
        """Ids of the K experts with the largest score + bias among the kept groups; ties as torch.topk."""
        choice_TE = score_TE + self.e_score_correction_bias
        if self.groups > 1:
            choice_TGe = choice_TE.unflatten(-1, (self.groups, -1))
            group_score_TG = choice_TGe.topk(2, dim=-1).values.sum(-1)
            kept = group_score_TG.topk(self.kept_groups, dim=-1, sorted=False).indices
            dropped_TG = torch.ones_like(group_score_TG, dtype=torch.bool).scatter_(-1, kept, False)
            choice_TE = choice_TGe.masked_fill(dropped_TG[..., None], float("-inf")).flatten(-2)
        return choice_TE.topk(self.top_k, dim=-1, sorted=False).indices

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        """Weights of the chosen experts, from the scores without bias."""
        weight_TK = score_TE.gather(-1, expert_TK)
        if self.renormalize:
            weight_TK = weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20)
        return weight_TK * self.scale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        # A model cast to bfloat16 keeps its bias exactly: steps of 1e-3 would be lost to rounding.
        exact = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved = self.e_score_correction_bias
        if moved.dtype != torch.float32:
            self.e_score_correction_bias = exact.to(moved.device)
        return self


class Experts(nn.Module):
    """All routed experts of a layer, stacked: gate_proj and up_proj [E, F, D], down_proj [E, D, F].

    state_dict() shows them as the checkpoint does, one matrix per expert (`3.gate_proj.weight`), as views
    of the stacks; loading accepts the same names. matmul: "loop" is the plain way, one expert after the
    other; "grouped" calls torch's grouped product, which wants rows of a multiple of 16 bytes and raises
    otherwise; "fused" (fused_experts.py) is the fastest way to train on a CPU. "auto" is fused when gradients are
    wanted on a CPU, else grouped where the sizes allow it. They give the same numbers up to rounding.
    rounding: what each stack goes through before it is used (quantization-aware training sets it)."""

    def __init__(self, config: ModelConfig, matmul: str = "auto") -> None:
        super().__init__()
        if matmul not in MATMULS:
            raise ValueError(f"matmul={matmul!r} is unknown; expected one of {', '.join(MATMULS)}")
        self.matmul = matmul
        self.rounding: Callable[[Tensor], Tensor] | None = None
        experts, inner, size = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_proj = nn.Parameter(torch.zeros(experts, inner, size))
        self.up_proj = nn.Parameter(torch.zeros(experts, inner, size))
        self.down_proj = nn.Parameter(torch.zeros(experts, size, inner))

    def forward(self, x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Sum over each token's experts of weight * expert(token), [T, D] in x's dtype."""
        if self.matmul == "fused" or (self.matmul == "auto" and _trains_on_cpu(x_TD)):
            return fused_experts.experts(
                x_TD, expert_TK, weight_TK, *self._stacks(), _product_dtype(x_TD, self.gate_proj)
            ).to(x_TD.dtype)
        order_M = expert_TK.flatten().argsort(stable=True)
        load_E = count(expert_TK, len(self.gate_proj))
        back_M = torch.empty_like(order_M)
        back_M[order_M] = torch.arange(len(order_M), device=order_M.device)
        y_MD = self._swiglu(_Dispatched.apply(x_TD, order_M, back_M), load_E)
        return _Combined.apply(y_MD, weight_TK, order_M, back_M).to(x_TD.dtype)  # type: ignore[no-any-return]

    def _swiglu(self, x_MD: Tensor, load_E: Tensor) -> Tensor:
        """SwiGLU of rows that are sorted by expert; load_E says how many rows each expert has."""
        dtype = _product_dtype(x_MD, self.gate_proj)
        x_MD = x_MD.to(dtype)  # by hand: autocast does not know the grouped product
        gate, up, down = (w.to(dtype) for w in self._stacks())
        if self.matmul == "loop" or (self.matmul == "auto" and not _groupable(gate)):
            return _swiglu_loop(x_MD, load_E, gate, up, down)
        return _swiglu_grouped(x_MD, load_E, gate, up, down)

    def _stacks(self) -> tuple[Tensor, Tensor, Tensor]:
        """gate, up and down as they are used: rounded if they are to be."""
        stacks = (self.gate_proj, self.up_proj, self.down_proj)
        return stacks if self.rounding is None else tuple(map(self.rounding, stacks))  # type: ignore[return-value]

    # the checkpoint's names

    def _slots(self, prefix: str) -> dict[str, Tensor]:
        stacks = (("gate_proj", self.gate_proj), ("up_proj", self.up_proj), ("down_proj", self.down_proj))
        return {f"{prefix}{e}.{part}.weight": w[e] for e in range(len(self.gate_proj)) for part, w in stacks}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, view in self._slots(prefix).items():
            destination[name] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if local_metadata.get("assign_to_params_buffers"):
            error_msgs.append(f"{prefix}*: experts are stored stacked, so assign=True cannot take single ones over")
            return
        with torch.no_grad():
            slots = self._slots(prefix)
        for name, view in slots.items():
            given = state_dict.get(name)
            if given is None:
                missing_keys.append(name)
            elif given.shape != view.shape:
                error_msgs.append(
                    f"size mismatch for {name}: the given tensor is {tuple(given.shape)}, "
                    f"the model's is {tuple(view.shape)}"
                )
            else:
                with torch.no_grad():
                    view.copy_(given)
        if strict:
            unexpected_keys += [name for name in state_dict if name.startswith(prefix) and name not in slots]


class MoE(nn.Module):
    """Routed experts plus the shared ones, which are one Mlp of n_shared_experts times the width."""

    def __init__(self, config: ModelConfig, layer: int, matmul: str = "auto") -> None:
        super().__init__()
        self.layer = layer
        self.gate = Router(config)
        self.experts = Experts(config, matmul)
        self.shared_experts = Mlp(config.hidden_size, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x_BTD: Tensor, pinned_BTK: Tensor | None = None, trace: Trace | None = None) -> Tensor:
        """[B, T, D]. pinned_BTK: expert ids to use instead of the router's own choice."""
        x_TD = x_BTD.flatten(0, 1)
        expert_TK, weight_TK, score_TE = self.gate(x_TD, None if pinned_BTK is None else pinned_BTK.flatten(0, 1))
        if trace is not None:
            trace.expert_ids[self.layer] = expert_TK.unflatten(0, x_BTD.shape[:2])
            trace.router_scores[self.layer] = score_TE.unflatten(0, x_BTD.shape[:2])
        routed_TD = self.experts(x_TD, expert_TK, weight_TK)
        return routed_TD.view_as(x_BTD) + self.shared_experts(x_BTD)


class _Dispatched(torch.autograd.Function):
    """Rows of x for every token-expert pair, in the pairs' order.

    Going back is a gather and a sum: unlike a scatter-add that adds up in the same order every time."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_M: Tensor, back_M: Tensor) -> Tensor:
        ctx.per_token = len(order_M) // len(x_TD)
        ctx.save_for_backward(back_M)
        return x_TD.index_select(0, order_M // ctx.per_token)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dx_MD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (back_M,) = ctx.saved_tensors
        return dx_MD.index_select(0, back_M).unflatten(0, (-1, ctx.per_token)).sum(1), None, None


class _Combined(torch.autograd.Function):
    """Sum over each token's experts of weight times the pair's row, float32 [T, D] as long as the weights are."""

    @staticmethod
    def forward(ctx: Any, y_MD: Tensor, weight_TK: Tensor, order_M: Tensor, back_M: Tensor) -> Tensor:
        y_TKD = y_MD.index_select(0, back_M).unflatten(0, (-1, weight_TK.shape[1]))
        ctx.save_for_backward(y_TKD, weight_TK, order_M)
        return _weighted_sum(y_TKD, weight_TK)  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dout_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        y_TKD, weight_TK, order_M = ctx.saved_tensors
        dy_TKD, dweight_TK = _weighted_sum_backward(dout_TD, y_TKD, weight_TK)
        return dy_TKD.flatten(0, 1).index_select(0, order_M), dweight_TK, None, None


@compiled
def _weighted_sum(y_TKD: Tensor, weight_TK: Tensor) -> Tensor:
    return (y_TKD * weight_TK[..., None]).sum(1)


@compiled
def _weighted_sum_backward(dout_TD: Tensor, y_TKD: Tensor, weight_TK: Tensor) -> tuple[Tensor, Tensor]:
    dy_TKD = (dout_TD[:, None] * weight_TK[..., None]).to(y_TKD.dtype)
    return dy_TKD, (dout_TD[:, None] * y_TKD.to(dout_TD.dtype)).sum(-1).to(weight_TK.dtype)


@compiled
def _activate(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def _trains_on_cpu(x: Tensor) -> bool:
    """Where the operations with a backward pass of their own pay; for a few tokens and no gradient they do not."""
    return x.device.type == "cpu" and torch.is_grad_enabled()


def _product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's if that is on, else the weights'."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _swiglu_loop(x_MD: Tensor, load_E: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    # unbind, not indexing: its backward stacks the gradients once, where each index would fill all of [E, F, D].
    rows = x_MD.split(load_E.tolist())
    return torch.cat(
        [
            F.linear(F.silu(F.linear(x, gate_FD)) * F.linear(x, up_FD), down_DF)
            for x, gate_FD, up_FD, down_DF in zip(rows, gate.unbind(), up.unbind(), down.unbind())
            if len(x)
        ]
    )


def _swiglu_grouped(x_MD: Tensor, load_E: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    ends_E = load_E.cumsum(0).to(torch.int32)
    gate_MF = F.grouped_mm(x_MD, gate.mT, offs=ends_E)
    up_MF = F.grouped_mm(x_MD, up.mT, offs=ends_E)
    return F.grouped_mm(_activate(gate_MF, up_MF), down.mT, offs=ends_E)


def _groupable(gate_EFD: Tensor) -> bool:
    """Whether torch's grouped product accepts these experts: both row lengths a multiple of 16 bytes."""
    return all(n * gate_EFD.element_size() % 16 == 0 for n in gate_EFD.shape[1:])

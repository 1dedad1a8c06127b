"""Mixture of experts: a router, many small experts of which each token uses a few, and shared ones.

Router (DeepSeek-V3, arXiv 2412.19437, eqs 12-16): score = sigmoid(gate), choice by score + bias,
where the bias only balances the load and never enters the weights. With groups, only the best
groups may be chosen from; a dropped group is masked with -inf (older software used 0, which differs
when biased scores are negative). Every token reaches all its experts: nothing is dropped for
capacity.

Not here: the update of the bias and the balance loss (room `train`), faster products (fast/),
expert parallelism.

Shape suffixes: B batch, T tokens (of the whole batch), D hidden_size, E experts, G expert groups, K
experts per token, F expert inner (moe_intermediate_size), M = T * K token-expert pairs sorted by
expert, m pairs of one expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abruzzi.arch import ModelConfig
from abruzzi.model.linear import Linear
from abruzzi.model.trace import Trace, count

Score = Callable[[Tensor], Tensor]
SCORES: dict[str, Score] = {"sigmoid": torch.sigmoid}  # by Config.ROUTER_SCORE


class Mlp(nn.Module):
    """SwiGLU: the dense layers and the shared experts.

    product: of x and the three weights, `swiglu` or a twin of it (fast.enable sets it)."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(size, inner)
        self.up_proj = Linear(size, inner)
        self.down_proj = Linear(inner, size)
        self.product: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = swiglu

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


class Router(nn.Module):
    """Chooses experts and weighs them; float32 whatever the model's dtype or autocast, and so is
    its bias.

    score: gate logits [T, E] to scores of the same shape, over which choice, weights and balance
    are taken; None = the family's."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig, score: Score | None = None) -> None:
        super().__init__()
        self.score = SCORES[config.ROUTER_SCORE] if score is None else score
        self.top_k = config.num_experts_per_tok
        self.groups, self.kept_groups = config.n_group, config.topk_group
        self.renormalize, self.scale = config.norm_topk_prob, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_TD: Tensor, pinned_TK: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Expert ids [T, K], their weights float32 [T, K], and all scores float32 [T, E].

        pinned_TK: take these experts and only weigh them."""
        with torch.autocast(x_TD.device.type, enabled=False):
            score_TE = self.score(F.linear(x_TD.float(), self.weight.float()))
            expert_TK = self.choose(score_TE) if pinned_TK is None else pinned_TK
            return expert_TK, self.weigh(score_TE, expert_TK), score_TE

    @torch.no_grad()
    def choose(self, score_TE: Tensor) -> Tensor:
        """Ids of the K experts with the largest score + bias among the kept groups; ties as
        torch.topk."""
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

    state_dict() shows them as the checkpoint does, one matrix per expert (`3.gate_proj.weight`), as
    views of the stacks; loading accepts the same names.

    product: how they are multiplied and summed, `one_by_one` or a twin of it (fast.enable sets it).
    rounding: what each stack goes through before it is used (quantization-aware training sets
    it)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.product: Callable[..., Tensor] = one_by_one
        self.rounding: Callable[[Tensor], Tensor] | None = None
        experts, inner, size = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_proj = nn.Parameter(torch.zeros(experts, inner, size))
        self.up_proj = nn.Parameter(torch.zeros(experts, inner, size))
        self.down_proj = nn.Parameter(torch.zeros(experts, size, inner))

    def forward(self, x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """Sum over each token's experts of weight * expert(token), [T, D] in x's dtype.

        Products are computed in autocast's dtype if that is on, else in the parameters'."""
        device = x_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.gate_proj.dtype
        return self.product(x_TD, expert_TK, weight_TK, *self._stacks(), dtype).to(x_TD.dtype)

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
    """Routed experts plus the shared ones, which are one Mlp of n_shared_experts times the
    width."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.gate = Router(config)
        self.experts = Experts(config)
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


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down(silu(gate x) * up x), [..., D] to [..., D]."""
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def one_by_one(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum over each token's experts of weight * swiglu, [T, D]: one expert after the other.

    gate, up [E, F, D] and down [E, D, F]; products are computed in `dtype`, the sum in the
    weights'."""
    order_M = expert_TK.flatten().argsort(stable=True)
    x_MD = x_TD.to(dtype).index_select(0, order_M // expert_TK.shape[1])
    rows_E = x_MD.split(count(expert_TK, len(gate)).tolist())
    # unbind, not indexing: its backward stacks the gradients once, where each index would fill all
    # of [E, F, D].
    matrices_E = zip(*(w.to(dtype).unbind() for w in (gate, up, down)))
    y_MD = torch.cat([swiglu(x_mD, *matrices) for x_mD, matrices in zip(rows_E, matrices_E) if len(x_mD)])
    y_TKD = y_MD.index_select(0, order_M.argsort()).unflatten(0, expert_TK.shape)
    return (y_TKD * weight_TK[..., None]).sum(1)

"""Kimi K2 (arXiv 2507.20534; architecture of DeepSeek-V3, arXiv 2412.19437), from token ids to
logits.

    embedding -> layers of { norm, MLA, add; norm, MLP or experts, add } -> norm -> head

The first `first_k_dense_replace` layers have one dense MLP, the others experts. Attribute names
spell the checkpoint's tensor names: `model.layers.3.self_attn.o_proj.weight` is found by following
the dots.

What it does not do: padding masks (batch sequences of equal length, or pack them with
`segments_BT`), dropout, tied embeddings, multi-token prediction, anything distributed. It is slow
where it could be fast: `fast.enable` exchanges attributes that are named for it, and leaves what is
written here as it is.

Shape suffixes: B batch, T tokens of this call, S tokens seen so far including them, D hidden_size,
K experts per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from abruzzi.arch import ModelConfig
from abruzzi.arch.deepseek import ABSORB_UP_TO
from abruzzi.model.attention import attention_of
from abruzzi.model.attention.mla import LatentCache
from abruzzi.model.linear import Linear
from abruzzi.model.moe import Mlp, MoE
from abruzzi.model.norm import RMSNorm
from abruzzi.model.rope import rotations
from abruzzi.model.trace import Trace

AttentionForm = Literal["auto", "naive", "absorbed"]


class K2Model(nn.Module):
    """The whole model. Weights are random (normal, initializer_range) from `seed` until they are
    loaded.

    On torch's meta device nothing is initialized. A quantization_config changes nothing here:
    weights are plain numbers. pack: of (this model, begins_BT, rotation), packed rows as the
    layers' `Attention.inner` takes them; None = packed rows have a mask like all others
    (fast.enable sets it)."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.pack: Callable[[K2Model, Tensor, tuple[Tensor, Tensor]], Any] | None = None
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if not self.lm_head.weight.is_meta:
            self.reset_parameters(torch.Generator().manual_seed(seed))

    def forward(
        self,
        ids_BT: Tensor,
        *,
        cache: LatentCache | None = None,
        segments_BT: Tensor | None = None,
        routing: Mapping[int, Tensor] | None = None,
        attention: AttentionForm = "auto",
        trace: Trace | None = None,
    ) -> Tensor:
        """Logits [B, T, V]: position t predicts the token after ids[:, t]. For the arguments see
        `hidden`."""
        hidden_BTD = self.hidden(
            ids_BT, cache=cache, segments_BT=segments_BT, routing=routing, attention=attention, trace=trace
        )
        return self.lm_head(hidden_BTD)

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        cache: LatentCache | None = None,
        segments_BT: Tensor | None = None,
        routing: Mapping[int, Tensor] | None = None,
        attention: AttentionForm = "auto",
        trace: Trace | None = None,
    ) -> Tensor:
        """What the head sees, [B, T, D]; `lm_head` of some rows is cheaper than logits for all.

        cache: continue the sequences it holds, and add these tokens to it.
        segments_BT: packed documents, any int per token. A run of equal numbers is one document:
            its tokens see only each other and its positions start at 0. Not with a cache.
        routing: expert ids [B, T, K] of every MoE layer, by layer number (`Trace.expert_ids` has
            that form), used in place of the router's choice, with weights from this model's scores.
        attention: "auto" is absorbed for up to ABSORB_UP_TO tokens with a cache, else naive.
        trace: records routing and attention logits, see trace.py.

        Raises ValueError for ids that are not a [B, T] integer tensor within the vocabulary, for
        more tokens than max_position_embeddings, and for arguments that do not fit each other."""
        self._check(ids_BT, cache, segments_BT, routing, attention)
        start = 0 if cache is None else cache.length
        begins_BT = None if segments_BT is None else _begins(segments_BT)
        positions_BT = _positions(ids_BT, start, begins_BT)
        _check_context(positions_BT, start, self.config.max_position_embeddings)
        rotation = rotations(self.config, positions_BT)
        absorbed = attention == "absorbed" or (
            attention == "auto" and cache is not None and ids_BT.shape[1] <= ABSORB_UP_TO and self._can_absorb()
        )
        packed = None
        if begins_BT is not None and self.pack is not None and not absorbed:
            packed = self.pack(self, begins_BT, rotation)
        mask = _mask(ids_BT, start, begins_BT) if packed is None else None
        x_BTD = self.model.embed_tokens(ids_BT)
        for number, layer in enumerate(self.layers()):
            pinned_BTK = None if routing is None else routing.get(number)
            x_BTD = layer(x_BTD, rotation, mask, pinned_BTK, absorbed=absorbed, packed=packed, cache=cache, trace=trace)
        return self.model.norm(x_BTD)

    def layers(self) -> list[Layer]:
        """The layers in order: where QK-Clip finds `self_attn`."""
        return cast("list[Layer]", list(self.model.layers))

    def _can_absorb(self) -> bool:
        return all("absorbed" in layer.self_attn.FORMS for layer in self.layers())

    def moe_layers(self) -> dict[int, MoE]:
        """The expert blocks by layer number: where the selection bias is (`.gate`)."""
        return {i: layer.mlp for i, layer in enumerate(self.layers()) if isinstance(layer.mlp, MoE)}

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Matrices normal with standard deviation initializer_range, norms 1, selection bias 0.

        Numbers are drawn on the generator's device in float32, so a CPU generator gives the same
        model on every device."""
        for parameter in self.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                drawn = torch.randn(parameter.shape, generator=generator, device=generator.device)
                parameter.copy_(drawn * self.config.initializer_range)
        for moe in self.moe_layers().values():
            moe.gate.e_score_correction_bias.zero_()

    def _check(
        self,
        ids_BT: Tensor,
        cache: LatentCache | None,
        segments_BT: Tensor | None,
        routing: Mapping[int, Tensor] | None,
        attention: str,
    ) -> None:
        if ids_BT.ndim != 2 or ids_BT.numel() == 0 or ids_BT.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"ids have shape {tuple(ids_BT.shape)} and {ids_BT.dtype}; expected integers [B, T]")
        if ids_BT.device.type == "cpu":  # an accelerator checks in its embedding; looking from here would stall it
            low, high, size = int(ids_BT.min()), int(ids_BT.max()), self.config.vocab_size
            if low < 0 or high >= size:
                raise ValueError(
                    f"ids range from {low} to {high}; expected 0 to {size - 1}; "
                    "hint: the tokenizer belongs to another checkpoint"
                )
        if attention not in ("auto", "naive", "absorbed"):
            raise ValueError(f"attention={attention!r} is unknown; expected 'auto', 'naive' or 'absorbed'")
        if attention == "absorbed" and not self._can_absorb():
            raise ValueError("attention='absorbed', but this model's attention has no such form; expected 'naive'")
        if segments_BT is not None and cache is not None:
            raise ValueError("segments_BT and a cache exclude each other; hint: run packed rows without a cache")
        if segments_BT is not None and segments_BT.shape != ids_BT.shape:
            raise ValueError(f"segments_BT has shape {tuple(segments_BT.shape)}; expected {tuple(ids_BT.shape)}")
        if routing is not None:
            self._check_routing(routing, (*ids_BT.shape, self.config.num_experts_per_tok))

    def _check_routing(self, routing: Mapping[int, Tensor], shape: tuple[int, ...]) -> None:
        if set(routing) != set(self.moe_layers()):
            raise ValueError(f"routing has layers {sorted(routing)}; expected every one of {sorted(self.moe_layers())}")
        for number, ids_BTK in routing.items():
            if tuple(ids_BTK.shape) != shape:
                raise ValueError(f"routing of layer {number} has shape {tuple(ids_BTK.shape)}; expected {shape}")


class Decoder(nn.Module):
    """Embedding, layers and final norm: the tensors whose names begin with `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention_of(config, number)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        has_experts = config.is_moe_layer(number)
        self.mlp = MoE(config, number) if has_experts else Mlp(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        pinned_BTK: Tensor | None,
        *,
        absorbed: bool,
        packed: Any,
        cache: LatentCache | None,
        trace: Trace | None,
    ) -> Tensor:
        normed = self.input_layernorm(x_BTD)
        attended = self.self_attn(normed, rotation, mask, absorbed=absorbed, packed=packed, cache=cache, trace=trace)
        x_BTD = x_BTD + attended.to(x_BTD.dtype)  # on a CPU a sum of two dtypes is slower than a cast and a sum
        normed = self.post_attention_layernorm(x_BTD)
        y_BTD = self.mlp(normed, pinned_BTK, trace) if isinstance(self.mlp, MoE) else self.mlp(normed)
        return x_BTD + y_BTD.to(x_BTD.dtype)


def _begins(segments_BT: Tensor) -> Tensor:
    """Where a document begins, bool [B, T]: with every row, and where the number changes."""
    begins_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return begins_BT


def _positions(ids_BT: Tensor, start: int, begins_BT: Tensor | None) -> Tensor:
    """Positions [B or 1, T], counted from `start` or from the beginning of each document."""
    place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    return place_T[None] + start if begins_BT is None else place_T - (begins_BT * place_T).cummax(-1).values


def seen_within(begins_BT: Tensor) -> Tensor:
    """Bool [B, T, T]: which keys (last axis) a query of packed rows sees, those of its document up
    to itself."""
    document_BT = begins_BT.cumsum(-1)
    place_T = torch.arange(begins_BT.shape[1], device=begins_BT.device)
    return (document_BT[:, :, None] == document_BT[:, None, :]) & (place_T <= place_T[:, None])


def _mask(ids_BT: Tensor, start: int, begins_BT: Tensor | None) -> Tensor | None:
    """Who may see whom: None = plain causal, else bool [T, S] or [B, 1, T, S]."""
    place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    if begins_BT is not None:
        return seen_within(begins_BT)[:, None]
    if start == 0:
        return None
    place_S = torch.arange(start + len(place_T), device=ids_BT.device)
    return place_S <= (place_T + start)[:, None]


def _check_context(positions_BT: Tensor, start: int, limit: int) -> None:
    if start + positions_BT.shape[1] <= limit:
        return
    longest = int(positions_BT.max()) + 1  # packed rows may be longer than their documents
    if longest > limit:
        raise ValueError(f"{longest} tokens exceed max_position_embeddings={limit}; hint: shorten the prompt")

"""The slow, plain sampler: one sequence, one token at a time, from the torch model. A `GenerateFn`.

The readable twin of the engine's sampler: same filters in the same order, same meaning of
log-probabilities; the random draws differ. It knows no tokenizer, so stop strings and thinking
budgets are refused.

Shape suffixes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abruzzi.model.attention.mla import LatentCache
from abruzzi.model.k2 import K2Model
from abruzzi.types import Completion, FinishReason, SamplingParams, Usage


class PlainSampler:
    """`PlainSampler(model)(ids, params)` -> Completion. Ends at the config's eos ids or
    `stop_token_ids`."""

    def __init__(self, model: K2Model) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, ids: Sequence[int], params: SamplingParams) -> Completion:
        """Continue `ids`. The completion includes the id that ended it; a seed repeats it exactly.

        Raises ValueError for an empty or too long prompt and for options that this sampler
        lacks."""
        limit = self._limit(ids, params)
        ends = {*self.model.config.eos_token_ids, *params.stop_token_ids}
        generator = torch.Generator()
        if params.seed is None:
            generator.seed()
        else:
            generator.manual_seed(params.seed & (2**63 - 1))
        cache = LatentCache()
        given, sampled, logprobs = list(ids), [], []
        reason: FinishReason = "length"
        while len(sampled) < limit:
            chosen, logprob = sample(self._next_logits(given, cache), params, generator)
            sampled.append(chosen)
            logprobs.append(logprob)
            if chosen in ends:
                reason = "stop"
                break
            given = [chosen]
        usage = Usage(prompt_tokens=len(ids), completion_tokens=len(sampled))
        return Completion(tuple(sampled), tuple(logprobs), reason, usage)

    def _next_logits(self, ids: list[int], cache: LatentCache) -> Tensor:
        device = self.model.lm_head.weight.device
        hidden = self.model.hidden(torch.tensor([ids], device=device), cache=cache)
        return self.model.lm_head(hidden[0, -1]).float().cpu()

    def _limit(self, ids: Sequence[int], params: SamplingParams) -> int:
        refused = ["stop"] if params.stop else []
        refused += [] if params.thinking_budget is None else ["thinking_budget"]
        if refused:
            raise ValueError(
                f"the plain sampler does not support {', '.join(refused)}; hint: use stop_token_ids, or the engine"
            )
        room = self.model.config.max_position_embeddings - len(ids)
        if not ids or room < 1:
            raise ValueError(
                f"the prompt has {len(ids)} tokens; expected 1 to {self.model.config.max_position_embeddings - 1}"
            )
        return room if params.max_tokens is None else min(room, params.max_tokens)


def sample(logits_V: Tensor, params: SamplingParams, generator: torch.Generator) -> tuple[int, float]:
    """The next id and its natural log-probability, from float32 logits on the CPU.

    The log-probability is that of softmax(logits / temperature) over the whole vocabulary
    (temperature 1 when greedy); top_k, top_p and min_p narrow the draw but do not renormalize
    it."""
    greedy = params.greedy
    logprobs_V = torch.log_softmax(logits_V if greedy else logits_V / params.temperature, -1)
    if greedy:
        chosen = int(logits_V.argmax())
    else:
        kept = candidates(logprobs_V, params)
        chosen = int(kept[torch.multinomial(logprobs_V[kept].exp(), 1, generator=generator)])
    return chosen, float(logprobs_V[chosen])


def candidates(logprobs_V: Tensor, params: SamplingParams) -> Tensor:
    """Ids that may be drawn, most likely first: top_k of them, then the fewest whose mass reaches
    top_p, then those at least min_p times as likely as the first."""
    order = logprobs_V.argsort(descending=True, stable=True)
    if params.top_k:
        order = order[: params.top_k]
    probs = logprobs_V[order].double().exp()
    if params.top_p < 1:
        share = probs / probs.sum()
        inside = share.cumsum(0) - share < params.top_p
        order, probs = order[inside], probs[inside]
    return order[probs >= params.min_p * probs[0]]

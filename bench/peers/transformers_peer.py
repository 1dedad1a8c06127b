"""abruzzi beside `transformers`' DeepseekV3 in bfloat16, on random weights of one shape, in turns
in one run.

    python bench/peers/transformers_peer.py [--shape mini] [--rounds 3] [--out FILE]

Its weights are bfloat16 throughout, ours by default `native`: the same numbers for everything but
the experts. Decode at depth fills its cache with a real prefill. Prompts and tokens are random ids
on both sides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from turns import Case, Ours, chosen, options, table, take_turns

from abruzzi.arch import ModelConfig
from machine import describe, emit

PEER = "transformers"


def main(arguments: Sequence[str] | None = None) -> int:
    given = options(__doc__, weights="native").parse_args(arguments)
    config, cases = chosen(given)
    theirs = Transformers(config, given.threads, given.repeat)
    ours = Ours(config, given.weights, given.precision, given.threads, given.repeat)
    rows = take_turns(cases, ours, {PEER: theirs}, given.rounds, given.threads)
    for row in rows:
        # The targets for decode are held against llama.cpp; against this peer they were set for
        # prefill.
        row["wanted_ratio"] = row["wanted_ratio"] if row["prefill"] else None
    result = {
        "bench": "peers_transformers",
        **describe(threads=given.threads),
        "settings": {
            "shape": given.shape,
            "weights": given.weights,
            "precision": given.precision,
            "rounds": given.rounds,
            "samples_per_turn": given.repeat,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "transformers_weights": "bfloat16",
        },
        "cases": rows,
    }
    emit(result, given.out)
    print(table(rows, [PEER]), file=sys.stderr)
    return 0


class Transformers:
    """DeepseekV3ForCausalLM with random weights."""

    def __init__(self, config: ModelConfig, threads: int, repeat: int) -> None:
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        self._repeat, self._vocab = repeat, config.vocab_size
        plain = {k: v for k, v in config.to_dict().items() if k != "quantization_config"}
        torch.manual_seed(0)
        theirs: Any = transformers.DeepseekV3Config(**plain)
        theirs._attn_implementation = "sdpa"
        torch.set_default_dtype(torch.bfloat16)
        try:
            self._model: Any = transformers.DeepseekV3ForCausalLM(theirs).eval()
        finally:
            torch.set_default_dtype(torch.float32)

    @torch.inference_mode()
    def __call__(self, case: Case) -> list[float]:
        work = case.work
        if work.prefill:
            self._prompt(1, min(work.prefill, 512))
            return [case.tokens / self._timed(lambda: self._prompt(1, work.prefill)) for _ in range(self._repeat)]
        cache = self._prompt(work.batch, work.depth).past_key_values if work.depth else None
        cache = self._decode(cache, work.batch, 2)
        rates = []
        for _ in range(self._repeat):  # each goes on where the last ended: a few tokens deeper
            start = time.perf_counter()
            cache = self._decode(cache, work.batch, work.decode)
            rates.append(case.tokens / (time.perf_counter() - start))
        return rates

    def _prompt(self, batch: int, tokens: int) -> Any:
        return self._model(torch.randint(self._vocab, (batch, tokens)), use_cache=True, logits_to_keep=1)

    def _decode(self, cache: Any, batch: int, steps: int) -> Any:
        for _ in range(steps):
            ids = torch.randint(self._vocab, (batch, 1))
            cache = self._model(ids, past_key_values=cache, use_cache=True).past_key_values
        return cache

    @staticmethod
    def _timed(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())

"""`abruzzi quantize SRC DST`: routed experts to INT4, and what that changed in the model's
answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.exit_codes import OK

if TYPE_CHECKING:
    from abruzzi.tokenizer import Tokenizer

HELP = """Turn an unquantized checkpoint into one with INT4 routed experts, as K2-Thinking ships.

The source is only read. Both are then run, teacher forced, over conversations with thinking and tool
calls: kl is the mean KL divergence per token, in nats; top1_agreement the share of tokens at which both
would say the same. They are computed in float32, so the model must fit into memory twice over;
--kl-tokens 0 leaves them out.

Example: abruzzi quantize ./my-model ./my-model-int4
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quantize", help=HELP)(quantize)


def quantize(
    source: Path = typer.Argument(..., metavar="SRC", help="A checkpoint directory, unquantized."),
    target: Path = typer.Argument(..., metavar="DST", help="Where to write; must not be there yet."),
    kl_tokens: int = typer.Option(512, "--kl-tokens", min=0, help="Compare over so many tokens; 0 = do not."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> int:
    from abruzzi.checkpoint import quantize_checkpoint
    from abruzzi.cli.choose import checkpoint_path

    quantize_checkpoint(checkpoint_path(str(source)), target)
    facts: dict[str, Any] = {"bytes_before": _weights_bytes(source), "bytes_after": _weights_bytes(target)}
    facts |= compare(source, target, kl_tokens) if kl_tokens else {"kl": None, "top1_agreement": None}
    if as_json:
        print(json.dumps(facts))
        return OK
    ratio = facts["bytes_after"] / facts["bytes_before"]
    print(f"{target}: {facts['bytes_after'] / 1e6:.1f} MB, {ratio:.0%} of {facts['bytes_before'] / 1e6:.1f} MB")
    if kl_tokens:
        same = facts["top1_agreement"]
        print(f"KL {facts['kl']:.2e} nats per token, {same:.1%} of the tokens the same ({facts['tokens']} compared)")
    return OK


def compare(source: Path, target: Path, tokens: int) -> dict[str, Any]:
    """kl, top1_agreement and the number of tokens; one model in memory at a time."""
    import numpy as np

    from abruzzi.engine.llm import LLM
    from abruzzi.engine.sampler import log_softmax

    before = LLM.load(source)
    texts = list(_conversations(before.tokenizer, min(tokens, before.max_context), tokens))
    logprobs = [log_softmax(before.logits(ids)) for ids in texts]
    del before
    after = LLM.load(target)
    kl, same, count = 0.0, 0, 0
    for ids, p in zip(texts, logprobs):
        q = log_softmax(after.logits(ids))
        kl += float((np.exp(p.astype(np.float64)) * (p.astype(np.float64) - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        count += len(ids)
    return {"kl": kl / count, "top1_agreement": same / count, "tokens": count}


def _conversations(tok: Tokenizer, longest: int, tokens: int) -> Iterator[list[int]]:
    """Rendered gold trajectories, cut where `tokens` ids are reached."""
    from abruzzi import tokenizer
    from abruzzi.tasks import examples
    from abruzzi.types import Message

    left = tokens
    while left > 0:
        for task in examples():
            with task.open_tools() as tools:
                specs = [t.spec for t in tools]
            messages = [Message("user", task.prompt), *task.gold(thinking=True, tools=True)]
            ids = tokenizer.render(tok, messages, specs, add_generation_prompt=False).ids[: min(longest, left)]
            left -= len(ids)
            yield list(ids)
            if left <= 0:
                return


def _weights_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))

"""What the modes of weights and the fast precision cost: KL to the exact model, agreement, nano's
score, bytes.

    python bench/weight_modes.py [--model DIR] [--conversations 120] [--n 50] [--out FILE]

KL and agreement: over the answers that the exact model itself gives (thoughts, tool calls and all,
tools answering), teacher forced, token by token; KL(exact || mode) in nats. Score: greedy, thinking
and tools, tasks whose seeds are not those of training, with 95 % Wilson intervals. Speed is
`abruzzi bench`'s to say.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import abruzzi
from abruzzi import tokenizer
from abruzzi.agent.loop import Finish, Limits, run
from abruzzi.checkpoint import open_checkpoint
from abruzzi.cost.capacity import Stored, loaded_bytes, step_bytes
from abruzzi.engine.llm import LLM
from abruzzi.engine.sampler import log_softmax
from abruzzi.engine.weights.packing import Precision, WeightMode
from abruzzi.evals.run import run_suite, summarize
from abruzzi.tasks import FIRST_FAMILIES, SPLITS, Split, Task
from abruzzi.types import Message, SamplingParams
from machine import describe, emit, output_option
from nano_accuracy import fresh

EXACT: tuple[WeightMode, Precision] = ("native", "exact")
MODES: tuple[tuple[WeightMode, Precision], ...] = (
    EXACT,
    ("native", "fast"),
    ("int8-dense", "exact"),
    ("int8-dense", "fast"),
    ("all-4-bit", "exact"),
    ("all-4-bit", "fast"),
)
PARAMS = SamplingParams(temperature=0.0, max_tokens=512)
Conversation = tuple[list[int], np.ndarray]  # ids, and which of them the model said


def main(arguments: Sequence[str] | None = None) -> int:
    parser = output_option(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--n", type=int, default=50, help="tasks per family and split for the score; 0 = no score")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    exact = abruzzi.load(given.model)
    talks = conversations(exact, given.conversations)
    reference = [log_softmax(exact.logits(ids)) for ids, _ in talks]
    tasks: dict[Split, list[Task]] = {
        s: [t for f in FIRST_FAMILIES for t in fresh(f, s, given.n, set())] for s in SPLITS
    }

    del exact
    rows = []
    for weights, precision in MODES:
        llm = abruzzi.load(given.model, weights=weights, precision=precision)
        cost = distance(llm, talks, reference) if (weights, precision) != EXACT else None
        score = scores(llm, tasks) if given.n else None
        rows.append(
            {
                "weights": weights,
                "precision": precision,
                **sizes(given.model, weights),
                "distance": cost,
                "score": score,
            }
        )
    result = {
        "bench": "weight_modes",
        **describe(threads=llm.runner.threads),  # type: ignore[attr-defined]
        "settings": {"model": given.model, "conversations": given.conversations, "n": given.n, "temperature": 0},
        "tokens_compared": int(sum(said.sum() for _, said in talks)),
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    emit(result, given.out)
    print("\n".join(table(rows)))
    return 0


def conversations(llm: LLM, count: int) -> list[Conversation]:
    """Tasks of all first families and both splits, solved by the model; the whole of what was
    said."""
    found = []
    per = -(-count // (len(SPLITS) * len(FIRST_FAMILIES)))
    # From the far end of the seeds, so that these are not the tasks of the score.
    tasks = [t for s in SPLITS for f in FIRST_FAMILIES for t in list(fresh(f, s, 1000 + per, set()))[1000:]]
    for task in tasks[:count]:
        with task.open_tools() as tools:
            specs = [t.spec for t in tools]
            messages = [Message("user", task.prompt)]
            for event in run(llm, messages, tools, params=PARAMS, limits=Limits(max_steps=12)):
                if isinstance(event, Finish):
                    messages += event.messages
        rendered = tokenizer.render(llm.tokenizer, messages, specs, add_generation_prompt=False)
        # The logits of one token are about the next.
        said = np.array([*rendered.sampled[1:], False], bool)
        found.append((list(rendered.ids), said))
    return found


def distance(llm: LLM, talks: Iterable[Conversation], reference: Iterable[np.ndarray]) -> dict[str, Any]:
    kl, same = [], []
    for (ids, said), p in zip(talks, reference):
        q = log_softmax(llm.logits(ids)).astype(np.float64)
        wide = p.astype(np.float64)
        kl.append((np.exp(wide) * (wide - q)).sum(-1)[said])
        same.append((p.argmax(-1) == q.argmax(-1))[said])
    values = np.concatenate(kl)
    return {
        "kl_mean": float(values.mean()),
        "kl_median": float(np.median(values)),
        "kl_99_percent": float(np.quantile(values, 0.99)),
        "top1_agreement": float(np.concatenate(same).mean()),
    }


def scores(llm: LLM, tasks: dict[Split, list[Task]]) -> dict[str, Any]:
    return {split: summarize(list(run_suite(llm, of, params=PARAMS))) for split, of in tasks.items()}


def sizes(model: str, weights: WeightMode) -> dict[str, float]:
    path = abruzzi.nano_path() if model == "nano" else model
    with open_checkpoint(path) as checkpoint:
        c = checkpoint.config
        tensors = [Stored(checkpoint.tensor(n), checkpoint.stored_dtype(n)) for n in checkpoint.names()]
    return {
        "weights_bytes": loaded_bytes(tensors, weights),
        "bytes_per_token": step_bytes(c, tensors, 0, 1, weights),
    }


def table(rows: list[dict[str, Any]]) -> Iterable[str]:
    yield f"{'weights':10} {'precision':9} {'MB':>6} {'MB/token':>8} {'KL':>8} {'same':>6}  score by split"
    for r in rows:
        d = r["distance"]
        cost = f"{d['kl_mean']:8.1e} {d['top1_agreement']:6.1%}" if d else f"{'-':>8} {'-':>6}"
        score = ", ".join(f"{s} {v['score']:.1%}" for s, v in (r["score"] or {}).items())
        sizes = f"{r['weights_bytes'] / 1e6:6.1f} {r['bytes_per_token'] / 1e6:8.2f}"
        yield f"{r['weights']:10} {r['precision']:9} {sizes} {cost}  {score}"


if __name__ == "__main__":
    raise SystemExit(main())

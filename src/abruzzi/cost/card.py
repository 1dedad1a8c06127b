"""The model card of a checkpoint: README.md with its shape, recipe, ledger, scores and license.

The front matter is what the Hugging Face hub reads (license, tags, scores as model-index). Text
that comes from outside is escaped where it stands in a table; nothing is invented: what is not
given is not written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abruzzi.arch import ModelConfig
from abruzzi.cost.ledger import Ledger
from abruzzi.cost.parameters import parameters


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the evaluation: a share between 0 and 1 with its 95 % interval, over `n`
    questions."""

    suite: str
    score: float
    low: float
    high: float
    n: int
    settings: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.score <= self.high <= 1 or self.n < 1:
            raise ValueError(
                f"{self.suite}: score {self.score} in [{self.low}, {self.high}] over {self.n}; "
                "expected shares 0 <= low <= score <= high <= 1 and at least one question"
            )


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says. license: an SPDX id; recipe, data, limits: paragraphs of Markdown; usage: a
    command line."""

    name: str
    license: str
    summary: str
    recipe: str = ""
    data: str = ""
    limits: str = ""
    usage: str = ""
    language: str = "en"
    base_model: str | None = None
    scores: Sequence[Score] = ()


def model_card(card: Card, config: ModelConfig, ledger: Ledger) -> str:
    """The whole README.md. Raises ValueError for a card without name, license or summary."""
    for name in ("name", "license", "summary"):
        if not getattr(card, name).strip():
            raise ValueError(f"a model card needs a {name}")
    sections = [
        ("", card.summary),
        ("Use", f"```sh\n{card.usage}\n```" if card.usage else ""),
        ("Shape", "\n".join(_table(("", ""), _shape(config)))),
        ("Training", card.recipe),
        ("What it cost", ledger.to_text() if ledger.entries else ""),
        ("Data", card.data),
        ("Evaluation", "\n".join(_table(("suite", "score", "95 % interval", "questions", "settings"), _scores(card)))),
        ("Limits", card.limits),
        ("License", card.license),
    ]
    if not card.scores:
        sections = [s for s in sections if s[0] != "Evaluation"]
    body = [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    return "\n".join(_front_matter(card, config)) + f"\n\n# {card.name}\n\n" + "\n\n".join(body) + "\n"


def _front_matter(card: Card, config: ModelConfig) -> Iterator[str]:
    """YAML, every value written as JSON, which YAML contains."""
    tags = ["abruzzi", config.model_type, "mixture-of-experts", config.ATTENTION_NAME.replace(" ", "-")]
    if config.int4 is not None:
        tags.append("compressed-tensors")
    given = {
        "license": card.license.lower(),  # as the hub spells SPDX ids
        "language": card.language,
        "pipeline_tag": "text-generation",
        "base_model": card.base_model,
        "tags": tags,
        "model-index": [{"name": card.name, "results": [_result(s) for s in card.scores]}] if card.scores else None,
    }
    yield "---"
    yield from (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in given.items() if value is not None)
    yield "---"


def _result(score: Score) -> dict[str, object]:
    metric = {"type": "accuracy", "value": score.score, "name": f"95 % interval {score.low:.4f} to {score.high:.4f}"}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": score.suite, "type": score.suite},
        "metrics": [metric],
    }


def _shape(c: ModelConfig) -> Iterator[tuple[str, ...]]:
    size = parameters(c)
    yield "parameters", f"{size.total:,}, of which a token uses {size.active:,}"
    yield "layers", f"{c.num_hidden_layers}, the first {c.first_k_dense_replace} dense; hidden_size {c.hidden_size}"
    shared = f"{c.n_routed_experts} routed, {c.num_experts_per_tok} per token, {c.n_shared_experts} shared"
    yield "experts", f"{shared}; width {c.moe_intermediate_size}"
    yield "attention", c.attention_text
    yield "context", f"{c.max_position_embeddings:,} tokens"
    yield "vocabulary", f"{c.vocab_size:,}"
    yield "routed experts", f"INT4, groups of {c.int4.group_size}" if c.int4 else "unquantized"


def _scores(card: Card) -> Iterator[tuple[str, ...]]:
    for s in card.scores:
        yield s.suite, f"{s.score:.1%}", f"{s.low:.1%} to {s.high:.1%}", f"{s.n:,}", s.settings


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"

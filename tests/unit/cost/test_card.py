"""The model card, as the hub's own reader sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from abruzzi.arch import Int4Scheme
from abruzzi.cost.card import Card, Score, model_card
from abruzzi.cost.ledger import Entry, Ledger
from abruzzi.cost.published import KIMI_K2

CARD = Card(
    name='nano: "the" smallest',
    license="Apache-2.0",
    summary="It thinks, then calls a tool.",
    recipe="`abruzzi train nano_cpu`",
    limits="Arithmetic in words only.",
    usage="abruzzi run 'What is 17 * 23?'",
    base_model="org/base",
    scores=(Score("word problems", 0.925, 0.9, 0.95, 400, "thinking | tools"), Score("folders", 1.0, 0.99, 1.0, 300)),
)
SPENT = Entry(
    "nano", "2026-11-25T00:00:00Z", "two cores", "core", 2, 5_000_000, 1e15, 7200, 36e4, "estimate: 9 W", 0.04, "x"
)


def test_the_hub_reads_license_base_and_scores() -> None:
    text = model_card(CARD, KIMI_K2.with_int4(Int4Scheme()), Ledger([SPENT]))
    read = ModelCard(text)
    data = read.data
    assert (data.license, data.base_model, data.language) == ("apache-2.0", "org/base", "en")
    assert data.pipeline_tag == "text-generation" and {"kimi_k2", "compressed-tensors"} <= set(data.tags or ())
    assert data.model_name == CARD.name
    assert data.eval_results is not None
    found = {r.dataset_name: (r.metric_type, r.metric_value) for r in data.eval_results}
    assert found == {"word problems": ("accuracy", 0.925), "folders": ("accuracy", 1.0)}
    for part in (
        "| parameters | 1,026,408,232,448, of which a token uses 32,861,",
        "INT4, groups of 32",
        r"| word problems | 92.5% | 90.0% to 95.0% | 400 | thinking \| tools |",
        "tokens: 5,000,000",
        "4.00 core-hours on two cores",
        "(estimate: 9 W)",
        "## Limits\n\nArithmetic",
    ):
        assert part in read.text, part
    assert read.text.lstrip().startswith("# nano")


def test_what_is_not_given_is_not_written() -> None:
    bare = model_card(Card("m", "mit", "A model."), KIMI_K2, Ledger())
    for title in ("Evaluation", "What it cost", "Limits", "Data", "Use", "model-index", "base_model"):
        assert title not in bare
    assert "unquantized" in bare
    with pytest.raises(ValueError, match="needs a license"):
        model_card(replace(CARD, license=" "), KIMI_K2, Ledger())
    with pytest.raises(ValueError, match="expected shares"):
        Score("percent", 92.5, 90, 95, 10)

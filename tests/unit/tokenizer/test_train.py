"""Vocabularies of our own: every text comes back, digits stand alone, spelled words look alike
everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.tokenizer import ChatDefaults, Tokenizer, from_json
from abruzzi.tokenizer.train import CONTROL_TOKENS, train_bpe, train_words

TEXTS = [f'Mia buys {n} apples. {{"query": "Mia"}} people/mia.txt <|im_end|> The box is full.' for n in range(30)]
KINDS = {"bpe": train_bpe(TEXTS, 300), "words": train_words(TEXTS, 285, spelled={"mia"})}


def tokenizer(kind: str) -> Tokenizer:
    return from_json(KINDS[kind], ChatDefaults())


@pytest.mark.parametrize("kind", KINDS)
@given(st.text() | st.sampled_from(TEXTS))
def test_any_text_comes_back_and_none_is_control(kind: str, text: str) -> None:
    tok = tokenizer(kind)
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert not tok.control_ids.intersection(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_digits_stand_alone_and_the_size_is_exact(kind: str) -> None:
    tok = tokenizer(kind)
    assert [tok.decode([i]) for i in tok.encode("345 12")] == ["3", "4", "5", " ", "1", "2"]
    assert all(len(tok.decode([i])) == 1 for i in tok.encode("90210"))
    assert tok.vocab_size == (300 if kind == "bpe" else 285)
    assert tok.control.keys() == set(CONTROL_TOKENS)


def test_frequent_words_are_whole_and_the_rest_is_spelled_alike_everywhere() -> None:
    tok = tokenizer("words")
    assert len(tok.encode(" apples")) == 1
    name = tok.encode("Zoe")
    assert len(name) == 3
    for before in (" ", '"', "/", "people/", "The box. "):
        assert tok.encode(before + "Zoe")[-3:] == name
    # Names are spelled however often they occur, in either case.
    assert len(tok.encode("Mia")) == 3 and len(tok.encode("mia")) == 3 and len(tok.encode(" Mia")) == 4
    assert len(from_json(train_words(TEXTS, 285, spelled={"apples"}), ChatDefaults()).encode(" apples")) == 7


def test_the_vocabulary_is_the_same_in_every_process() -> None:
    """Sets of strings have another order in every process; ties must not follow it."""
    code = "from tests.unit.tokenizer.test_train import KINDS; import json; print(json.dumps(KINDS))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert json.loads(done.stdout) == KINDS


@pytest.mark.parametrize("train", [train_bpe, train_words])
def test_sizes_that_cannot_be_are_named(train: object) -> None:
    with pytest.raises(ValueError, match=r"vocab_size=200 .* at least 272"):
        train(TEXTS, 200)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"expected 4984; hint"):
        train(TEXTS, 5000)  # type: ignore[operator]

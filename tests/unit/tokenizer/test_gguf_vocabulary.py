"""A GGUF file's vocabulary as a tokenizer: kinds of tokens, splits by name, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from abruzzi.tokenizer import from_gguf, from_json
from abruzzi.tokenizer.gguf_vocabulary import default_system, tokenizer_json
from tests import tiny

TEMPLATE = "{% if x %}{{ '<|im_start|>system\nBe nice.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role']}}"


def metadata(**changes: Any) -> dict[str, Any]:
    """Of the vocabulary that tests share, as a converter would write it."""
    data = json.loads(tiny.vocabulary().to_json())
    control = {t["id"]: t["content"] for t in data["added_tokens"]}
    by_id = {i: t for t, i in data["model"]["vocab"].items()} | control
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [by_id[i] for i in range(len(by_id))],
        "tokenizer.ggml.token_type": np.array([3 if i in control else 1 for i in range(len(by_id))], np.int32),
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def test_it_is_the_tokenizer_whose_file_it_came_from() -> None:
    there = from_json(tiny.vocabulary().to_json())
    here = from_gguf(metadata())
    assert here.control == there.control and here.format is there.format
    for text in ("Mia has 12 marbles.", "12345 the quick\n\nbrown  fox", "日本語 🙂 é", "<|im_end|>"):
        assert here.decode(here.encode(text)) == text
        assert here.control_ids.isdisjoint(here.encode(text))


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["7", "8", "9", " cats", "'s"]),
        ("qwen2", ["7", "8", "9", " cats", "'s"]),
        ("llama-bpe", ["789", " cats", "'s"]),
        ("glm4", ["789", " cats", "'s"]),
        ("deepseek-v3", ["789", " cats", "'s"]),
        ("kimi-k2", ["789", " cats's"]),
        ("gpt-4o", ["789", " cats's"]),
    ],
)
def test_text_is_split_as_the_name_says(pre: str, pieces: list[str]) -> None:
    from tokenizers import Tokenizer as Library

    data = tokenizer_json(metadata(pre=pre))
    vocabulary = {c: i for i, c in enumerate(sorted({c for t in data["model"]["vocab"] for c in t}))}
    letters = {"type": "BPE", "vocab": vocabulary, "merges": []}
    library = Library.from_str(json.dumps({"version": "1.0", **data, "added_tokens": [], "model": letters}))
    found = library.pre_tokenizer.pre_tokenize_str("789 cats's")
    assert [text.replace("Ġ", " ") for text, _ in found] == pieces


def test_qwens_text_is_composed_and_others_is_kept() -> None:
    apart, composed = "e\u0301", "é"
    assert from_gguf(metadata(pre="qwen2")).encode(apart) == from_gguf(metadata(pre="qwen2")).encode(composed)
    assert from_gguf(metadata()).encode(apart) != from_gguf(metadata()).encode(composed)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model 'llama' is not supported; expected 'gpt2'"),
        ({"pre": "viking"}, "tokenizer.ggml.pre 'viking' is not known; expected one of smollm"),
        ({"merges": None}, "missing or do not fit"),
        ({"token_type": np.ones(3)}, "missing or do not fit"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_gguf(metadata(**changes), "m.gguf")


def test_the_default_system_line_is_the_templates() -> None:
    assert default_system(TEMPLATE) == "Be nice."
    assert default_system("{{'<|im_start|>' + message['role']}}") == ""
    assert default_system("[INST] {{ x }}") is None and default_system(None) is None

"""A GGUF file's vocabulary as the content of a tokenizer.json.

Tokens, merges and kinds lie in the file; how text is split before merging is only named there
(`tokenizer.ggml.pre`), so the patterns of the names stand here. Source: the tokenizers of the
families, and llama.cpp's list of names; its test vectors are the oracle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from abruzzi.tokenizer.backends import KIMI_PATTERN

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_REFETCH = "hint: the file is damaged, fetch it again"

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = (r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+")


def _words(digits: str) -> str:
    """Letters with one sign before them, digits, signs, line ends, white space: GPT-4's split."""
    letters = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    return "|".join((_ENDINGS, letters, digits, r" ?[^\s\p{L}\p{N}]+[\r\n]*", *_REST))


_GPT4 = _words(r"\p{N}{1,3}")
_QWEN2 = _words(r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?",
        *(r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", *_REST),
    )
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "|".join(
        (
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
            r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
            r" ?[\p{P}\p{S}]+[\r\n]*",
            *_REST,
        )
    ),
)
# By `tokenizer.ggml.pre`: the patterns in their order; () = GPT-2's own, with single digits before it.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "smollm": (),
    "llama-bpe": (_GPT4,),
    "qwen2": (_QWEN2,),
    "glm4": (_GPT4,),
    "chatglm-bpe": (_GPT4,),
    "deepseek-v3": _DEEPSEEK_V3,
    "kimi-k2": (KIMI_PATTERN,),
    "gpt-4o": (_GPT4O,),
}
_WHOLE_FIRST = ("llama-bpe", "kimi-k2", "gpt-4o")  # a piece that is a token is not merged up to it
_COMPOSED = ("qwen2",)  # NFC, which the file does not say


def tokenizer_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json's content. Raises ValueError that names the key for a vocabulary of another kind
    (SentencePiece, WordPiece), an unknown split, and tables that do not fit."""
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2":
        raise ValueError(f"tokenizer.ggml.model {model!r:.40} is not supported; expected 'gpt2', byte-level BPE")
    if pre not in _PATTERNS:
        raise ValueError(f"tokenizer.ggml.pre {pre!r:.40} is not known; expected one of {', '.join(_PATTERNS)}")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(merges, list) or kinds is None or len(kinds) != len(tokens):
        raise ValueError(f"tokenizer.ggml.tokens, merges and token_type are missing or do not fit; {_REFETCH}")
    added = {_CONTROL: True, _USER_DEFINED: False}
    return {
        "added_tokens": [
            {"id": i, "content": token, "special": added[kind]}
            for i, (token, kind) in enumerate(zip(tokens, map(int, kinds)))
            if kind in added
        ],
        "normalizer": {"type": "NFC"} if pre in _COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _splits(pre)},
        "post_processor": None,
        "decoder": _byte_level(False),
        "model": {
            "type": "BPE",
            "vocab": {t: i for i, (t, kind) in enumerate(zip(tokens, kinds)) if kind not in (*added, _UNUSED)},
            "merges": [merge.split(" ", 1) for merge in merges],
            "ignore_merges": pre in _WHOLE_FIRST,
        },
    }


def default_system(template: Any) -> str | None:
    """The system line that a ChatML template puts in front of a conversation without one; "" where it
    has none, None for a template of another kind."""
    if not isinstance(template, str) or "im_start" not in template:
        return None
    found = re.search(r"im_start\|>system\n([^{}<]+)<\|im_end", template)
    return found[1] if found else ""


def _splits(pre: str) -> list[dict[str, Any]]:
    patterns = _PATTERNS[pre]
    if not patterns:
        return [{"type": "Digits", "individual_digits": True}, _byte_level(True)]
    return [
        *({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns),
        _byte_level(False),
    ]


def _byte_level(split: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": split}

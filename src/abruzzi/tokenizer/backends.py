"""The two sources of learned tokens: a `tokenizer.json` (library tokenizers) and Kimi's
`tiktoken.model`.

Both know learned tokens only. Control tokens are taken out of the vocabulary and out of the merges
before the library sees them, so no text can become one. Only byte-level BPE is supported, and of it
only what keeps every character of a text: so every text is encodable and decoding gives it back (in
its composed form, where the tokenizer says NFC).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Protocol

# Kimi's split pattern (k2.md 5.1): Han runs; letters without Han, with an English contraction; one
# to three digits; punctuation; line ends; other white space.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_BEFORE, _AFTER = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# Bytes that a vocabulary may lack, and a regular expression's class of the characters that need them:
# "" where no character does.
_SELDOM = {
    **{b: re.escape(chr(b)) for b in (*range(32), 127) if chr(b) not in "\t\n\r"},
    **dict.fromkeys((0xC0, 0xC1, *range(0xF5, 0x100)), ""),
    **{0xF1: "\U00040000-\U0007ffff", 0xF2: "\U00080000-\U000bffff"},
    **{0xF3: "\U000c0000-\U000fffff", 0xF4: "\U00100000-\U0010ffff"},
}
KIMI_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        f"{_BEFORE}{_UPPER}*{_LOWER}+{_AFTER}",
        f"{_BEFORE}{_UPPER}+{_LOWER}*{_AFTER}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# Characters from which on the library is asked for a batch of one: only batches run without the
# interpreter's lock.
LONG_TEXT = 10_000
_REFETCH = "hint: the file is damaged or of another kind; fetch it again"


class Backend(Protocol):
    """Learned tokens only: no control tokens. top_id: the largest id. longest: the bytes of the
    longest token."""

    top_id: int
    longest: int

    @property
    def ids(self) -> Set[int]: ...
    def encode(self, text: str) -> list[int]: ...
    def token_bytes(self, token_id: int) -> bytes | None: ...
    def to_json(self, control: Mapping[str, int], visible: frozenset[str]) -> str: ...


class JsonBackend:
    """tokenizer.json with its added tokens taken out of reach of text.

    added: (text, id, whether it is flagged special) of every added token."""

    def __init__(self, data: Any, where: str) -> None:
        self._data = data
        self.added = _added_tokens(data, where)
        model = _supported_model(data, where)
        controls = {content for content, _, _ in self.added}
        self._token_of = _tokens_by_id(model, controls, where)
        taken = {i for _, i, _ in self.added} & self._token_of.keys()
        if taken:
            raise ValueError(f"{where}: id {min(taken)} is a control token and a learned token; {_REFETCH}")
        self.top_id = max(self._token_of)
        self.longest = max(map(len, self._token_of.values()))  # a stand-in character is a byte
        self._unspellable = _unspellable(set("".join(self._token_of.values())))
        self._library = _library_of(data, model, controls, where)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, learned tokens only. A character that the vocabulary has no bytes for (some
        lack control characters that nobody writes) becomes U+FFFD, as bytes that are no character do;
        the library would make it the unknown token, which is a control token."""
        if self._unspellable is not None:
            text = self._unspellable.sub("\ufffd", text)
        if len(text) > LONG_TEXT:
            return self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return self._library.encode(text, add_special_tokens=False).ids

    @property
    def ids(self) -> Set[int]:
        return self._token_of.keys()

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes of a learned token; None for other ids."""
        token = self._token_of.get(token_id)
        return None if token is None else bytes(_BYTE_OF_CHAR[c] for c in token)

    def to_json(self, control: Mapping[str, int], visible: frozenset[str]) -> str:
        """The file as it was read."""
        return json.dumps(self._data, ensure_ascii=False)


class TiktokenBackend:
    """Ranks under Kimi's pattern. Nothing is downloaded: the library gets pattern and ranks from
    us."""

    def __init__(self, ranks: Mapping[bytes, int]) -> None:
        import tiktoken

        self._ranks = dict(ranks)
        self._encoding = tiktoken.Encoding("kimi", pat_str=KIMI_PATTERN, mergeable_ranks=self._ranks, special_tokens={})
        self._bytes_of = {i: b for b, i in self._ranks.items()}
        self.top_id = len(self._ranks) - 1
        self.longest = max(map(len, self._ranks))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, learned tokens only."""
        return self._encoding.encode_ordinary(text)

    @property
    def ids(self) -> Set[int]:
        return self._bytes_of.keys()

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes of a learned token; None for other ids."""
        return self._bytes_of.get(token_id)

    def to_json(self, control: Mapping[str, int], visible: frozenset[str]) -> str:
        """An equivalent tokenizer.json.

        tiktoken takes a piece that is a token as it is (`ignore_merges`), and else joins whichever
        neighbours form the lowest rank; so every split of a token into two tokens is a merge,
        ordered by the rank of what it makes."""
        ranks = self._ranks
        spelled = {b: "".join(_CHAR_OF_BYTE[x] for x in b) for b in ranks}
        merges: list[list[str]] = []
        for token in sorted(ranks, key=ranks.__getitem__):
            splits = ((token[:at], token[at:]) for at in range(1, len(token)))
            known = [(a, b) for a, b in splits if a in ranks and b in ranks]
            known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
            merges += [[spelled[a], spelled[b]] for a, b in known]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": KIMI_PATTERN}, "behavior": "Isolated", "invert": False}
        by_id = sorted(control.items(), key=lambda item: item[1])
        return json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [_added_token(text, i, text not in visible) for text, i in by_id],
                "normalizer": None,
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
                "post_processor": None,
                "decoder": byte_level,
                "model": {
                    **{"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None},
                    **{"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True},
                    "vocab": {spelled[b]: i for b, i in ranks.items()},
                    "merges": merges,
                },
            },
            ensure_ascii=False,
        )


def read_ranks(file: Path) -> dict[bytes, int]:
    """The lines `base64 rank` of a tiktoken file. Raises ValueError for a damaged one."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"{file}:{number} is not 'base64 rank'; {_REFETCH}") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{file}: its {len(ranks)} ranks are not 0, 1, 2, ... each once; {_REFETCH}")
    lacking = [b for b in range(256) if bytes([b]) not in ranks]
    if lacking:
        raise ValueError(f"{file}: lacks {len(lacking)} of the 256 bytes (first: {lacking[0]}); {_REFETCH}")
    return ranks


def _added_token(content: str, token_id: int, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": content, **flags}


def _added_tokens(data: Any, where: str) -> list[tuple[str, int, bool]]:
    given = (data.get("added_tokens") or []) if isinstance(data, dict) else []
    if not isinstance(given, list):
        raise ValueError(f"{where}: added_tokens must be a list, got {type(given).__name__}; {_REFETCH}")
    found: dict[str, tuple[str, int, bool]] = {}
    for token in given:
        content, token_id = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(content, str) or not content or type(token_id) is not int or token_id < 0:
            raise ValueError(f"{where}: added token {token!r:.80} has no content and id; {_REFETCH}")
        greedy = [flag for flag in ("single_word", "lstrip", "rstrip") if token.get(flag)]
        if greedy:
            raise ValueError(f"{where}: added token {content!r} with {greedy[0]}=true is not supported; expected false")
        if content in found:
            raise ValueError(f"{where}: added token {content!r} is there twice; {_REFETCH}")
        found[content] = (content, token_id, bool(token.get("special")))
    if len({i for _, i, _ in found.values()}) != len(found):
        raise ValueError(f"{where}: two added tokens share an id; {_REFETCH}")
    return list(found.values())


def _supported_model(data: Any, where: str) -> dict[str, Any]:
    model = data.get("model") if isinstance(data, dict) else None
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise ValueError(
            f"{where}: model type {kind!r} is not supported; expected byte-level 'BPE'; "
            "hint: this project runs Kimi's family and its own tokenizers"
        )
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise ValueError(f"{where}: model.{key}={model[key]!r} is not supported; expected byte-level BPE without")
    normalizer = data.get("normalizer")
    if not _keeps_text(normalizer) and not _canonical(normalizer):
        kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
        raise ValueError(f"{where}: normalizer {kind!r} changes text and is not supported; expected none or NFC")
    kinds = _pre_tokenizers(data.get("pre_tokenizer"))
    odd = [k for k in kinds if k not in ("ByteLevel", "Split", "Digits")]
    if odd or "ByteLevel" not in kinds:
        named = ", ".join(odd or kinds) or "none"
        raise ValueError(f"{where}: pre-tokenizer {named} is not supported; expected byte-level splits that keep text")
    return model


def _keeps_text(normalizer: Any) -> bool:
    """Whether it is none: null, or a sequence of nothing."""
    if not isinstance(normalizer, dict) or normalizer.get("type") != "Sequence":
        return normalizer is None
    steps = normalizer.get("normalizers")
    return isinstance(steps, list) and all(map(_keeps_text, steps))


def _canonical(normalizer: Any) -> bool:
    """Whether it writes characters in their composed form (NFC) and does nothing else: equal text by
    Unicode's own rule, as all tokenizers of Qwen have it."""
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers")
        return isinstance(steps, list) and all(_keeps_text(step) or _canonical(step) for step in steps)
    return isinstance(normalizer, dict) and normalizer.get("type") == "NFC"


def _pre_tokenizers(given: Any) -> list[str]:
    """Kinds of pre-tokenizers, in order; those that would add or drop text bear it in their
    name."""
    if not isinstance(given, dict):
        return [] if given is None else [repr(given)[:40]]
    kind = str(given.get("type"))
    if kind == "Sequence":
        parts = given.get("pretokenizers")
        return [k for part in parts for k in _pre_tokenizers(part)] if isinstance(parts, list) else [kind]
    if kind == "ByteLevel" and given.get("add_prefix_space"):
        return ["ByteLevel with add_prefix_space"]
    if kind == "Split" and given.get("behavior") == "Removed":
        return ["Split with behavior Removed"]
    return [kind]


def _tokens_by_id(model: dict[str, Any], controls: set[str], where: str) -> dict[int, str]:
    """id -> token, in stand-in characters, of the learned tokens."""
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or any(type(i) is not int or i < 0 for i in vocab.values()):
        raise ValueError(f"{where}: model.vocab must map tokens to ids; {_REFETCH}")
    learned = {token: i for token, i in vocab.items() if token not in controls}
    lacking = [b for b, char in _CHAR_OF_BYTE.items() if char not in learned and b not in _SELDOM]
    if lacking:
        raise ValueError(
            f"{where}: the vocabulary lacks {len(lacking)} of the 256 bytes (first: {lacking[0]}), so some text has "
            "no ids; expected byte-level BPE over all bytes"
        )
    foreign = set("".join(learned)) - _BYTE_OF_CHAR.keys()
    if foreign or "" in learned:
        raise ValueError(f"{where}: a token holds {min(foreign, default='')!r}, no byte's character; {_REFETCH}")
    tokens = {i: token for token, i in learned.items()}
    if len(tokens) != len(learned):
        raise ValueError(f"{where}: {len(learned) - len(tokens)} tokens share an id with another; {_REFETCH}")
    return tokens


def _unspellable(characters: Set[str]) -> re.Pattern[str] | None:
    """The characters whose bytes a vocabulary of these stand-ins lacks; None where it has all."""
    classes = [_SELDOM[b] for b, char in _CHAR_OF_BYTE.items() if b in _SELDOM and char not in characters]
    found = "".join(filter(None, classes))
    return re.compile(f"[{found}]") if found else None


def _library_of(data: dict[str, Any], model: dict[str, Any], controls: set[str], where: str) -> Any:
    from tokenizers import Tokenizer as Library

    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ValueError(f"{where}: model.merges must be a list; {_REFETCH}")
    kept = []
    for merge in merges:
        pair = merge if isinstance(merge, list) else merge.split(" ", 1) if isinstance(merge, str) else ()
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"{where}: merge {merge!r:.60} is not a pair of tokens; {_REFETCH}")
        # A merge that spells a control token, or builds on one, would be a way from text to it.
        if controls.isdisjoint((*pair, pair[0] + pair[1])):
            kept.append(pair)
    vocab = {token: i for token, i in model["vocab"].items() if token not in controls}
    stripped = {
        **data,
        **{"added_tokens": [], "post_processor": None, "truncation": None, "padding": None},
        "model": {**model, "unk_token": None, "vocab": vocab, "merges": kept},
    }
    try:
        return Library.from_str(json.dumps(stripped))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{where} cannot be read: {error}; {_REFETCH}") from None


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes: themselves where they print, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


_CHAR_OF_BYTE = _byte_characters()
_BYTE_OF_CHAR = {c: b for b, c in _CHAR_OF_BYTE.items()}

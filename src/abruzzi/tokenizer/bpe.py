"""Text <-> token ids, over `tokenizer.json` (library tokenizers) or Kimi's `tiktoken.model` (tiktoken).

Text can never become a control token: both backends encode with a vocabulary from which control tokens
were taken out, and only an explicit `allow_special=True` reads control strings in text. Byte-level BPE
only, so that every text is encodable and decode(encode(text)) == text.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Kimi's split pattern (k2.md 5.1): Han runs; letters without Han, with an English contraction; one to
# three digits; punctuation; line ends; other white space.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_BEFORE, _AFTER = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
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
KIMI_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
KIMI_CONTROL_IDS = 256  # reserved behind the learned ranks
# Kimi's tokenizer cuts very long texts before the pattern sees them (k2.md 5.1).
MAX_CHARS, MAX_RUN = 400_000, 25_000
END_TOKENS = ("<|im_end|>", "[EOS]", "[EOT]")


@dataclass(frozen=True, slots=True)
class ChatDefaults:
    """What a checkpoint fixes about its chat format; kept in tokenizer_config.json under "abruzzi".

    system: the line that stands first when a conversation brings none ("" = none). preserve_thinking:
    whether thinking stays in the history once a final answer exists. cut_long_runs: Kimi's cuts."""

    system: str = KIMI_SYSTEM
    preserve_thinking: bool = False
    cut_long_runs: bool = True


class Backend(Protocol):
    """Learned tokens only: no control tokens."""

    def encode(self, text: str) -> list[int]: ...
    def token_bytes(self, token_id: int) -> bytes | None: ...
    def to_json(self, control: Mapping[str, int], visible: frozenset[str]) -> str: ...


class Tokenizer:
    """Ids of learned tokens and of control tokens, never confused.

    control: text -> id of every control token. visible: those that are not flagged special."""

    def __init__(
        self,
        backend: Backend,
        control: Mapping[str, int],
        vocab_size: int,
        visible: frozenset[str] = frozenset(),
        defaults: ChatDefaults = ChatDefaults(),
    ) -> None:
        self._backend = backend
        self.control = dict(control)
        self.visible = visible
        self.vocab_size = vocab_size
        self.defaults = defaults
        self.control_ids = frozenset(self.control.values())
        self.end_ids = frozenset(self.control[t] for t in END_TOKENS if t in self.control)
        self._text_of = {i: t for t, i in self.control.items()}
        self._bytes: dict[int, bytes] = {}
        longest_first = sorted(self.control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __deepcopy__(self, _: Any) -> Tokenizer:
        return self  # immutable in use; parsers that are copied share it

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Ids of a text. Control strings in it stay text unless `allow_special`.

        Raises ValueError for text that is not valid Unicode (lone surrogates)."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text holds a lone surrogate at {error.start}; hint: decode it with errors='replace'"
            ) from None
        if not allow_special:
            return self._encode_text(text)
        ids, at = [], 0
        for hit in self._control_pattern.finditer(text):
            ids += self._encode_text(text[at : hit.start()])
            ids.append(self.control[hit.group()])
            at = hit.end()
        return ids + self._encode_text(text[at:])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control tokens by their name, bytes that are no UTF-8 as U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token. Raises ValueError for an id outside the vocabulary."""
        known = self._bytes.get(token_id)
        if known is None:
            text = self._text_of.get(token_id)
            known = text.encode("utf-8") if text is not None else self._backend.token_bytes(token_id)
            if known is None:
                raise ValueError(f"token id {token_id} is not in this vocabulary of {self.vocab_size}")
            self._bytes[token_id] = known
        return known

    def id_of(self, control_text: str) -> int | None:
        """The id of a control token; None when this tokenizer lacks it."""
        return self.control.get(control_text)

    def to_json(self) -> str:
        """An equivalent tokenizer.json."""
        return self._backend.to_json(self.control, self.visible)

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            return []
        if not self.defaults.cut_long_runs or len(text) <= MAX_RUN:
            return self._backend.encode(text)
        return [i for piece in _cut(text) for i in self._backend.encode(piece)]


def load(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, else tiktoken.model.

    Raises FileNotFoundError or ValueError with the path and a hint."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder}; hint: give the directory that holds tokenizer.json")
    settings = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    defaults = _defaults(folder, settings)
    if (folder / "tokenizer.json").is_file():
        return _load_json(folder / "tokenizer.json", defaults)
    if (folder / "tiktoken.model").is_file():
        return _load_tiktoken(folder / "tiktoken.model", settings, defaults)
    raise FileNotFoundError(f"{folder} holds neither tokenizer.json nor tiktoken.model; hint: download not complete?")


def from_json(text: str, defaults: ChatDefaults = ChatDefaults(), where: str = "tokenizer.json") -> Tokenizer:
    """A tokenizer from the content of a tokenizer.json. Raises ValueError that says what is unsupported."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}; hint: fetch it again") from None
    backend = _JsonBackend(data, where)
    added = [(t["content"], t["id"], bool(t.get("special"))) for t in data.get("added_tokens") or []]
    control = {content: token_id for content, token_id, _ in added}
    visible = frozenset(content for content, _, special in added if not special)
    top = max((*control.values(), *backend.vocab.values()), default=-1)
    return Tokenizer(backend, control, top + 1, visible, defaults)


class _JsonBackend:
    """tokenizer.json with its added tokens taken out of reach of text."""

    def __init__(self, data: Any, where: str) -> None:
        from tokenizers import Tokenizer as Library

        model = data.get("model") if isinstance(data, dict) else None
        if not isinstance(model, dict) or model.get("type") != "BPE":
            kind = model.get("type") if isinstance(model, dict) else None
            raise ValueError(f"{where}: model type {kind!r} is not supported; expected byte-level 'BPE'")
        if data.get("normalizer") is not None:
            raise ValueError(f"{where}: a normalizer ({data['normalizer'].get('type')!r}) changes text; expected none")
        if not _has_byte_level(data.get("pre_tokenizer")):
            raise ValueError(f"{where}: the pre-tokenizer is not byte-level; only byte-level BPE is supported")
        self._data = data
        controls = {t["content"] for t in data.get("added_tokens") or []}
        # With `ignore_merges`, or a merge that spells it, text could still become a control token.
        self.vocab: dict[str, int] = {t: i for t, i in model["vocab"].items() if t not in controls}
        merges = [m for m in model["merges"] if "".join(m if isinstance(m, list) else m.split(" ", 1)) not in controls]
        lacking = [b for b, char in _CHAR_OF_BYTE.items() if char not in self.vocab]
        if lacking:
            raise ValueError(f"{where}: the vocabulary lacks {len(lacking)} of the 256 bytes (first: {lacking[0]})")
        stripped = {
            **data,
            "added_tokens": [],
            "post_processor": None,
            "truncation": None,
            "padding": None,
            "model": {**model, "vocab": self.vocab, "merges": merges},
        }
        try:
            self._library = Library.from_str(json.dumps(stripped))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{where} cannot be read: {error}; hint: fetch it again") from None
        self._token_of = {i: t for t, i in self.vocab.items()}

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def token_bytes(self, token_id: int) -> bytes | None:
        token = self._token_of.get(token_id)
        if token is None:
            return None
        return bytes(_BYTE_OF_CHAR[c] for c in token)

    def to_json(self, control: Mapping[str, int], visible: frozenset[str]) -> str:
        return json.dumps(self._data, ensure_ascii=False)


class _TiktokenBackend:
    """Kimi's ranks under Kimi's pattern."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        import tiktoken

        self._ranks = ranks
        self._encoding = tiktoken.Encoding("kimi", pat_str=KIMI_PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._bytes_of = {i: b for b, i in ranks.items()}

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def token_bytes(self, token_id: int) -> bytes | None:
        return self._bytes_of.get(token_id)

    def to_json(self, control: Mapping[str, int], visible: frozenset[str]) -> str:
        """tiktoken joins whichever neighbours form the lowest rank; so every split of a token into two
        known tokens is a merge, ordered by the rank of what it makes."""
        spelled = {b: "".join(_CHAR_OF_BYTE[x] for x in b) for b in self._ranks}
        merges = []
        for token in sorted(self._ranks, key=self._ranks.__getitem__):
            if len(token) == 1:
                continue
            splits = [(token[:at], token[at:]) for at in range(1, len(token))]
            known = [(a, b) for a, b in splits if a in self._ranks and b in self._ranks]
            known.sort(key=lambda pair: (self._ranks[pair[0]], self._ranks[pair[1]]))
            merges += [[spelled[a], spelled[b]] for a, b in known]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": KIMI_PATTERN}, "behavior": "Isolated", "invert": False}
        return json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [
                    _added_token(t, i, t not in visible) for t, i in sorted(control.items(), key=lambda p: p[1])
                ],
                "normalizer": None,
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
                "post_processor": None,
                "decoder": byte_level,
                "model": {
                    "type": "BPE",
                    "dropout": None,
                    "unk_token": None,
                    "continuing_subword_prefix": None,
                    "end_of_word_suffix": None,
                    "fuse_unk": False,
                    "byte_fallback": False,
                    "ignore_merges": False,
                    "vocab": {spelled[b]: i for b, i in self._ranks.items()},
                    "merges": merges,
                },
            },
            ensure_ascii=False,
        )


def _added_token(content: str, token_id: int, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": content, **flags}


def _load_json(file: Path, defaults: ChatDefaults) -> Tokenizer:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}; hint: fetch it again") from None
    return from_json(text, defaults, str(file))


def _load_tiktoken(file: Path, settings: dict[str, Any], defaults: ChatDefaults) -> Tokenizer:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"{file}:{number} is not 'base64 rank'; hint: truncated? fetch it again") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([b]) not in ranks for b in range(256)):
        raise ValueError(f"{file} holds {len(ranks)} ranks that are not 0..n-1 with all bytes; hint: truncated?")
    control = {f"<|reserved_token_{i}|>": i for i in range(len(ranks), len(ranks) + KIMI_CONTROL_IDS)}
    names = {i: t for t, i in control.items()}
    visible = set()
    for key, token in (settings.get("added_tokens_decoder") or {}).items():
        if not key.isdigit() or int(key) not in names or not isinstance(token.get("content"), str):
            raise ValueError(f"{file.parent}/tokenizer_config.json: added token {key!r} is not one of the reserved ids")
        names[int(key)] = token["content"]
        if not token.get("special"):
            visible.add(token["content"])
    control = {t: i for i, t in names.items()}
    return Tokenizer(_TiktokenBackend(ranks), control, len(ranks) + KIMI_CONTROL_IDS, frozenset(visible), defaults)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}; hint: fetch it again") from None
    if not isinstance(given, dict):
        raise ValueError(f"{file} holds no JSON object; hint: fetch it again")
    return given


def _defaults(folder: Path, settings: dict[str, Any]) -> ChatDefaults:
    own = settings.get("abruzzi")
    if own is None:
        return ChatDefaults()
    try:
        return ChatDefaults(**own)
    except TypeError:
        raise ValueError(f"{folder}/tokenizer_config.json: 'abruzzi' is {own!r}; expected the chat defaults") from None


def _has_byte_level(pre_tokenizer: Any) -> bool:
    if not isinstance(pre_tokenizer, dict):
        return False
    if pre_tokenizer.get("type") == "ByteLevel":
        return not pre_tokenizer.get("add_prefix_space")
    return any(_has_byte_level(p) for p in pre_tokenizer.get("pretokenizers") or [])


def _cut(text: str) -> Iterator[str]:
    """Kimi's cuts: 400,000 characters at most, and runs of (non-)space of 25,000 at most."""
    for start in range(0, len(text), MAX_CHARS):
        piece = text[start : start + MAX_CHARS]
        begin, run = 0, 0
        space = piece[0].isspace()
        for at, char in enumerate(piece):
            if char.isspace() != space:
                run, space = 1, not space
            else:
                run += 1
                if run > MAX_RUN:
                    yield piece[begin:at]
                    begin, run = at, 1
        yield piece[begin:]


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes: themselves where they print, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


_CHAR_OF_BYTE = _byte_characters()
_BYTE_OF_CHAR = {c: b for b, c in _CHAR_OF_BYTE.items()}

"""Text <-> token ids: one class over `tokenizer.json` and over Kimi's `tiktoken.model`.

Text can never become a control token: the backends do not know control tokens, and only an explicit
`allow_special=True` reads control strings in text. decode(encode(text)) == text for every text.
Not here: the chat format (formats/), which is only looked up, and training a vocabulary (train.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from abruzzi.tokenizer.backends import Backend, JsonBackend, TiktokenBackend, read_ranks
from abruzzi.tokenizer.formats.choose import format_of
from abruzzi.tokenizer.formats.format import ChatFormat, MarkerIds, resolve
from abruzzi.tokenizer.gguf_vocabulary import default_system, tokenizer_json

KIMI_CONTROL_IDS = 256  # reserved behind the learned ranks
# Kimi's tokenizer cuts very long texts before the pattern sees them (k2.md 5.1).
MAX_CHARS, MAX_RUN = 400_000, 25_000


@dataclass(frozen=True, slots=True)
class ChatDefaults:
    """What a checkpoint fixes about its chat format; kept in tokenizer_config.json under "abruzzi".

    system: the line that stands first when a conversation brings none ("" = none; None = the chat
    format's, which a Tokenizer fills in).
    preserve_thinking: whether thinking stays in the history once a final answer exists.
    cut_long_runs: Kimi's cuts. The defaults are Kimi's."""

    system: str | None = None
    preserve_thinking: bool = False
    cut_long_runs: bool = True


class Tokenizer:
    """Ids of learned tokens and of control tokens, never confused. Immutable in use.

    control: text -> id of every control token. visible: those that are not flagged special.
    vocab_size: the largest id + 1. format: None = the one whose control tokens are there.
    model_size: ids below it that have no token decode to nothing, as in a model whose vocabulary is
    padded (`padded`). end_ids: those that end a turn. Raises ValueError when an id is both learned
    and control."""

    def __init__(
        self,
        backend: Backend,
        control: Mapping[str, int],
        vocab_size: int,
        visible: frozenset[str] = frozenset(),
        defaults: ChatDefaults = ChatDefaults(),
        format: ChatFormat | None = None,
        model_size: int = 0,
    ) -> None:
        self._backend = backend
        self._model_size = model_size
        self.control = dict(control)
        self.visible = visible
        self.vocab_size = vocab_size
        self.control_ids = frozenset(self.control.values())
        self.format = format_of(self.control) if format is None else format
        self.defaults = replace(defaults, system=self.format.system) if defaults.system is None else defaults
        self.end_ids = frozenset(self.control[t] for t in self.format.ends if t in self.control)
        self.control_text = {i: t for t, i in self.control.items()}
        if len(self.control_text) != len(self.control) or any(backend.token_bytes(i) for i in self.control_text):
            raise ValueError("a control token shares its id with another token; hint: two files of different models?")
        self._bytes: dict[int, bytes] = {}
        longest_first = sorted(self.control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __deepcopy__(self, _: Any) -> Tokenizer:
        return self  # parsers that are copied share it

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Ids of a text. Control strings in it stay text unless `allow_special`.

        Raises ValueError for what is no text, or not valid Unicode (lone surrogates)."""
        if not isinstance(text, str):
            raise ValueError(f"text must be a str, got {type(text).__name__}; hint: decode bytes, or str(value)")
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
        """Text of ids; control tokens by their name, bytes that are no UTF-8 as U+FFFD.

        Raises ValueError for an id outside the vocabulary."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; none for padding. Raises ValueError for an id outside the
        vocabulary."""
        known = self._bytes.get(token_id)
        if known is None:
            text = self.control_text.get(token_id)
            known = text.encode("utf-8") if text is not None else self._backend.token_bytes(token_id)
            if known is None and hasattr(token_id, "__index__") and 0 <= token_id < self._model_size:
                known = b""
            if known is None:
                raise ValueError(
                    f"token id {token_id!r} is not in this vocabulary of {self.vocab_size}; "
                    "hint: the tokenizer files belong to another checkpoint"
                )
            self._bytes[token_id] = known
        return known

    def id_of(self, control_text: str) -> int | None:
        """The id of a control token; None when this tokenizer lacks it."""
        return self.control.get(control_text)

    @cached_property
    def marker_ids(self) -> MarkerIds:
        """The ids of the chat format's markers. Raises ValueError for a vocabulary that lacks
        them."""
        return resolve(self.format, self.control, self.encode)

    def with_defaults(self, defaults: ChatDefaults) -> Tokenizer:
        """The same tokens with another default system line or rule about thinking."""
        return Tokenizer(
            self._backend, self.control, self.vocab_size, self.visible, defaults, self.format, self._model_size
        )

    @property
    def longest(self) -> int:
        """The bytes of the longest learned token: text of n bytes has n / longest tokens at
        least."""
        return self._backend.longest

    def missing(self, size: int) -> tuple[int, ...]:
        """The ids below `size` that no token has, ascending: padding behind the vocabulary, holes
        within."""
        if len(self._backend.ids) + len(self.control_ids) == size == self.vocab_size:
            return ()
        return tuple(sorted(set(range(size)) - self._backend.ids - self.control_ids))

    def padded(self, size: int) -> Tokenizer:
        """The same tokens for a model of `size` ids: those that no token has decode to nothing."""
        return Tokenizer(self._backend, self.control, self.vocab_size, self.visible, self.defaults, self.format, size)

    def to_json(self) -> str:
        """An equivalent tokenizer.json. (A tiktoken tokenizer: 1.5 s, 8 MB.)"""
        return self._backend.to_json(self.control, self.visible)

    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json: what transformers needs, and our defaults."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{key: text for key, text in self.format.special.items() if text in self.control},
            "abruzzi": asdict(self.defaults),
        }

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json to a directory, from which `load` gives
        this back.

        A whole checkpoint has two more files: template.write_chat_files writes all four."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
        settings = json.dumps(self.settings(), indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(settings + "\n", encoding="utf-8")

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            return []
        if not self.defaults.cut_long_runs or len(text) <= MAX_RUN:
            return self._backend.encode(text)
        return [i for piece in _cut(text) for i in self._backend.encode(piece)]


def load(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, else tiktoken.model.

    Where config.json stands beside it, its vocab_size must hold every id. Raises ValueError with
    the path and a hint for files that are absent, damaged or of another kind."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"no such directory: {folder}; hint: give the directory that holds tokenizer.json")
    settings = _read_json(folder / "tokenizer_config.json")
    for file in (folder / "tokenizer.json", folder / "tiktoken.model", folder / "tokenizer_config.json"):
        if file.is_file() and _begins(file, b"version https://git-lfs"):
            raise ValueError(f"{file} is a git-lfs pointer: the file itself was not fetched; hint: git lfs pull")
    if (folder / "tokenizer.json").is_file():
        # Kimi's cuts belong to Kimi's own file; in a tokenizer.json they must be asked for.
        tok = _load_json(folder / "tokenizer.json", _defaults(folder, settings, ChatDefaults(cut_long_runs=False)))
    elif (folder / "tiktoken.model").is_file():
        tok = _load_tiktoken(folder / "tiktoken.model", settings, _defaults(folder, settings, ChatDefaults()))
    else:
        raise ValueError(f"{folder} holds neither tokenizer.json nor tiktoken.model; hint: download not complete?")
    _require_fit(folder, tok.vocab_size)
    return tok


def _begins(file: Path, first: bytes) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(first)) == first


def from_json(text: str, defaults: ChatDefaults = ChatDefaults(), where: str = "tokenizer.json") -> Tokenizer:
    """A tokenizer from the content of a tokenizer.json. Raises ValueError that says what is
    unsupported."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}; hint: fetch it again") from None
    return _from_data(data, defaults, where)


def from_gguf(metadata: Mapping[str, Any], where: str = "GGUF") -> Tokenizer:
    """A tokenizer from the metadata of a GGUF file (quant/gguf_file.py). Raises ValueError that says
    what is unsupported."""
    try:
        data = tokenizer_json(metadata)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    system = default_system(metadata.get("tokenizer.chat_template"))
    return _from_data(data, ChatDefaults(system, cut_long_runs=False), where)


def _from_data(data: Any, defaults: ChatDefaults, where: str) -> Tokenizer:
    backend = JsonBackend(data, where)
    control = {content: token_id for content, token_id, _ in backend.added}
    visible = frozenset(content for content, _, special in backend.added if not special)
    return Tokenizer(backend, control, max(backend.top_id, *control.values(), -1) + 1, visible, defaults)


def _load_json(file: Path, defaults: ChatDefaults) -> Tokenizer:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}; hint: fetch it again") from None
    return from_json(text, defaults, str(file))


def _load_tiktoken(file: Path, settings: dict[str, Any], defaults: ChatDefaults) -> Tokenizer:
    ranks = read_ranks(file)
    size = len(ranks) + KIMI_CONTROL_IDS
    names = {i: f"<|reserved_token_{i}|>" for i in range(len(ranks), size)}
    visible = set()
    where = f"{file.parent}/tokenizer_config.json"
    given = settings.get("added_tokens_decoder") or {}
    if not isinstance(given, dict):
        raise ValueError(f"{where}: added_tokens_decoder must be an object; hint: fetch it again")
    for key, token in given.items():
        content = token.get("content") if isinstance(token, dict) else None
        if not key.isdecimal() or int(key) not in names or not isinstance(content, str) or not content:
            raise ValueError(
                f"{where}: added token {key!r} ({content!r}) is not one of the reserved ids "
                f"{len(ranks)}..{size - 1}; hint: it belongs to another tiktoken.model"
            )
        names[int(key)] = content
        if not token.get("special"):
            visible.add(content)
    if len(set(names.values())) != len(names):
        raise ValueError(f"{where}: two added tokens share a name; hint: fetch it again")
    control = {t: i for i, t in names.items()}
    return Tokenizer(TiktokenBackend(ranks), control, size, frozenset(visible), defaults)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}; hint: fetch it again") from None
    if not isinstance(given, dict):
        raise ValueError(f"{file} holds {type(given).__name__}, expected an object; hint: fetch it again")
    return given


def _defaults(folder: Path, settings: dict[str, Any], otherwise: ChatDefaults) -> ChatDefaults:
    own = settings.get("abruzzi")
    if own is None:
        return otherwise
    try:
        read = replace(otherwise, **own)
    except TypeError:
        read = None
    kinds = () if read is None else tuple(map(type, asdict(read).values()))
    if read is None or kinds not in ((str, bool, bool), (type(None), bool, bool)):
        raise ValueError(
            f"{folder}/tokenizer_config.json: 'abruzzi' is {own!r}; expected an object with "
            f"{', '.join(asdict(otherwise))}; hint: it was written by another version"
        )
    return read


def _require_fit(folder: Path, vocab_size: int) -> None:
    config = _read_json(folder / "config.json")
    nested = config.get("text_config")
    rows = config.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
    if isinstance(rows, int) and vocab_size > rows:
        raise ValueError(
            f"{folder}: the tokenizer has {vocab_size} ids but the model {rows}; "
            "hint: the tokenizer files belong to another checkpoint"
        )


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

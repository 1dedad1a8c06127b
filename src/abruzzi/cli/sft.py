"""`abruzzi train sft`: supervised fine-tuning on one's own data; its options, base model and
preview of rows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abruzzi.arch import ModelConfig
    from abruzzi.data.packing import Conversation
    from abruzzi.recipes import Prepared
    from abruzzi.tokenizer import Tokenizer

# Trained tokens: green and bold where colours are wanted, else between these.
COLOUR, PLAIN = "\x1b[1;32m", "\x1b[0m"
OPEN, CLOSE = "\u27e6", "\u27e7"


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained on and from. dtype: how the source stores what is not INT4."""

    source: Path
    config: ModelConfig
    dtype: str
    tokenizer: Tokenizer
    conversations: list[Conversation]
    data: Path

    def notes(self) -> dict[str, Any]:
        """What a resumed run must agree in."""
        digest = hashlib.sha256(self.data.read_bytes()).hexdigest()
        return {"from": str(self.source), "data": str(self.data), "data_sha256": digest}


def material(data: Path | None, source: str | None, row_length: int | None) -> Material:
    """Read and check both. Raises ValueError and FileNotFoundError, each with a hint."""
    from abruzzi import tokenizer
    from abruzzi.checkpoint import open_checkpoint
    from abruzzi.cli.choose import checkpoint_path, is_url
    from abruzzi.data.conversations import read_conversations

    if data is None or source is None:
        absent = "--data FILE" if data is None else "--from MODEL"
        raise ValueError(f"{absent} is not given; hint: abruzzi train sft --data mine.jsonl --from nano --out DIR")
    if is_url(source):
        raise ValueError(f"--from {source} is a server; hint: training needs the weights, a directory or org/name")
    path = checkpoint_path(source)
    tok = tokenizer.load(path)
    with open_checkpoint(path) as checkpoint:
        config = checkpoint.config
        stored = {checkpoint.stored_dtype(n) for n in checkpoint.names() if n.endswith(".weight")} - {"int4"}
    dtype = "bfloat16" if stored <= {"bfloat16"} else "float32"
    longest = min(row_length or config.max_position_embeddings, config.max_position_embeddings)
    return Material(path, config, dtype, tok, read_conversations(data, tok, longest), data)


def prepare(given: Material, settings: Iterable[str]) -> Prepared:
    """The run, with everything that follows from --set steps and --set row_length fitted to
    them."""
    from abruzzi.recipes import sft
    from abruzzi.tokenizer import chat_files

    steps, row_length = number_in(settings, "steps"), number_in(settings, "row_length")
    pad = given.tokenizer.id_of(given.tokenizer.format.special["pad_token"])
    if pad is None:
        pad = given.config.eos_token_ids[0]
    files: dict[str, str | bytes] = dict(chat_files(given.tokenizer, max_context=given.config.max_position_embeddings))
    files |= carried(given.source)
    return sft.from_conversations(given.config, given.conversations, pad, files, steps, row_length)


def number_in(settings: Iterable[str], key: str) -> int | None:
    """The whole number that --set gives `key`, if any; what is wrong with it is said when settings
    are applied."""
    found = [s.partition("=")[2] for s in settings if s.partition("=")[0] == key]
    return int(found[-1]) if found and found[-1].isdigit() and int(found[-1]) else None


def carried(source: Path) -> Mapping[str, bytes]:
    """Tokenizer files, template and licence of the source as they are; its model card is not this
    model's."""
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
    names += ("tiktoken.model", "LICENSE", "NOTICE")
    return {name: (source / name).read_bytes() for name in names if (source / name).is_file()}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """A resumed run goes on with the same data and from the same model."""
    for key, what in (("data_sha256", "other data"), ("from", "another model to begin with")):
        if before.get(key) != now[key]:
            raise ValueError(
                f"{out} was started with {what} ({key} {before.get(key)} there, {now[key]} here); "
                "hint: --out DIR starts another run"
            )


def show(given: Material, count: int, colour: bool) -> None:
    """Print the first conversations as the model reads them, with what is trained coloured or
    between marks."""
    for number, conversation in enumerate(given.conversations[:count], 1):
        trained = sum(conversation.sampled)
        print(f"--- conversation {number}: {len(conversation.ids)} tokens, {trained} trained")
        print(marked(given.tokenizer, conversation, colour))
    total = sum(len(c.ids) for c in given.conversations)
    trained = sum(sum(c.sampled) for c in given.conversations)
    print(f"{len(given.conversations)} conversations, {total} tokens, {trained} trained", file=sys.stderr)


def marked(tok: Tokenizer, conversation: Conversation, colour: bool) -> str:
    """The text of a conversation; control tokens by name, a new line after each end of turn."""
    from abruzzi.cli.terminal import safe

    begin, end = (COLOUR, PLAIN) if colour else (OPEN, CLOSE)
    pieces: list[str] = []
    for trained, group in groupby(zip(conversation.ids, conversation.sampled), key=lambda pair: pair[1]):
        text = safe(tok.decode([i for i, _ in group]))
        pieces.append(begin + text + end if trained else text)
    ends = {tok.control_text[i] for i in tok.end_ids if i in tok.control_text}
    whole = "".join(pieces)
    for name in ends:
        whole = whole.replace(name + end, f"{name}{end}\n").replace(name + "<", f"{name}\n<")
    return whole.rstrip("\n")

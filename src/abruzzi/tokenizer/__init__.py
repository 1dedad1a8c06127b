"""Text and messages <-> token ids, and a stream of ids split into thinking, answer and tool calls."""

from __future__ import annotations

from abruzzi.tokenizer.bpe import ChatDefaults, Tokenizer, from_json, load
from abruzzi.tokenizer.chat import Rendered, generation_prefix, render
from abruzzi.tokenizer.parser import ChatParser, parse
from abruzzi.tokenizer.template import chat_files

__all__ = [
    "ChatDefaults",
    "ChatParser",
    "Rendered",
    "Tokenizer",
    "chat_files",
    "from_json",
    "generation_prefix",
    "load",
    "parse",
    "render",
]

"""Text and messages <-> token ids, and a stream of ids split into thinking, answer and tool calls.

tok = load(path)                        # a directory with tokenizer.json or tiktoken.model
rendered = render(tok, messages, tools) # rendered.ids for the model, rendered.sampled for the loss
message = parse(tok, completion_ids)    # goes back into `messages` as it is, ids and all
"""

from __future__ import annotations

from abruzzi.tokenizer.bpe import ChatDefaults, Tokenizer, from_gguf, from_json, load
from abruzzi.tokenizer.formats.parser import ChatParser, message_from_completion, parse
from abruzzi.tokenizer.formats.render import Rendered, generation_prefix, render
from abruzzi.tokenizer.formats.template import chat_files, write_chat_files

__all__ = [
    "ChatDefaults",
    "ChatParser",
    "Rendered",
    "Tokenizer",
    "chat_files",
    "from_gguf",
    "from_json",
    "generation_prefix",
    "load",
    "message_from_completion",
    "parse",
    "render",
    "write_chat_files",
]

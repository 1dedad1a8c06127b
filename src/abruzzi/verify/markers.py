"""Markers of a chat format that must not leak into an answer: think tags and control tokens of all
known models."""

from __future__ import annotations

import re

THINK_TAG = re.compile(r"</?think(?:ing)?>|◁/?think▷")
CONTROL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\[(?:BOS|EOS|EOT|PAD|UNK|/?INST)\]|</s>|<(?:start|end)_of_turn>"
    r"|</?tool_calls?>"
)

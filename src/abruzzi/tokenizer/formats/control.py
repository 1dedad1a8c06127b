"""The control tokens of Kimi's chat format, by name, and how a tokenizer is asked for them.

Ids differ between checkpoints, names do not (k2.md 5.1). Two things vary: a tokenizer may spell the
section tokens in the singular, and it may have no tokens for the think markers, which are then text.
"""

from __future__ import annotations

from abruzzi.tokenizer.bpe import Tokenizer

THINK, END_THINK = "<think>", "</think>"
SECTION, END_SECTION = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, END_CALL = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
IM_END, IM_MIDDLE = "<|im_end|>", "<|im_middle|>"
OPENERS = {"user": "<|im_user|>", "assistant": "<|im_assistant|>"}
SYSTEM_OPENER = "<|im_system|>"
NEEDED = (*OPENERS.values(), SYSTEM_OPENER, IM_MIDDLE, IM_END, SECTION, END_SECTION, CALL, ARGUMENTS, END_CALL)
PLURAL_OF = {"<|tool_call_section_begin|>": SECTION, "<|tool_call_section_end|>": END_SECTION}
SINGULAR_OF = {plural: singular for singular, plural in PLURAL_OF.items()}


def spelling(tok: Tokenizer, name: str) -> str:
    """How this tokenizer writes a control token: its name, or the singular of a section token."""
    singular = SINGULAR_OF.get(name)
    return singular if singular is not None and name not in tok.control and singular in tok.control else name


def marker(tok: Tokenizer, text: str) -> tuple[int, ...]:
    """A think marker: its token, or for tokenizers that have none its spelling."""
    token_id = tok.id_of(text)
    return (token_id,) if token_id is not None else tuple(tok.encode(text))


def spells_thinking(tok: Tokenizer) -> bool:
    """Whether a think marker is text to this tokenizer."""
    return tok.id_of(THINK) is None or tok.id_of(END_THINK) is None


def require_chat_tokens(tok: Tokenizer) -> None:
    """Raises ValueError when control tokens of the chat format are absent."""
    missing = [name for name in NEEDED if spelling(tok, name) not in tok.control]
    if missing:
        raise ValueError(
            f"this tokenizer lacks {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}; expected the control "
            "tokens of Kimi's chat format; hint: it is of another family, or its tokenizer_config.json is not there "
            "(encode and decode still work)"
        )
